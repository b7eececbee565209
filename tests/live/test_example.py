"""What people copy works: the example function, and the code that the README shows beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import pytest
from cfnlint.api import lint_file  # type: ignore[import-untyped]  # ships no types

from lab import ROOT
from lab.context import Context
from lab.servers import Server
from tests.live.test_client import dead, end, fresh_tables, session

# performance_schema means nothing to the client
LEFT_OUT = ("mysql_nops",)

FUNCTION = ROOT / "examples" / "function"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_own_tests_pass(server: Server) -> None:
    """The example's tests, run as its README says: in its folder, on the database that DATABASE_URL
    names.
    """
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environ = os.environ | {"DATABASE_URL": server.dsn("app")}
    done = subprocess.run(
        command, cwd=FUNCTION, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_its_template_is_sound() -> None:
    """cfn-lint, which translates it as SAM does, has nothing to say."""
    assert lint_file(FUNCTION / "template.yaml") == []


def shown(heading: str) -> list[str]:
    """The Python blocks of one section of the README."""
    section = re.split(
        r"^#+ ", README.split(f"\n### {heading}\n")[1], maxsplit=1, flags=re.MULTILINE
    )[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


BEFORE, AFTER = shown("In five minutes")
(ORM,) = shown("With an ORM")


def loaded(code: str) -> dict[str, Any]:
    """The module, as Lambda loads it on a cold start."""
    module: dict[str, Any] = {"__name__": "handler"}
    exec(code, module)  # noqa: S102  it is our own README
    return module


def test_before_it_fails(mysql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's "before" runs, and fails for good once the server has ended its connection."""
    where = {
        "HOST": mysql.host,
        "PORT": mysql.port,
        "USER": "app",
        "PASSWORD": mysql.password,
        "NAME": "shop",
    }
    for name, value in where.items():
        monkeypatch.setenv(f"DB_{name}", str(value))
    module = loaded(BEFORE)
    assert module["lambda_handler"]({"item": 1}, Context())["value"] > 0
    end(mysql, module["connection"].thread_id())
    for _ in range(2):
        with pytest.raises(pymysql.Error):
            module["lambda_handler"]({"item": 1}, Context())


@pytest.mark.parametrize("code", [AFTER, ORM], ids=["after", "orm"])
def test_after_it_does_not(server: Server, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's "after" and its ORM's code: the same end of the connection is not noticed."""
    fresh_tables(server)
    monkeypatch.setenv("DATABASE_URL", server.dsn("app"))
    module = loaded(code)
    with closing(module["db"]) as db:
        assert module["lambda_handler"]({"item": 1}, Context()) in (1, {"value": 1})
        end(server, session(db))
        dead(db)
        assert module["lambda_handler"]({"item": 1}, Context()) in (2, {"value": 2})


@pytest.mark.parametrize("folder", [ROOT, FUNCTION], ids=["whole", "example"])
def test_the_token_table_is_printed(folder: Path) -> None:
    """The command that prints the token table's SQL, as it stands in either README."""
    (script,) = re.findall(r"python -c '(.*?)'", (folder / "README.md").read_text(encoding="utf-8"))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "CREATE TABLE IF NOT EXISTS reaper_tokens" in done.stdout
