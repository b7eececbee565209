"""The packages of the function and of the layer, to the byte: `make pins` writes the hashes of all
files they have.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = ROOT / "requirements-dev.txt"
LAYER, FUNCTION = (
    ROOT / "reaper" / "client" / "requirements.txt",
    ROOT / "reaper" / "requirements.txt",
)
# What each asks for beyond the other; what these need is found. Up to Python 3.12 psycopg needs
# typing-extensions.
ROOTS = {
    LAYER: ("PyMySQL", "psycopg[binary]", "typing-extensions"),
    FUNCTION: ("aws-lambda-powertools",),
}
HEADS = {
    LAYER: "# What the client layer needs at run time, pinned; `make pins` writes this.\n",
    FUNCTION: "# What the function needs at run time, pinned; `make pins` writes this. boto3 "
    "comes with Lambda.\n"
    "-r client/requirements.txt\n",
}
# Nothing of this machine's own settings goes into the file: which index was asked is nobody's
# business.
_COMPILE = (
    *(
        "-m",
        "piptools",
        "compile",
        "--quiet",
        "--generate-hashes",
        "--no-reuse-hashes",
        "--strip-extras",
    ),
    *(
        "--no-header",
        "--no-annotate",
        "--no-emit-options",
        "--no-config",
        "--output-file",
        "-",
        "-",
    ),
)
_LINE = re.compile(r"(?P<name>[\w.-]+)==(?P<version>\S+)(?P<hashes>( --hash=sha256:[0-9a-f]{64})*)")


@dataclass(frozen=True)
class Pin:
    """One package at one version; its files are known by their SHA-256."""

    name: str
    version: str
    hashes: tuple[str, ...] = ()

    def __str__(self) -> str:
        hashes = "".join(f" \\\n    --hash=sha256:{found}" for found in self.hashes)
        return f"{self.name}=={self.version}{hashes}\n"


def read(path: Path) -> list[Pin]:
    """What a requirements file pins, with the files it includes.

    Raises ValueError for whatever is no pin.
    """
    found: list[Pin] = []
    for line in _lines(path.read_text(encoding="utf-8")):
        if line.startswith("-r "):
            found += read(path.parent / line.removeprefix("-r "))
        else:
            found.append(_parsed(line, path.name))
    return found


def plain(name: str) -> str:
    """A package's name as those are compared: PyMySQL and pymysql are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def renew() -> None:
    """Write both files anew: the versions are those of the development environment, the hashes the
    registry's.
    """
    layer = _compiled(ROOTS[LAYER])
    function = [
        pin for pin in _compiled(ROOTS[FUNCTION]) if pin.name not in {pin.name for pin in layer}
    ]
    for path, found in ((LAYER, layer), (FUNCTION, function)):
        path.write_text(HEADS[path] + "".join(map(str, found)), encoding="utf-8")


def _compiled(roots: tuple[str, ...]) -> list[Pin]:
    """The roots and what they need, as pip-tools resolves them."""
    asked = "".join(f"{root}\n" for root in roots)
    command = [sys.executable, *_COMPILE, "--constraint", str(VERSIONS)]
    done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603  our own
    return [_parsed(line, "pip-compile") for line in _lines(done.stdout)]


def _lines(text: str) -> Iterator[str]:
    """The lines as pip reads them: joined where one goes on in the next, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            yield " ".join(line.split())


def _parsed(line: str, where: str) -> Pin:
    if not (found := _LINE.fullmatch(line)):
        raise ValueError(f"{where} says {line!r}; a line is NAME==VERSION and its hashes")
    return Pin(
        plain(found["name"]), found["version"], tuple(re.findall(r"sha256:(\w+)", found["hashes"]))
    )
