"""What the extension adds to an environment, in start-up time and memory, compared with the same in
Python.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from lab import ROOT
from lab.extensions import Extended
from lab.lambdas import Code

from .base import Effort, Section, Spread, Table, interleaved

ROUNDS = 15
EMPTY = "def handler(event, context):\n    return event\n"
# The least that Python needs for the same: only the socket module of its library.
IN_PYTHON = """#!{python} -IS
import os, socket, sys
host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
def ask(*lines):
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall("\\r\\n".join((*lines, "")).encode())
        return connection.makefile().read()
answer = ask("POST /2020-01-01/extension/register HTTP/1.1", "Host: " + host, "Connection: close",
             "Lambda-Extension-Name: " + os.path.basename(sys.argv[0]), "Content-Length: 26", "",
             '{{"events": ["SHUTDOWN"]}}')
identifier = answer.split("Lambda-Extension-Identifier: ")[1].split()[0]
ask("GET /2020-01-01/extension/event/next HTTP/1.1", "Host: " + host, "Connection: close",
    "Lambda-Extension-Identifier: " + identifier, "")
"""


def measure(effort: Effort) -> list[Section]:
    section = Section("The extension")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty.py").write_text(EMPTY)
        code = Code([folder], "empty.handler")
        layers = {"the extension": ROOT / "extension", "the same in Python": in_python(folder)}
        ways = {what: partial(measured, code, layer) for what, layer in layers.items()}
        taken = interleaved(ways, effort.rounds(ROUNDS))
    figures = list(taken["the extension"][0])
    rows = []
    for what, samples in taken.items():
        rows.append(
            [what, *(Spread([found[figure] for found in samples]).told(1) for figure in figures)]
        )
    section.tables.append(Table("What it adds to an environment", ("", *figures), rows))
    section.notes.append(
        "The time is from its start to its registration, which a cold start waits for. The "
        "proportional size divides "
        "what several processes share."
    )
    section.raw = dict(taken)
    return [section]


def in_python(folder: Path) -> Path:
    """A layer that contains the script."""
    script = folder / "extensions" / "goodbye"
    script.parent.mkdir()
    script.write_text(IN_PYTHON.format(python=sys.executable))
    script.chmod(0o755)
    return folder


def measured(code: Code, layer: Path) -> dict[str, float]:
    """The figures of one environment while its extension waits."""
    environment = Extended(code, layer)
    try:
        environment.invoke({})
        (extension,) = environment.extensions.values()
        return {"registered in ms": 1000 * environment.init_seconds, **memory(extension.pid)}
    finally:
        environment.close()


def memory(pid: int) -> dict[str, float]:
    """The kernel's sums over a process's mappings, in MB; the proportional one divides what several
    processes share.
    """
    _, *lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {
        name: int(size) / 1024
        for name, size, _ in (line.replace(":", "").split() for line in lines)
    }
    return {"resident MB": sizes["Rss"], "proportional MB": sizes["Pss"]}
