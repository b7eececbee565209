"""Start processes that end with the test run, however that run ends."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

Process = subprocess.Popen[Any]


class Run:
    """What this process started and has not ended yet.

    The warden does the same work when this process is killed. A pipe, not PR_SET_PDEATHSIG: that
    one fires when the *thread* that started the child ends, and is cleared by `unshare -U`.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.folder = Path(tempfile.mkdtemp(prefix="reaper-tests-"))
        self.live: dict[int, tuple[Process, signal.Signals]] = {}
        script = Path(__file__).with_name("warden.py")
        self.warden = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        atexit.register(self.end)
        os.register_at_fork(after_in_child=self.hang_up)

    def tell(self, pid: int, last_signal: int) -> None:
        assert self.warden.stdin is not None
        self.warden.stdin.write(f"{pid} {last_signal}\n".encode())

    def hang_up(self) -> None:
        assert self.warden.stdin is not None
        self.warden.stdin.close()

    def end(self) -> None:
        # The exit of a forked child is not the end of the run
        if os.getpid() != self.pid:
            return
        for process, last_signal in list(self.live.values()):
            end(process, last_signal)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.hang_up()
        self.warden.wait(timeout=30)


_lock = threading.RLock()


@cache
def _run() -> Run:
    return Run()


def run() -> Run:
    with _lock:
        return _run()


def spawn(
    command: Sequence[str], last_signal: signal.Signals = signal.SIGKILL, **options: Any
) -> Process:
    """Start a process in a session of its own (so that Ctrl-C reaches only the tests)."""
    current = run()
    process: Process = subprocess.Popen(command, start_new_session=True, **options)
    with _lock:
        current.live[process.pid] = (process, last_signal)
        current.tell(process.pid, last_signal)
    return process


def end(
    process: Process, with_signal: signal.Signals = signal.SIGKILL, timeout: float = 30
) -> None:
    """Return when the process is gone: at its own pace up to `timeout`, then by SIGKILL."""
    process.send_signal(with_signal)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with _lock:
        if run().live.pop(process.pid, None):
            run().tell(process.pid, 0)


def freeze(process: Process) -> bool:
    """Stop it as Lambda stops an environment between two invocations, and return when it stands
    still: False if it has ended instead.
    """
    process.send_signal(signal.SIGSTOP)
    # WNOWAIT: the status of one that has ended is left for whoever asks for it
    seen = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return seen is not None and seen.si_code == os.CLD_STOPPED


def thaw(process: Process) -> None:
    """Let a frozen process go on where it was stopped."""
    process.send_signal(signal.SIGCONT)
