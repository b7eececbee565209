"""SIGTERM: a process that is told to end closes its connections, so that its sessions end with it.

Lambda sends it to Python 3.12 and later, 300 ms before it kills, where an external extension is
registered; the layer in extension/ holds one. Without it an environment ends without a warning, and
its server never learns of it.
"""

from __future__ import annotations

import os
import signal
import traceback
import weakref
from types import FrameType
from typing import Any, NoReturn

from reaper.client.drivers.connection import Connection


class ShutdownHook:
    """What to close at SIGTERM, and the process's handler for it, which knows the one that was
    there before.
    """

    def __init__(self) -> None:
        self._open: weakref.WeakKeyDictionary[Connection, int] = weakref.WeakKeyDictionary()
        # The process whose handler was replaced; a forked child inherits both values.
        self._process = 0
        self._previous: Any = signal.SIG_DFL

    def remember(self, connection: Connection, wanted: bool | None) -> None:
        """Close the connection at SIGTERM: where that is wanted or, if nothing was said, inside
        Lambda.
        """
        if wanted or (wanted is None and _inside_lambda()):
            self._open[connection] = os.getpid()
            if not self._process:
                self._install()

    def _install(self) -> None:
        previous = signal.getsignal(signal.SIGTERM)
        # Installed by C code, and cannot be called from here.
        if previous is None:
            return
        try:
            signal.signal(signal.SIGTERM, self._on_sigterm)
        # Only the main thread may install one; perhaps it opens the next connection.
        except ValueError:
            return
        self._process, self._previous = os.getpid(), previous

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if _inside_lambda() and self._process == os.getpid():
            self._end(number, frame)
        try:
            # It decides whether the process ends, or finishes its work first.
            if callable(self._previous):
                self._previous(number, frame)
        except BaseException:
            self._close_idle()
            raise
        if self._previous is signal.SIG_DFL:
            self._close_idle()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _end(self, number: int, frame: FrameType | None) -> NoReturn:
        """Lambda kills in a moment, so closing comes before everything else."""
        self._close_idle()
        try:
            if callable(self._previous):
                self._previous(number, frame)
        except Exception:  # noqa: BLE001  nobody is left to raise it to
            traceback.print_exc()
        finally:
            # That handler may have used a database.
            self._close_idle()
            # sys.exit would wait for the thread in which the runtime client asks for the next
            # event.
            os._exit(0)

    def _close_idle(self) -> None:
        """Close what is idle. Takes no lock: the frame that was interrupted may hold it.

        What is in the middle of a statement ends with the process: a goodbye could land inside a
        packet.
        """
        for reference in self._open.keyrefs():
            connection = reference()
            if connection is None:
                continue
            process = self._open[connection]
            # A forked child must not end its parent's.
            if process == os.getpid() and connection.is_idle():
                connection.close()


def _inside_lambda() -> bool:
    return "AWS_LAMBDA_RUNTIME_API" in os.environ


SHUTDOWN_HOOK = ShutdownHook()
