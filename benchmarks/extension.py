"""What the extension adds to an environment: start-up and memory, beside the same in Python."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

from tests.deploy.extensions import Extended
from tests.deploy.lambdas import Code
from tests.unit.build import ROOT

ROUNDS = 15
EMPTY = "def handler(event, context):\n    return event\n"
# The least that Python needs for it: of its library the socket module alone.
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


def main() -> None:
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; {ROUNDS} rounds")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty.py").write_text(EMPTY)
        code = Code([folder], "empty.handler")
        for layer, what in ((ROOT / "extension", "the extension"), (in_python(folder), "the same in Python")):
            print(f"{what:20}", told([measured(code, layer) for _ in range(ROUNDS)]))


def in_python(folder: Path) -> Path:
    """A layer of its own with the script."""
    script = folder / "extensions" / "goodbye"
    script.parent.mkdir()
    script.write_text(IN_PYTHON.format(python=sys.executable))
    script.chmod(0o755)
    return folder


def measured(code: Code, layer: Path) -> dict[str, float]:
    """One environment's figures while its extension waits."""
    environment = Extended(code, layer)
    try:
        environment.invoke({})
        (extension,) = environment.extensions.values()
        return {"registered in ms": 1000 * environment.init_seconds, **memory(extension.pid)}
    finally:
        environment.close()


def memory(pid: int) -> dict[str, float]:
    """The kernel's sums over a process's mappings, in MB; the proportional one divides what several processes share."""
    _, *lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {name: int(size) / 1024 for name, size, _ in (line.replace(":", "").split() for line in lines)}
    return {"resident MB": sizes["Rss"], "proportional MB": sizes["Pss"]}


def told(samples: list[dict[str, float]]) -> str:
    """Each figure's median and its quartiles."""
    figures = {name: statistics.quantiles([sample[name] for sample in samples], n=4) for name in samples[0]}
    return "; ".join(f"{name} {middle:.1f} ({low:.1f} to {high:.1f})" for name, (low, middle, high) in figures.items())


if __name__ == "__main__":
    main()
