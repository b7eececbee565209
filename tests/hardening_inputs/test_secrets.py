"""Marked passwords, tokens and SQL go in everywhere; nothing that comes out holds the mark."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import pytest
import typer.core
import typer.main
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.context import Context
from lab.rotation import USER, Rotated
from lab.servers import Proxy, Server, Sessions, free_port
from lab.targets import target
from reaper import cli, handler, running
from reaper.client.attempt import OutcomeUnknown
from reaper.client.database import Database
from reaper.client.deadline import DeadlineExceeded
from reaper.client.emf import emf
from reaper.client.events import Event, GivenUp
from reaper.client.fields import ConfigurationError
from reaper.client.redaction import hide_passwords, redact, shown
from reaper.client.target import Target
from reaper.client.transaction import Transaction
from reaper.environment import parse_targets
from tests.aws import Asked, aws
from tests.live.test_client import LEFT_OUT, dead, end, endless, session
from tests.live.test_client_told import proxy
from tests.live.test_credentials import rotated
from tests.live.test_tls import ca, secured

# For pytest to find here
__all__ = ["LEFT_OUT", "aws", "ca", "proxy", "rotated", "secured"]

MARK = "marked"
PASSWORD = "marked-password"  # noqa: S105  searched for
STATEMENT = "SELECT 'marked statement' AS said"
EXHAUSTIVE = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def told(problem: BaseException) -> str:
    """All that a log could show of an exception: its text, its repr, its notes, its traceback with
    the chain.
    """
    found = [*traceback.format_exception(problem), str(problem), repr(problem), repr(problem.args)]
    for linked in (problem.__cause__, problem.__context__):
        found += [told(linked)] if linked is not None and not problem.__suppress_context__ else []
    return "\n".join(found)


# A DSN that somebody typed


LETTERS = st.text(alphabet="ab1/?#@:%= '\"[]\\;,.~!$é\n\t", max_size=6)
PLACES = [
    "mysql://u:{}@h/d",
    "postgresql://u:{}@h:5432/d?tls=on",
    "mysql://:{}@h",
    "mysql://u:{}@",
    "mysql://u@company:{}@h/d",
    "mysql:/u:{}@h",
    "mysql//u:{}@h",
    "u:{}@h/d",
    "oracle://u:{}@h",
    "mysql://u:{}@h:99999/d",
    "mysql://u:{}@[::1",
    "mysql://u:{}@h?sslmode=off",
    "mysql://u@h/d?password={}",
    "mysql://u@h?pasword={}&tls=off",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_mistyped_dsn_shows_no_password(place: str) -> None:
    """Wherever a password stands in a DSN, encoded or not, whatever its letters: no error and no
    repr shows it.
    """

    @EXHAUSTIVE
    @given(before=LETTERS, after=LETTERS, encoded=st.booleans())
    def check(before: str, after: str, encoded: bool) -> None:
        password = f"{before}{MARK}{after}"
        dsn = place.format(quote(password, safe="") if encoded else password)
        try:
            read = repr(Target.from_dsn(dsn)) + repr(Database(dsn))
        except ConfigurationError as problem:
            read = told(problem)
        assert MARK not in read + redact(dsn)

    check()


@pytest.mark.parametrize(
    "dsn", [f"mysql://u:{PASSWORD}/d", f"mysql://u:{PASSWORD}", f"mysql://u:{PASSWORD}?tls=off"]
)
def test_a_dsn_without_its_host_shows_no_password(dsn: str) -> None:
    """Where the @ and the host were forgotten, the password stands in the place of a port."""
    with pytest.raises(ConfigurationError) as caught:
        Target.from_dsn(dsn)
    assert MARK not in told(caught.value)


VALUES: list[Any] = [
    {"password": PASSWORD},
    [{"a": {"db_passwd": PASSWORD}}],
    json.dumps({"password": PASSWORD}),
    json.dumps({"body": json.dumps({"PASSWORD": PASSWORD})}),
    f"password={PASSWORD}",
    f"mysql://u:{PASSWORD}@h/d",
    [f"postgresql://u:{PASSWORD}@h/d"],
    {"secret": {"SecretString": PASSWORD}},
    {"x" * 70: {"token": PASSWORD}},
]


@pytest.mark.parametrize("value", VALUES)
def test_a_secret_within_a_value_is_not_shown(value: Any) -> None:
    """A value in a message hides what stands under a key for secrets, however deep, and the
    passwords of DSNs.
    """
    assert MARK not in shown("targets", value)
    assert len(shown("targets", value)) <= 60


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    "key", ["host", "name", "user", "engine", "secret", "tls", "auth", "rules", "port", "mistake"]
)
def test_a_target_list_shows_no_password(key: str, value: Any) -> None:
    """A password under a wrong key of a target, or a DSN where a host belongs, is not told."""
    entry = {
        "name": "orders",
        "engine": "mysql",
        "host": "db",
        "user": "reaper",
        "password": PASSWORD,
    }
    if key in ("name", "user", "secret") and isinstance(value, str) and "://" not in value:
        # a text is what belongs there, and any text may
        return
    try:
        read = repr(parse_targets(json.dumps([entry | {key: value}]), "REAPER_TARGETS"))
    except ConfigurationError as problem:
        read = told(problem)
    assert MARK not in read


# The command line


class Shell:
    """The command line in this process: what it printed, and whatever ended it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> str:
        self._monkeypatch.setattr(sys, "argv", ["reaper", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            said = self._capsys.readouterr()
            return f"{said.out}{said.err}exit {end.code}"
        raise AssertionError("it did not end")


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setenv(
        "REAPER_TARGETS",
        json.dumps([{"name": "orders", "engine": "mysql", "host": "db", "user": "u"}]),
    )
    return Shell(monkeypatch, capsys)


def commands() -> dict[str, typer.core.TyperCommand]:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    return {
        name: command
        for name, command in group.commands.items()
        if isinstance(command, typer.core.TyperCommand)
    }


def options() -> Iterator[tuple[str, str]]:
    """Each command with each option of it that takes a value."""
    for name, command in commands().items():
        for parameter in command.params:
            if isinstance(parameter, typer.core.TyperOption) and not parameter.is_flag:
                yield name, parameter.opts[0]


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(("command", "option"), list(options()))
def test_a_dsn_in_the_wrong_place_is_not_shown(
    shell: Shell, tmp_path: Path, command: str, option: str
) -> None:
    """Whichever option was given a DSN with its password, the error hides it."""
    if option == "--save":
        # It names a file
        return
    dsn = f"mysql://u:{PASSWORD}@127.0.0.1:{free_port()}/d"
    required = (
        ["--engine", "mysql"] if option != "--engine" and command in ("grants", "size") else []
    )
    for needed in ([], ["127.0.0.1"], [dsn]):
        said = shell(command, *needed, *required, option, dsn)
        assert MARK not in said
        assert said.endswith(("exit 1", "exit 2")), said


@pytest.mark.parametrize("command", ["", *commands()])
@pytest.mark.parametrize(
    "word",
    [
        f"mysql://u:{PASSWORD}@h/d",
        f"mysql:/u:{PASSWORD}@h",
        f"u:{PASSWORD}@h",
        f"--password={PASSWORD}",
    ],
)
def test_a_dsn_taken_for_something_else_is_not_shown(shell: Shell, command: str, word: str) -> None:
    """Taken for a command, a target's name, a file or a flag, what may be a DSN shows no password
    in the error.
    """
    said = shell(*filter(None, (command, word)))
    assert MARK not in said
    assert said.endswith(("exit 1", "exit 2")), said


def test_an_error_nobody_expected_shows_no_secret() -> None:
    """A mistake of our own ends in Python's traceback, which shows code and no values."""
    script = "from reaper import cli, sweep; sweep.Sweep.run = lambda self: 1 / 0; cli.main()"
    arguments = ["scan", f"mysql://u:{PASSWORD}@h/d?tls=off", "--rules", '{"max_kills": 5}']
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "ZeroDivisionError" in done.stderr) == (1, True)
    assert MARK not in done.stdout + done.stderr


# Real servers


@pytest.fixture
def guarded(secured: Server, rotated: Rotated) -> Server:
    """A server whose account has a marked password, while others have run marked statements."""
    rotated.change(PASSWORD)
    return secured


@pytest.fixture
def marked(guarded: Server) -> Iterator[Sessions]:
    with Sessions(guarded) as sessions:
        idle, active = sessions.sleeping(2)
        idle.run(STATEMENT)
        active.start(
            STATEMENT + (", pg_sleep(60)" if guarded.engine == "postgres" else ", SLEEP(60)")
        )
        yield sessions
        guarded.query(
            f"KILL {active.id}"
            if guarded.engine == "mysql"
            else f"SELECT pg_terminate_backend({active.id})"
        )


def test_the_command_line_shows_no_secret(
    marked: Sessions, ca: str, shell: Shell, tmp_path: Path
) -> None:
    """scan, kill, replay and advise, with the right password and a wrong one: neither it nor SQL is
    printed or saved. Only --save-sql saves the text of statements, in a file that nobody else may
    read.
    """
    server = replace(marked.server, host="localhost")
    good, bad = (
        replace(server, password=word).dsn(USER, ca=ca) for word in (PASSWORD, "marked-and-wrong")
    )
    kept, whole = tmp_path / "kept.json", tmp_path / "whole.json"
    rules = ["--idle", "0s", "--allow-user", "nobody"]
    said = [
        shell("scan", good, *rules),
        shell("scan", good, *rules, "--json"),
        shell("scan", good, *rules, "--save", str(kept)),
        shell("scan", good, *rules, "--save", str(whole), "--save-sql", "--json"),
        shell("kill", good, *rules, "--yes"),
        shell("kill", good, *rules, "--yes", "--json"),
        shell("replay", str(kept)),
        shell("replay", str(whole), "--json"),
        shell("advise", good),
    ]
    assert [one for one in said if not one.endswith("exit 0")] == []
    refused = [
        shell(*words, bad)
        for words in (("scan",), ("scan", "--json"), ("kill", "--yes"), ("advise", "--json"))
    ]
    assert [one for one in refused if "credentials" not in one or not one.endswith("exit 1")] == []
    assert MARK not in "".join(said + refused) + kept.read_text()
    assert "marked statement" in whole.read_text()
    assert "marked-" not in whole.read_text()
    assert {file.stat().st_mode & 0o777 for file in (kept, whole)} == {0o600}


SHAPES = [
    json.dumps({"username": USER, "password": "marked-and-wrong"}),
    json.dumps({"username": {"password": PASSWORD}, "password": PASSWORD}),
    json.dumps({"password": {"value": PASSWORD}}),
    json.dumps({"password": PASSWORD + "\ud83d"}),
    json.dumps({"password": PASSWORD + "\0"}),
    json.dumps({"Password": PASSWORD}),
    json.dumps([PASSWORD]),
    PASSWORD,
    '{"password": "' + PASSWORD,
    '{"password": "' + PASSWORD + '", "more": ' + "[" * 5000 + "]" * 5000 + "}",
    "\N{PILE OF POO}" + PASSWORD,
]


def test_the_function_shows_no_secret(
    aws: Asked,
    marked: Sessions,
    ca: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Logs, metrics, answers, errors with their tracebacks, and the repr of everything that is
    alive, with passwords and secrets that are right, wrong, or of a shape that no secret has.
    """
    entry = target(marked.server, USER, host="localhost", ca=ca)
    listed = [
        entry | {"password": PASSWORD},
        entry | {"password": "marked-and-wrong", "name": "wrong"},
    ]
    client = boto3.client("secretsmanager")
    for place, shape in enumerate([json.dumps({"username": USER, "password": PASSWORD}), *SHAPES]):
        client.create_secret(Name=f"secret-{place}", SecretString=shape)
        listed.append(entry | {"name": f"secret-{place}", "secret": f"secret-{place}"})
    client.create_secret(Name="binary", SecretBinary=PASSWORD.encode())
    listed.append(entry | {"name": "binary", "secret": "binary"})
    boto3.client("ssm").put_parameter(
        Name="broken", Type="SecureString", Value=f'[{{"password": "{PASSWORD}"'
    )
    monkeypatch.setenv("REAPER_TARGETS", json.dumps(listed))
    said = []
    (answer, good) = (
        handler.lambda_handler({}, Context()),
        handler.lambda_handler({"targets": ["secret-0"]}, Context()),
    )
    errors = {
        report["target"]: report["error"] and report["error"]["kind"]
        for report in answer["targets"]
    }
    assert {name for name, kind in errors.items() if kind is None} == {
        marked.server.name,
        "secret-0",
    }
    assert set(errors.values()) == {None, "credentials", "configuration"}
    living = [
        f"{thing!r} {thing}"
        for thing in gc.get_objects()
        if str(type(thing).__module__).startswith("reaper.")
    ]
    assert any("Target(name='secret-0'" in one for one in living)
    for event, more in (
        ({"targets": ["wrong"]}, {}),
        ({"rules": {"password": PASSWORD}}, {}),
        ({"targets": [{"password": PASSWORD}]}, {}),
        ({}, {"REAPER_TARGETS": f'[{{"password": "{PASSWORD}"'}),
        ({}, {"REAPER_TARGETS": "", "REAPER_TARGETS_PARAMETER": "broken"}),
    ):
        for name, value in more.items():
            monkeypatch.setenv(name, value)
        with pytest.raises((ConfigurationError, handler.AllSweepsFailed)) as caught:
            handler.lambda_handler(event, Context())
        said.append(told(caught.value))
    while running.SEATS:
        running.SEATS.popitem()[1].discard(GivenUp.CLOSED)
    printed = capsys.readouterr()
    everything = "\n".join([*said, *living, json.dumps([answer, good]), printed.out, printed.err])
    assert [line for line in everything.splitlines() if MARK in line] == []


def test_a_password_may_have_any_letters(secured: Server, ca: str, rotated: Rotated) -> None:
    """Letters beyond Latin 1, quotes and backslashes reach the server; what no login can carry is
    refused unsent.
    """
    word = "pä'ss\"wö\\rd% \N{SNOWMAN}"
    rotated.change(word)
    dsn = replace(secured, host="localhost").dsn(USER, ca=ca)
    with closing(Database(dsn, password=lambda: word)) as db:
        assert db.query("SELECT 7 AS a") == [{"a": 7}]
    for impossible in (PASSWORD + "\0", PASSWORD + "\ud83d"):
        with closing(Database(dsn, password=partial(str, impossible))) as db:
            with pytest.raises(ConfigurationError, match="a NUL or half a character") as caught:
                db.query("SELECT 7 AS a")
            assert MARK not in told(caught.value)


# The client


Told = list[str]
TOKEN = "marked-token"  # noqa: S105  a transaction's key, searched for
WRITE = "INSERT INTO orders (what) VALUES ('marked words')"
COMMITS = "CREATE TABLE marked_table (id int)"


def alone(work: Callable[[], object], event: object, context: object) -> object:
    return work()


def trouble(db: Database, server: Server, proxy: Proxy) -> Iterator[Callable[[], object]]:
    """What can go wrong with marked statements and tokens, but for errors of the server's own about
    them.
    """

    def lost() -> object:
        db.query(STATEMENT)
        proxy.drop_after_request()
        return db.execute(WRITE)

    def in_transaction(tx: Transaction) -> object:
        return tx.execute(COMMITS if db.is_mysql else "COMMIT")

    def too_large(tx: Transaction) -> object:
        tx.execute(WRITE)
        return MARK * 20_000

    def twice() -> object:
        db.transaction(lambda tx: tx.execute(WRITE).rowcount, token=TOKEN, name="work")
        return db.transaction(lambda tx: tx.execute(WRITE).rowcount, token=TOKEN, name="work")

    def ended() -> object:
        db.query(STATEMENT)
        end(server, session(db))
        dead(db)
        return db.query(STATEMENT)

    yield lost
    yield ended
    yield lambda: db.query(WRITE)
    yield lambda: db.transaction(in_transaction)
    yield lambda: db.transaction(too_large, token=TOKEN + "2")
    yield twice
    yield lambda: db.query(f"{endless(db)} -- {MARK}")


@pytest.fixture
def account(server: Server) -> Iterator[str]:
    """An account with the marked password; PostgreSQL lets it in with any."""
    if server.engine == "postgres":
        yield "app"
        return
    server.query(f"CREATE USER keeper@'%' IDENTIFIED BY '{PASSWORD}'")
    server.query("GRANT ALL ON shop.* TO keeper@'%'")
    yield "keeper"
    server.query("DROP USER keeper@'%'")


def test_the_client_shows_neither_statements_nor_tokens(
    server: Server, proxy: Proxy, account: str
) -> None:
    """Events, counts, metrics, logs, its own errors and what is alive afterwards hold no SQL, token
    or password.
    """
    events: list[Event] = []
    lines: Told = []
    records: list[logging.LogRecord] = []
    metrics = emf(write=lines.append)

    def observe(event: Event) -> None:
        events.append(event)
        metrics(event)
        # a listener's own mistake is logged with its traceback
        raise ZeroDivisionError

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    log, keep = logging.getLogger("reaper.client"), Keep()
    log.addHandler(keep)
    log.setLevel(logging.DEBUG)
    dsn = replace(proxy.through(server), password=PASSWORD).dsn(account)
    said: Told = []
    with closing(Database(dsn, on_event=observe)) as db:
        for work in trouble(db, server, proxy):
            run: Callable[[object, object], object] = db.handler(partial(alone, work))
            with suppress(OutcomeUnknown, DeadlineExceeded, ConfigurationError, ValueError):
                try:
                    run({}, Context(2.6))
                except Exception as problem:
                    said.append(told(problem))
                    raise
        said += [repr(db), repr(db.stats), repr(db._kept), repr(db._kept.__dict__), repr(events)]
    log.removeHandler(keep)
    log.setLevel(logging.NOTSET)
    formatter = logging.Formatter()
    assert (len(events) > 10, len(lines) > 1, len(records) > 10) == (True, True, True)
    assert len([one for one in said if "OutcomeUnknown" in one or "DeadlineExceeded" in one]) >= 2
    everything = "\n".join([*said, *lines, *map(formatter.format, records)])
    assert [line for line in everything.splitlines() if MARK in line] == []
    assert not any("During handling of the above" in formatter.format(record) for record in records)


def test_hidden_is_only_what_has_to_be() -> None:
    """Messages without a password stay as they are."""
    for message in (
        "DSN 'mysql://u:***@h/d': begin it with mysql:// or postgresql://",
        "unknown target 'orders'; did you mean 'order'?",
        "write mysql://user@host:port/database",
        "fetch https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem and name the "
        "file as ca",
        "target 'x': port is 'y'; give a number",
    ):
        assert hide_passwords(message) == message
