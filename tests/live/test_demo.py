"""The demo, as `make demo` and `make pictures` run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.demo.stage import PLAYS
from lab import ROOT
from tests.conftest import Servers

MOMENTS = re.compile(r'class="moment"[^>]*>([^<]*)<')


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")
    }
    command = [sys.executable, "-m", "examples.demo", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.parametrize(
    ("engine", "pictures"), [("postgres", ["dashboard.svg", "demo.svg"]), ("mysql", ["demo.svg"])]
)
def test_the_demo_keeps_its_promises(
    engine: str, pictures: list[str], servers: Servers, tmp_path: Path
) -> None:
    """It checks each of its claims itself; it ends with the plot, on 80 columns, and the pictures
    that docs/ has.
    """
    assert servers[PLAYS[engine].server]
    done = demo(engine, "--into", str(tmp_path), *(["--dashboard"] if len(pictures) > 1 else []))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    paths = [str(tmp_path / name) for name in pictures]
    assert [
        line
        for line in done.stdout.splitlines()
        if len(line) > 80 and not line.endswith(tuple(paths))
    ] == []
    assert all(path in done.stdout for path in paths)
    plotted = done.stdout.partition("Connections over time\n")[2]
    assert " 16 │╌" in plotted
    assert "for real: 12 terminated" in plotted
    assert sorted(path.name for path in tmp_path.iterdir()) == pictures
    committed, drawn = (
        MOMENTS.findall((folder / "demo.svg").read_text()) for folder in (ROOT / "docs", tmp_path)
    )
    assert drawn == committed
    assert len(drawn) == 5
