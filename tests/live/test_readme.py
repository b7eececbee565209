"""Every command that the pages show is run here, or by the test that is named here, or needs an
account of AWS.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import typer.core
import typer.main
from botocore import xform_name
from botocore.validate import ParamValidator

from lab import ROOT
from lab.artifact import SAM
from lab.cloudformation import source
from lab.context import Context
from lab.servers import Server, Sessions, Unavailable, start
from lab.targets import target
from reaper import cli
from reaper.environment import targets_from_environ
from reaper.request.events import parse
from reaper.rules import Rules
from tests.conftest import Servers
from tests.live import test_example

from .account import USER, granted
from .pages import CONSOLE, SHELL, Command, blocks, commands, in_text, shown_by, statements
from .test_client import fresh_tables, orders

# performance_schema means nothing to what is run here
LEFT_OUT = ("mysql_nops",)

COMMANDS = commands()
README = ROOT / "README.md"
STACK = tomllib.loads((ROOT / "samconfig.toml").read_text())["default"]["global"]["parameters"][
    "stack_name"
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

GOALS_OF_AWS = "tests/deploy/test_tooling.py::test_make_says_what_a_person_would_type"
DEMO = "tests/live/test_demo.py::test_the_demo_keeps_its_promises"
# Goals of make are asked what they would do; that it works is shown by these.
MADE = {
    "demo": DEMO,
    "pictures": DEMO,
    # `make test` runs it first
    "check": "",
    # Runs this
    "test": "",
    "ledger": "tests/hardening/test_ledger.py::test_the_books_balance",
    "bench": "tests/bench/test_ratios.py::test_a_warm_statement_is_one_round_trip",
    "mutants": "tests/unit/test_mutation.py::test_a_mutant_is_told_from_a_survivor",
    # The tests of `make test`, watched
    "coverage": "",
    "build": (
        "tests/deploy/test_artifact.py::test_modules_are_compiled_for_the_python_that_runs_them"
    ),
    "soak": "tests/deploy/test_soak.py::test_the_reaper_does_not_grow",
    "package": "tests/deploy/test_release.py::test_the_same_tree_makes_the_same_bytes",
    "sbom": "tests/deploy/test_release.py::test_the_bill_of_materials",
    "audit": "tests/deploy/test_tooling.py::test_weaknesses_are_asked_for",
    "pins": "tests/deploy/test_release.py::test_the_files_are_as_make_pins_writes_them",
    "licences": "tests/deploy/test_release.py::test_the_licences_are_listed",
    **dict.fromkeys(
        ("ca-bundle", "deploy", "invoke-dry-run", "invoke-kill", "invoke-advise"), GOALS_OF_AWS
    ),
}
# What is run elsewhere as it stands on the page.
RUN_BY = {
    "sam build": (
        "tests/deploy/test_artifact.py::test_the_function_is_the_package_and_what_it_needs"
    ),
    "python -c": "tests/live/test_example.py::test_the_token_table_is_printed",
    "python -m pytest": "tests/live/test_example.py::test_its_own_tests_pass",
}
SHOWN_BY = {
    "sql": "tests/live/test_grants.py::test_the_readme_shows_what_is_printed",
    "json": "tests/unit/test_docs.py::test_the_report_example_has_every_key",
    "jsonc": "tests/unit/test_fleet.py::test_the_readme_knows_the_fleet",
}
# What no test can run, why, and what the page says of the answer; what is offline in it is checked.
NOT_HERE = {
    "sam deploy": ("makes a stack in an account", "Successfully created/updated stack - "),
    "sam remote invoke": ("calls the deployed function", "Invoking Lambda Function "),
    "sam delete": ("removes the stack", "Deleted successfully"),
    "aws secretsmanager create-secret": ("makes a secret", "ARN"),
    "aws secretsmanager delete-secret": ("removes it", "DeletionDate"),
    "aws lambda add-permission": ("gives leave to call the deployed function", "Statement"),
    "aws lambda list-layer-versions": ("asks for what was deployed", "LayerVersions"),
    "aws lambda delete-layer-version": ("removes what was deployed", ""),
    "curl": ("fetches a file from AWS", ""),
    "pip install": ("asks the package index; `make` has run it with every extra", ""),
    "python -m benchmarks": ("measures, alone, for minutes", ""),
}


def test_every_test_that_is_named_exists() -> None:
    """Whatever is said to be run elsewhere is, by a test that is there."""
    for named in {*MADE.values(), *RUN_BY.values(), *SHOWN_BY.values()} - {""}:
        path, _, name = named.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, named


def test_every_list_is_needed() -> None:
    """What no page says any more is not excused either."""
    said = [str(command) for command in COMMANDS]
    for begins in [*NOT_HERE, *RUN_BY]:
        assert any(command.startswith(begins) for command in said), begins
    assert set(MADE) == {command.words[1] for command in COMMANDS if command.program == "make"}


def test_the_commands_are_found() -> None:
    """The tests below would prove nothing of commands that are not seen."""
    said = {str(command) for command in COMMANDS}
    assert {
        "make demo",
        "sam deploy --guided",
        "reaper scan orders --idle 1m",
        "reaper replay FILE",
    } <= said
    assert {command.page.name for command in COMMANDS} >= {
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    }
    assert len(said) > 50


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_command(command: Command, request: pytest.FixtureRequest) -> None:
    """Each works as it is written, or is told apart above with the reason; no other is on a
    page.
    """
    assert command.program in CHECKS, f"no test runs: {command}"
    CHECKS[command.program](command, request)


# The command line


@pytest.fixture(scope="module")
def operator(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Somebody whose target `orders` is a real server, and who has saved a snapshot of it."""
    folder = tmp_path_factory.mktemp("operator")
    targets = json.dumps([target(servers["postgres18"], name="orders")])

    def types(*arguments: str, **environ: str) -> str:
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith("REAPER_")
        }
        done = subprocess.run(
            [sys.executable, "-m", "reaper", *arguments], cwd=folder, env=clean | {"REAPER_TARGETS":
            targets} | environ,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    types("scan", "orders", "--save", "before.json")
    return types


MEANT = {"TARGET...": "orders", "FILE": "before.json", "E": "postgres"}
# What a table leaves to the options below it, and what somebody at a terminal would answer.
WITH = {"size --engine E": ("--memory", "8GiB"), "kill": ("--yes",)}


def _reaper(command: Command, request: pytest.FixtureRequest) -> None:
    arguments = command.arguments
    if command.in_a_line and all(word.startswith("-") for word in arguments[1:]):
        _is_named(*arguments)
        return
    words = [MEANT.get(word, word) for word in arguments]
    words += next(
        (more for begins, more in WITH.items() if " ".join(arguments).startswith(begins)), ()
    )
    assert request.getfixturevalue("operator")(*words)


def _is_named(name: str, *options: str) -> None:
    """The sentence speaks of a command and some options that there are."""
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    known = {spelling for parameter in group.commands[name].params for spelling in parameter.opts}
    assert set(options) <= known


def _export(command: Command, request: pytest.FixtureRequest) -> None:
    variable, _, value = command.words[1].partition("=")
    assert [entry.name for entry in targets_from_environ({variable: value})] == ["orders"]


def test_sizing_is_what_is_shown(operator: Callable[..., str]) -> None:
    """The README's sum is what the command prints, on 80 columns."""
    (command,) = [
        command
        for command in COMMANDS
        if str(command).startswith("reaper size") and not command.in_a_line
    ]
    told = operator(*command.arguments, COLUMNS="80")
    assert [line.rstrip() for line in told.splitlines()] == shown_by("reaper size").splitlines()


# As on RDS: the last but one setting is known there alone, so that nobody advises what only its
# provider can reserve.
SET_WELL = {
    "max_connections": "100",
    "idle_in_transaction_session_timeout": "300000",
    "transaction_timeout": "900000",
    "tcp_keepalives_idle": "300",
    "tcp_keepalives_interval": "60",
    "tcp_keepalives_count": "6",
    "rds.extensions": "none",
}


def test_advice_is_what_is_shown(operator: Callable[..., str]) -> None:
    """The README's advice is what the command prints on a server that is set so; obeyed, nothing is
    left to change.
    """
    try:
        server = start("postgres18", settings=SET_WELL)
    except Unavailable as problem:
        pytest.skip(str(problem))
    with server, Sessions(server) as sessions:
        sessions.sleeping(1)
        environ = {"REAPER_TARGETS": json.dumps([target(server, name="orders")]), "COLUMNS": "80"}
        assert operator("advise", "orders", **environ) == shown_by("reaper advise")
        for statement in re.findall(r"^    (ALTER .*);$", shown_by("reaper advise"), re.MULTILINE):
            server.query(statement)
        assert operator("advise", "orders", **environ) == "orders: nothing to change\n"


def test_a_scan_looks_as_shown(operator: Callable[..., str], servers: Servers) -> None:
    """The README's table has the columns, and the lines below it the words, that a scan prints."""
    with Sessions(servers["postgres18"]) as sessions:
        sessions.sleeping(2)
        told = operator("scan", "orders", "--idle", "0s", "--allow-user", "app", COLUMNS="80")
    shown = shown_by("reaper scan orders --idle")
    assert told.split("\n")[0].split() == shown.split("\n")[0].split()
    for line in (
        r"^orders: \d+ of \d+ connections used \(\d+%\), routine$",
        r"^  \d+ zombies: \d+ would_terminate$",
    ):
        assert [len(re.findall(line, text, re.MULTILINE)) for text in (told, shown)] == [1, 1], line


# What stands around it


def _make(command: Command, request: pytest.FixtureRequest) -> None:
    """It knows the goal, and what it would run is there."""
    assert command.words[1] in MADE, f"no test is named for: {command}"
    if not shutil.which("make"):
        pytest.skip("there is no make")
    # Under `make test`
    without = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    dry = ["make", "--dry-run", "--always-make", *command.arguments]
    done = subprocess.run(dry, cwd=ROOT, env=without, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _are_there(done.stdout)


def _are_there(recipe: str) -> None:
    """Modules, `benchmarks fleet` being benchmarks.fleet, and files."""
    for module in re.findall(r"-m (benchmarks [a-z_]+|\w[\w.]*)", recipe):
        assert find_spec(module.replace(" ", ".")), module
    for path in re.findall(r"(?:^|\s)((?:tests|events|benchmarks)/\S+|requirements\S*)", recipe):
        assert (ROOT / path).exists(), path


def _sam(command: Command, request: pytest.FixtureRequest) -> None:
    """Its options are SAM's, and what they name is this project's."""
    what = " ".join(
        word for word in command.arguments if re.fullmatch("[a-z]+", word) and word != STACK
    )
    assert f"sam {what}" in {*NOT_HERE, *RUN_BY}, f"neither run nor excused: {command}"
    assert command.option("--stack-name") in (None, STACK)
    assert {word for word in command.arguments if word.endswith("Function")} <= source()[
        "Resources"
    ].keys()
    if text := command.option("--event"):
        assert parse(json.loads(text))
    if file := command.option("--event-file"):
        assert parse(json.loads((ROOT / file).read_text()))
    if SAM.exists():
        assert {word for word in command.words if word.startswith("--")} <= _options_of_sam(what)


@cache
def _options_of_sam(what: str) -> set[str]:
    told = subprocess.run(
        [SAM, *what.split(), "--help"], capture_output=True, text=True, check=True
    ).stdout
    return set(re.findall(r"--[a-z-]+", told))


def _aws(command: Command, request: pytest.FixtureRequest) -> None:
    """Its options are the operation's, with all that it wants, as botocore's model has them; so is
    its answer.
    """
    service, name = command.arguments[:2]
    assert f"aws {service} {name}" in NOT_HERE, f"neither run nor excused: {command}"
    _, answer = NOT_HERE[f"aws {service} {name}"]
    model = botocore.session.get_session().get_service_model(service)
    operation = model.operation_model(
        next(known for known in model.operation_names if xform_name(known, "-") == name)
    )
    members = operation.input_shape.members
    spelled = {f"--{xform_name(member, '-')}": member for member in members}
    given = dict(zip(command.arguments[2::2], command.arguments[3::2], strict=True))
    parameters = {spelled[option]: value for option, value in given.items()}
    typed = {
        name: int(value) if members[name].type_name == "long" else value
        for name, value in parameters.items()
    }
    report = ParamValidator().validate(typed, operation.input_shape)
    assert not report.has_errors(), report.generate_report()
    assert not answer or answer in operation.output_shape.members
    assert typed.get("LayerName", f"{STACK}-client") == f"{STACK}-client"
    if secret := parameters.get("SecretString"):
        assert json.loads(secret).keys() == {"username", "password"}


def _pip(command: Command, request: pytest.FixtureRequest) -> None:
    """The folder is this project's, and the extras are there."""
    assert f"pip {command.words[1]}" in NOT_HERE
    path, _, extra = command.words[-1].rstrip("]").partition("[")
    assert (command.page.parent / path / "pyproject.toml").resolve() == ROOT / "pyproject.toml"
    assert not extra or extra in PROJECT["optional-dependencies"]


def _python(command: Command, request: pytest.FixtureRequest) -> None:
    # a part of this suite
    if command.arguments[:2] == ("-m", "pytest") and command.arguments[2:]:
        folder, word = ROOT / command.arguments[2], command.option("-k") or ""
        assert any(word in path.stem for path in folder.glob("test_*.py"))
        return
    assert str(command).startswith((*RUN_BY, *NOT_HERE)), f"neither run nor excused: {command}"
    _are_there(str(command))


def _curl(command: Command, request: pytest.FixtureRequest) -> None:
    """The address is the one that `make ca-bundle` asks."""
    assert command.words[-1] in (ROOT / "Makefile").read_text().split()


def _psql(command: Command, request: pytest.FixtureRequest) -> None:
    """The whole line, in a shell, in the page's folder."""
    server = request.getfixturevalue("servers")["postgres18"]
    if not server.own:
        pytest.skip("its DSN may have what psql does not know")
    database = "readme_example"
    server.query(f"CREATE DATABASE {database} OWNER app")
    try:
        programs = [
            str(Path(sys.executable).parent),
            str(getattr(server.kind, "programs", "")),
            os.environ["PATH"],
        ]
        environ = os.environ | {
            "PATH": ":".join(programs),
            "DATABASE_URL": server.dsn("app", database),
        }
        script = (
            f"set -eo pipefail; export PGOPTIONS='-c client_min_messages=warning'; {command.text}"
        )
        shell, folder = ["/bin/bash", "-c", script], command.page.parent
        done = subprocess.run(
            shell, cwd=folder, env=environ, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "CREATE TABLE" in done.stdout
    finally:
        server.query(f"DROP DATABASE {database}")


CHECKS: Mapping[str, Callable[[Command, pytest.FixtureRequest], None]] = {
    "reaper": _reaper,
    "export": _export,
    "make": _make,
    "sam": _sam,
    "aws": _aws,
    "pip": _pip,
    "python": _python,
    "curl": _curl,
    "psql": _psql,
}


# Blocks


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    """Commands are run above; other code is shown to be true by a test; what is printed or drawn
    holds no command.
    """
    for block in blocks():
        if block.language in SHOWN_BY or block.language == "python":
            assert block.page == README, "the tests that show it true read the README"
        else:
            assert block.language in (SHELL, CONSOLE, "text"), block
        if block.language == "text":
            assert not re.search(
                r"^ *(\$|make|reaper|aws|sam|pip|curl) ", block.text, re.MULTILINE
            ), block


def test_every_object_in_a_line() -> None:
    """Where a sentence writes out an event or rules, they are ones that are understood."""
    found = [
        json.loads(code) for code in in_text(README) if re.fullmatch(r'\{("\w+": [^…]+)\}', code)
    ]
    assert len(found) >= 2
    for written in found:
        if written.keys() <= {rule.name for rule in fields(Rules)}:
            Rules.from_json(written, README.name)
        else:
            parse(written)


(CLIENT,) = (
    block.text
    for block in blocks()
    if block.language == "python"
    and block.text not in (test_example.BEFORE, test_example.AFTER, test_example.ORM)
)


def test_the_clients_first_example(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as it stands; the same event delivered twice is booked once."""
    fresh_tables(server)
    monkeypatch.setenv("DATABASE_URL", server.dsn("app"))
    module: dict[str, Any] = {"__name__": "handler"}
    exec(CLIENT, module)  # noqa: S102  it is our own README
    with closing(module["db"]) as db:
        for value in (0, 1):
            assert module["lambda_handler"]({"id": "1"}, Context()) == [{"id": 1, "value": value}]
        assert orders(db) == ["book"]


def test_what_aws_answers() -> None:
    """The README's answers have the outputs of the template, the keys of a report, and words that
    SAM says.
    """
    (shown,) = (
        block.text
        for block in blocks()
        if block.language == "text" and "Successfully" in block.text
    )
    outputs = source()["Outputs"]
    for key, description in re.findall(r"^Key +(\w+)\nDescription +(.*)$", shown, re.MULTILINE):
        assert outputs[key]["Description"] == description
    assert {
        code
        for code in in_text(README)
        if re.fullmatch(r"(Function|ClientLayer|ExtensionLayer)Arn", code)
    } <= (outputs.keys())
    page = README.read_text(encoding="utf-8")
    assert [
        answer
        for _, answer in NOT_HERE.values()
        if answer not in page and answer != "LayerVersions"
    ] == []
    if SAM.exists():
        said = "".join(_sources_of_sam())
        for begins, (_, answer) in NOT_HERE.items():
            assert not begins.startswith("sam") or answer in said, answer


def _sources_of_sam() -> Iterator[str]:
    (packages,) = SAM.parents[1].glob("lib/python*/site-packages/samcli")
    for folder in ("commands/deploy", "commands/delete", "lib/remote_invoke"):
        yield from (path.read_text(encoding="utf-8") for path in (packages / folder).glob("*.py"))


# SQL in a line of text

POSTGRES_ALONE = ("ALTER ROLE app", "GRANT CONNECT", "REVOKE CONNECT")
MYSQL_ALONE = ("ALTER USER app", "DROP DATABASE reaper", "DROP ROLE reaper_killer")
APP = "readme_app"


def test_every_statement_in_a_line(server: Server) -> None:
    """Each runs as it is written on the engine that it is for, on accounts made for this."""
    others = MYSQL_ALONE if server.engine == "postgres" else POSTGRES_ALONE
    meant = [statement for statement in statements() if not statement.startswith(others)]
    assert len(meant) >= 4
    with granted(server, *(["--kill-if-idle"] if server.engine == "mysql" else [])):
        server.query(f"CREATE USER {APP}")
        try:
            for statement in meant:
                server.query(
                    re.sub(
                        r"\b(USER|TO|FROM) reaper\b",
                        rf"\1 {USER}",
                        re.sub(r"\bapp\b", APP, statement),
                    )
                )
        finally:
            server.query(f"DROP USER {APP}")
