"""What the project is tried on: real servers, a proxy, frozen processes, Lambda and CloudFormation
imitated.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
