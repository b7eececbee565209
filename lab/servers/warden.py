"""A script that kills what a test run started and removes its folder once the run is gone, which it
learns from a pipe.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path


def main(folder: str) -> None:
    watched: dict[int, int] = {}
    # Ends when the run has ended, even by SIGKILL: the kernel closes its end of the pipe
    for line in sys.stdin:
        pid, last_signal = map(int, line.split())
        watched[pid] = last_signal
        if not last_signal:
            del watched[pid]
    for pid, last_signal in watched.items():
        with suppress(ProcessLookupError):
            os.kill(pid, last_signal)
    deadline = time.monotonic() + 10
    while any(map(exists, watched)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in filter(exists, watched):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def exists(pid: int) -> bool:
    """Whether it runs. A zombie does not count: in some containers nothing ever reaps it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # It is gone meanwhile, or the system has no /proc
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


if __name__ == "__main__":
    main(sys.argv[1])
