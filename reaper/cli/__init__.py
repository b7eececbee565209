"""The operator's command line: scan, kill, replay, grants, advise, size."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

import typer
from typer.exceptions import TyperException

from reaper.cli.commands import BAD_USAGE, DONE, SWEEP_FAILED, app
from reaper.cli.render import complain
from reaper.client.fields import ConfigurationError

__all__ = ["BAD_USAGE", "DONE", "SWEEP_FAILED", "app", "main"]

# As a shell says it of Ctrl-C.
_INTERRUPTED = 130


def main() -> None:
    """The console script: every expected error is one line, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # Otherwise a name in letters that it does not have would be an error.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_status())


def _status() -> int:
    try:
        status = app(prog_name="reaper", standalone_mode=False)
        sys.stdout.flush()
    except ConfigurationError as problem:
        complain(str(problem))
        return BAD_USAGE
    except TyperException as problem:
        context = getattr(problem, "ctx", None)
        see = context.command_path if context else "reaper"
        complain(f"{' '.join(problem.format_message().split())} See {see} --help")
        return problem.exit_code
    except typer.Abort:
        complain("stopped")
        return _INTERRUPTED
    # Whoever read our output has seen enough; the flush at exit must not complain either.
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return status or DONE
