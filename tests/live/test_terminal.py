"""How the command line behaves in a shell: terminals, pipes, completion, and what is not
installed.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from importlib.metadata import entry_points, version

import pytest

from lab.servers import Sessions, free_port
from tests.conftest import Servers

from .test_cli import dsn, reaper

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
SIZE = ("size", "--engine", "postgres", "--memory", "8GiB", "--function", "checkout=50,200ms,20ms")


def on_a_terminal(*arguments: str, **environ: str) -> str:
    """What somebody at a terminal of 80 columns sees."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from reaper.cli import main; main()", *arguments]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environ}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        # Linux's word for the end: nobody holds the other side any more
        except OSError:
            pass
        process.wait()
    os.close(ours)
    return shown.decode()


def test_colours_are_for_terminals(servers: Servers) -> None:
    """A terminal gets colours, unless NO_COLOR says no; a pipe gets plain text."""
    address = dsn(servers["postgres16"])
    assert COLOUR.search(on_a_terminal("advise", address))
    assert not COLOUR.search(on_a_terminal("advise", address, NO_COLOR="1"))
    assert "\x1b" not in reaper("advise", address).stdout


def test_tables_fit_80_columns(servers: Servers) -> None:
    """Where names are long they give way; who, how long, why and what happened stay whole."""
    server = servers["postgres16"]
    name = "a_role_with_quite_a_long_name"
    server.query(f"CREATE ROLE {name} LOGIN")
    try:
        with Sessions(server) as sessions:
            (client,) = sessions.sleeping(
                1, user=name, application="an-application-with-a-long-name"
            )
            done = reaper("scan", dsn(server), "--idle", "0s", "--allow-user", name)
    finally:
        server.query(f"DROP ROLE {name}")
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines), done.stdout
    (row,) = [line for line in lines if line.startswith(str(client.id))]
    assert re.search(r"a_ro\S*…", row)
    assert re.search(r" \d+s +idle +would_terminate$", row)


def test_sizing_fits_80_columns_and_shows_its_arithmetic() -> None:
    """Every line of the sum stands with how it was reckoned."""
    done = reaper(*SIZE)
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "LEAST(8 GiB / 9531392, 5000)",
        "50/s x 200ms, by Little's law",
        "10 + 3 x sqrt(10)",
    ):
        assert words in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if "https://" not in line)
    document = json.loads(reaper(*SIZE, "--json").stdout)
    assert document["functions"]["checkout"]["reserved_concurrency"]["value"] == 20


def test_a_pipe_that_closes_early() -> None:
    """`reaper … | head -1`: whoever reads has seen enough, and nobody complains."""
    script = 'set -o pipefail; "$0" -c \'from reaper.cli import main; main()\' "$@" | true'
    done = subprocess.run(
        ["/bin/bash", "-c", script, sys.executable, *SIZE, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_version() -> None:
    """--version names the installed one."""
    done = reaper("--version")
    assert (done.returncode, done.stdout) == (0, f"reaper {version('reaper')}\n")


def test_nothing_asked_is_help() -> None:
    """Without a command: the list of commands, and exit status 2."""
    done = reaper()
    assert done.returncode == 2
    assert {"scan", "kill", "advise", "size"} <= {
        line.split()[0] for line in done.stdout.splitlines() if line.strip()
    }


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("reaper ad", ["advise"]),
        ("reaper scan or", ["orders"]),
        ("reaper size --inst", ["--instance-class"]),
    ],
)
def test_completion(typed: str, completed: list[str]) -> None:
    """The shell completes commands, options, and the names of targets."""
    targets = [
        {"name": name, "engine": "mysql", "host": "db", "user": "reaper"}
        for name in ("orders", "stock")
    ]
    done = reaper(
        _REAPER_COMPLETE="complete_bash",
        COMP_WORDS=typed,
        COMP_CWORD=str(typed.count(" ")),
        REAPER_TARGETS=json.dumps(targets),
    )
    assert done.stdout.split() == completed


def test_completion_of_a_broken_list_is_silent() -> None:
    """While somebody types, a mistake in REAPER_TARGETS is nobody's news; the command itself tells
    it.
    """
    environ = {
        "_REAPER_COMPLETE": "complete_bash",
        "COMP_WORDS": "reaper scan or",
        "COMP_CWORD": "2",
    }
    done = reaper(REAPER_TARGETS="[", **environ)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_an_interrupted_command_says_so(silent_port: int) -> None:
    """Ctrl-C ends it without a traceback, with the shell's own status for that."""
    address = f"postgresql://reaper@127.0.0.1:{silent_port}/"
    command = [sys.executable, "-c", "from reaper.cli import main; main()", "scan", address]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=3)
        process.send_signal(2)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra(missing: str) -> None:
    """Where the command line's own packages are not installed, one line says how to get them."""
    script = (
        f"import sys; sys.modules['{missing}'] = None; from reaper.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert (
        done.stderr == f"reaper: {missing} is missing, as the command line needs it; pip install "
        f"'reaper[cli]'\n"
    )


def test_python_m_reaper() -> None:
    """The package runs as a module, too."""
    lost = f"mysql://reaper@127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, "-m", "reaper", "scan", lost], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "unreachable" in done.stderr) == (1, True)
    assert entry_points(group="console_scripts")["reaper"].value.startswith("reaper.")
