"""Modules compiled ahead, in what `sam build` made: Lambda cannot write them, and would compile at
each cold start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

_CACHE = "__pycache__"


def add(build: Path) -> list[str]:
    """Compile all modules of a build by the Python of its runtime; returns what there is to say to
    whoever builds.

    Each is bound to its source by a hash, so that one whose source was edited afterwards is not
    used, and names its source as Lambda unpacks it. Another version of Python does not look at
    them.
    """
    said = []
    for folder, python, unpacked_at in _parts(build):
        for stale in [*folder.rglob(_CACHE)]:
            shutil.rmtree(stale)
        if interpreter := shutil.which(python):
            _compile(interpreter, folder, unpacked_at)
        else:
            said.append(
                f"{python} is not on the PATH: {folder.name} is built, and compiles at each cold "
                f"start"
            )
    return said


def _parts(build: Path) -> Iterator[tuple[Path, str, str]]:
    """Each folder with code, the name of the Python that will run it, and where Lambda unpacks
    it.
    """
    built = tomllib.loads((build.parent / "build.toml").read_text(encoding="utf-8"))
    for definition in built["function_build_definitions"].values():
        for name in definition["functions"]:
            yield build / name, definition["runtime"], "/var/task"
    for definition in built["layer_build_definitions"].values():
        yield build / definition["layer"], definition["build_method"], "/opt"


def _compile(interpreter: str, folder: Path, unpacked_at: str) -> None:
    subprocess.run(  # noqa: S603  a Python of this machine and a folder of ours
        [
            *(interpreter, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash"),
            *("-s", str(folder), "-p", unpacked_at, str(folder)),
        ],
        # The order of a set among the constants
        env={**os.environ, "PYTHONHASHSEED": "0"},
        check=True,
    )
