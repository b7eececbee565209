"""What tests, benchmarks and the demo share: real servers, a proxy, frozen processes, imitations of
Lambda and CloudFormation.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
