"""Measurements, each reproduced by a command: `python -m benchmarks NAME`."""
