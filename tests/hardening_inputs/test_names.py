"""Whoever names a user, a database or an application may write there what a shell, a server or a
terminal obeys.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from pymysql.constants import COMMAND

from lab.context import Context
from lab.samples import server as snapshot_of
from lab.servers import Client, Server, Sessions, start, until
from lab.targets import target
from reaper import handler, metrics
from reaper.client.emf import dimension, emf
from reaper.client.events import Event, EventKind
from reaper.client.faults import first_line
from reaper.client.fields import ConfigurationError
from reaper.engines.mysql.rights import may_kill
from reaper.engines.postgres.server import PostgresServer
from reaper.handler import AllSweepsFailed
from reaper.model import Outcome, Reason, Session, State, SweepTarget
from reaper.policy import judge
from reaper.report import ErrorKind, Report
from reaper.rules import Rules
from tests.conftest import Servers, names
from tests.harness import Lambda, settle, sweep
from tests.live.stage import engine_server, seen
from tests.live.test_cli import asked, dsn, reaper

# At most 32 letters, as MySQL has it, and 63 bytes, as PostgreSQL does.
NAMES = (
    "o'clock'; DROP TABLE items; --",
    'double"quote`backquote\\',
    "new\nline\r\ttab",
    "\x1b[2J\x1b]0;title\x07gone",
    "\x9b2Jgone",
    "[red]bold[/red]",
    "[/nothing]",
    "a*",
    "[a-z]?%_",
    "\u202etfel ot thgir\u2066",
    "next\x85line\u2028separator",
    "ü" * 31,
    "%s {0} {user} ${HOME} $(id) -y",
)
# To make and to drop one takes a while
DATABASES = NAMES[:6]
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass
class Named:
    """A server with accounts and databases of these names."""

    server: Server

    def make(self) -> None:
        with closing(self.server.admin()) as admin:
            for name in NAMES:
                self._run(admin, *self._account("CREATE", admin, name))
            for name in DATABASES:
                self._run(admin, f"CREATE DATABASE {self._quoted(name)}")

    def drop(self) -> None:
        with closing(self.server.admin()) as admin:
            for name in DATABASES:
                self._run(admin, f"DROP DATABASE {self._quoted(name)}")
            for name in NAMES:
                self._run(admin, *self._account("DROP", admin, name)[:1])

    def _account(self, verb: str, admin: Any, name: str) -> list[str]:
        if self.server.engine == "postgres":
            password = (
                f"LOGIN PASSWORD '{self.server.password or 'none'}'" if verb == "CREATE" else ""
            )
            return [f"{verb} ROLE {self._quoted(name)} {password}"]
        account = f"{admin.escape(name)}@'%'"
        password = f"IDENTIFIED BY {admin.escape(self.server.password)}" if verb == "CREATE" else ""
        return [f"{verb} USER {account} {password}", f"GRANT SELECT ON *.* TO {account}"]

    def _quoted(self, name: str) -> str:
        quote = '"' if self.server.engine == "postgres" else "`"
        return quote + name.replace(quote, 2 * quote) + quote

    def _run(self, admin: Any, *statements: str) -> None:
        for statement in statements:
            admin.cursor().execute(statement)

    def sessions(self, opened: Sessions) -> dict[str, Client]:
        """One sleeper for each name, which is its user's and its application's."""
        in_dsn = partial(quote, safe="") if self.server.engine == "postgres" else str
        return {
            name: opened.sleeping(1, name, in_dsn(database), name)[0]
            for name, database in zip(NAMES, cycle(DATABASES), strict=False)
        }


@pytest.fixture(scope="module")
def made() -> Iterator[dict[str, Named]]:
    """The accounts on each server, made when first asked for."""
    found: dict[str, Named] = {}
    yield found
    for named in found.values():
        named.drop()


@contextmanager
def opened_on(server: Server, made: dict[str, Named]) -> Iterator[dict[str, Client]]:
    """A sleeper for each name."""
    if server.name not in made:
        Named(server).make()
        made[server.name] = Named(server)
    with Sessions(server) as sessions:
        found = made[server.name].sessions(sessions)
        settle(server)
        yield found


@pytest.fixture
def clients(server: Server, made: dict[str, Named]) -> Iterator[dict[str, Client]]:
    with opened_on(server, made) as found:
        yield found


def test_names_are_data_to_the_server_and_to_the_log(
    server: Server,
    sessions: Sessions,
    clients: dict[str, Client],
    function: Lambda,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A live run terminates exactly the sessions of these names; each line of its log and metrics
    is one line of printable ASCII, and the answer has every name as it is.
    """
    (spared,) = sessions.sleeping(1)
    function.configure(target(server), REAPER_DRY_RUN="false")
    rules = {"idle_seconds": 0, "protect_users": ["app", "other", server.root]}
    (report,) = handler.lambda_handler({"rules": rules}, Context())["targets"]
    told = capsys.readouterr().out
    assert report["error"] is None
    assert {victim["user"] for victim in report["victims"]} == set(NAMES)
    assert {victim["database"] for victim in report["victims"]} == set(DATABASES)
    assert report["outcomes"] == {"terminated": len(NAMES)}
    assert not any(client.alive() for client in clients.values())
    assert spared.run("SELECT count(*) FROM items") == [(100,)]
    # Sessions, sweep, metrics, and the end
    assert len(told.split("\n")) == len(NAMES) + 3
    assert [line for line in told.split("\n") if not line.isascii() or not line.isprintable()] == []


def listed(table: str, action: str) -> list[int]:
    """The ids at the beginning of lines that say so further on."""
    return [
        int(found[1])
        for line in table.split("\n")
        if (found := re.match(rf"(\d+) .* {action}( |$)", line))
    ]


# Who shows it as mysql does
@pytest.mark.parametrize("name", [name for name in names() if name != "mysql_nops"])
def test_names_are_data_to_a_terminal(
    servers: Servers, made: dict[str, Named], tmp_path: Path, name: str
) -> None:
    """The tables of scan, kill and replay show each victim in one line, without anything that a
    terminal would obey; from the saved snapshot the same are condemned, in the same order.
    """
    server = servers[name]
    with opened_on(server, made) as clients:
        ids = {client.id for client in clients.values()}
        file = tmp_path / "snapshot.json"
        told = json.dumps({"idle_seconds": 0, "protect_users": ["app", "other", server.root]})
        scanned = reaper("scan", dsn(server), "--rules", told, "--save", str(file), COLUMNS="250")
        assert (scanned.returncode, scanned.stderr) == (0, "")
        assert OBEYED.findall(scanned.stdout) == []
        assert "[red]bold[/red]" in scanned.stdout
        shown = listed(scanned.stdout, "would_terminate")
        assert (len(shown), set(shown)) == (len(ids), ids)
        replayed = reaper("replay", str(file), "--rules", told, COLUMNS="250").stdout
        assert OBEYED.findall(replayed) == []
        assert listed(replayed, "terminate") == shown
        seen = asked(b"n\n", "kill", dsn(server), "--rules", told)
        assert all(str(id_) in seen for id_ in ids)
        # rich's own
        rest = re.sub(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r\n|\r", "", seen)
        assert OBEYED.findall(rest) == []


def test_a_rule_finds_every_name_as_it_is(server: Server, clients: dict[str, Client]) -> None:
    """Whatever its letters, a name that stands in a rule is found by it, as user and as
    database.
    """
    snapshot = sweep(server, idle_seconds=0, dry_run=True).run().snapshot
    assert snapshot is not None
    for name, client in clients.items():
        (session,) = [session for session in snapshot.sessions if session.id == client.id]
        assert session.user == name
        for kind, found in (("users", session.user), ("databases", session.database)):
            for rule, reason in (("protect", Reason.PROTECTED), ("allow", Reason.IDLE)):
                judged = judge(
                    snapshot, Rules.from_json({"idle_seconds": 0, f"{rule}_{kind}": [found]})
                )
                assert [v.reason for v in judged.verdicts if v.session.id == client.id] == [
                    reason
                ], (rule, found)


# Globs


def verdicts(users: tuple[str, ...], **rules: Any) -> dict[str, Reason]:
    sessions = (
        Session(place, user, "10.0.0.1", "shop", state=State.IDLE, idle_seconds=1000.0)
        for place, user in enumerate(users)
    )
    judged = judge(snapshot_of(*sessions), Rules.from_json(rules))
    return {str(verdict.session.user): verdict.reason for verdict in judged.verdicts}


def test_a_star_in_a_name_and_a_star_in_a_rule() -> None:
    """`a*` finds the user who is called so and every other that the glob fits; `a[*]` finds that
    one alone.
    """

    def of(**rules: Any) -> list[Reason]:
        return list(verdicts(("a*", "app", "b"), **rules).values())

    # Victims first: b
    assert of(protect_users=["a*"]) == [Reason.IDLE, Reason.PROTECTED, Reason.PROTECTED]
    assert of(protect_users=["a[*]"]) == [Reason.IDLE, Reason.IDLE, Reason.PROTECTED]
    assert of(allow_users=["a*"]) == [Reason.IDLE, Reason.IDLE, Reason.NOT_ALLOWED]
    assert of(allow_users=["a[*]"]) == [Reason.IDLE, Reason.NOT_ALLOWED, Reason.NOT_ALLOWED]


@pytest.mark.parametrize(
    "user", ["*", "?pp", "[a-z]*", "app\n", "app ", "APP", "a\\pp", "(?s:.*)", "^app$"]
)
def test_a_user_cannot_name_itself_into_another_ones_protection(user: str) -> None:
    """A pattern is what stands in a rule, never a session's own name: such a user is not taken for
    `app`.
    """
    assert verdicts((user,), protect_users=["app"]) == {user: Reason.IDLE}
    assert verdicts((user,), allow_users=["app"]) == {user: Reason.NOT_ALLOWED}


# What the command line is told to sweep


@pytest.mark.parametrize(
    "name", ["[/nothing]", "[red]orders[/red]", "ördes", "$(id)", "orders'; --"]
)
def test_a_target_may_have_any_printable_name(servers: Servers, name: str) -> None:
    """Markup in a target's name is text, also in what is shown while the sweep runs."""
    listed = json.dumps([target(servers["postgres16"], name=name)])
    done = reaper("scan", name, REAPER_TARGETS=listed)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"\n{name}: " in f"\n{done.stdout}"


@pytest.mark.parametrize(
    "name", ["\x1b[2J", "two\nlines", "\u202eorders", " ", "x" * 256, "\x9b2J"]
)
def test_a_target_has_a_name_to_print(name: str) -> None:
    """What would break a log line, a terminal or a metric is refused where the target is read."""
    with pytest.raises(
        ConfigurationError, match="name must be 1 to 255 printable characters"
    ) as caught:
        SweepTarget.from_mapping({"name": name, "engine": "mysql", "host": "db", "user": "reaper"})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_cannot_show_a_name(servers: Servers, encoding: str) -> None:
    """An output without these letters shows them escaped; nothing fails for a name."""
    listed = json.dumps([target(servers["postgres16"], name="заказы")])
    done = reaper("scan", "заказы", REAPER_TARGETS=listed, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert "connections used" in done.stdout


# Errors and metrics


def test_what_a_server_says_is_one_printable_line() -> None:
    """A server's or an impostor's message is cut to one line of 500 letters that no terminal
    obeys.
    """
    told = first_line(Exception("refused\x1b[2J" + "x" * 1000 + "\nHINT: more"))
    assert told.startswith("refused?[2Jxxx")
    assert len(told) == 500
    assert told.isprintable()


LONG = "ü" * 600

DIMENSIONS = [
    ("orders", "orders"),
    ("", "-"),
    (" \n", " ?"),
    ("  ", "-"),
    ("ü", r"\xfc"),
    ("\\xfc", r"\\xfc"),
    ("a\nb\x1b\x9b", "a?b??"),
    (LONG, r"\xfc" * 256),
]


@pytest.mark.parametrize(("name", "value"), DIMENSIONS)
def test_dimensions_are_what_cloudwatch_takes(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 to 1024 printable letters of ASCII, for the reaper's metrics and the client's: else
    CloudWatch drops them.
    """
    assert dimension(name) == value
    report = Report(name, "mysql", "manual", dry_run=True)
    document: Any = metrics.report_document(report, name)
    assert (document["Stack"], document["Target"]) == (value, value)
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    assert sorted(map(sorted, directive["Dimensions"])) == [["Stack"], ["Stack", "Target"]]
    lines: list[str] = []
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", name or " ")
    emf(write=lines.append)(Event(EventKind.OUTCOME_UNKNOWN, name))
    (line,) = map(json.loads, lines)
    assert (line["Function"], line["Target"]) == (value, value)


# PostgreSQL: names and statements are the whole server's, each in the encoding of its own database


@pytest.fixture(scope="module")
def encodings() -> Iterator[Server]:
    """A PostgreSQL with databases in Latin 1 and in no encoding, and roles that were named in Latin
    1.
    """
    with start("postgres16") as server:
        for name, encoding in (("latin", "LATIN1"), ("bytes", "SQL_ASCII")):
            how = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
            server.query(f"CREATE DATABASE {name} {how} OWNER app")
        with closing(server.connect(server.root, "latin")) as admin:
            admin.execute("SET client_encoding = 'UTF8'")
            admin.execute('CREATE ROLE "café" LOGIN CONNECTION LIMIT 50')
            admin.execute('CREATE ROLE "fiancé" LOGIN SUPERUSER')
        yield server


def in_latin(server: Server, user: str) -> psycopg.Connection[Any]:
    """A session in the database `latin` that has said so in French."""
    info = f"host={server.host} port={server.port} user={user} dbname=latin client_encoding=LATIN1"
    connection = psycopg.Connection[Any](psycopg.pq.PGconn.connect(info.encode("latin-1")))
    connection.autocommit = True
    connection.execute("SELECT 'été' AS said")
    return connection


@pytest.mark.parametrize(
    ("database", "reads_names"), [("shop", False), ("latin", True), ("bytes", False)]
)
def test_text_in_another_encoding_stops_no_sweep(
    encodings: Server, database: str, reads_names: bool
) -> None:
    """From whichever database the reaper looks, statements and names that are no text there hide
    nobody else; whose name cannot be read is spared, for no rule could be sure to find it.
    """
    with ExitStack() as opened, Sessions(encodings) as sessions:
        app, strange, boss = (
            opened.enter_context(closing(in_latin(encodings, user))).info.backend_pid
            for user in ("app", "café", "fiancé")
        )
        (ordinary,) = sessions.sleeping(1)
        for protected, expected in ((["x"], Reason.IDLE), (["x", "café"], Reason.PROTECTED)):
            rules: dict[str, Any] = {"idle_seconds": 0, "dry_run": True, "protect_users": protected}
            made = sweep(encodings, **rules)
            report = replace(
                made, target=SweepTarget.from_mapping(target(encodings, database=database))
            ).run()
            assert report.error is None
            found = {verdict.session.id: verdict.reason for verdict in report.verdicts}
            assert (found[app], found[ordinary.id], found[boss]) == (
                Reason.IDLE,
                Reason.IDLE,
                Reason.SUPERUSER,
            )
            assert found[strange] is (expected if reads_names else Reason.UNKNOWN)


TRAPS = """
CREATE SCHEMA trap;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
CREATE TABLE trap.caught (who text, how text);
GRANT INSERT ON trap.caught TO PUBLIC;
CREATE VIEW trap.pg_stat_activity AS SELECT * FROM pg_catalog.pg_stat_activity WHERE false;
GRANT SELECT ON trap.pg_stat_activity TO PUBLIC;
CREATE FUNCTION trap.pg_stat_get_activity(integer) RETURNS SETOF pg_catalog.pg_stat_activity
LANGUAGE sql AS
  $$ SELECT * FROM pg_catalog.pg_stat_activity WHERE false $$;
CREATE FUNCTION trap.pg_terminate_backend(integer) RETURNS boolean LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO trap.caught VALUES (current_user, 'terminate'); RETURN true; END $$;
CREATE FUNCTION trap.gather(text[], text) RETURNS text[] LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO trap.caught VALUES (current_user, 'gather'); RETURN array_append($1, $2); END
  $$;
CREATE AGGREGATE {schema}.array_agg(text) (SFUNC = trap.gather, STYPE = text[]);
"""


@pytest.mark.parametrize("is_owner", [True, False])
def test_a_databases_owner_cannot_lend_the_reapers_hand(is_owner: bool) -> None:
    """Neither by the search_path that its owner gives a database, nor by functions that fit better
    than the server's own, is anything called with the reaper's rights, or hidden from it.
    """
    with start("postgres16") as server, Sessions(server) as sessions:
        server.query("ALTER DATABASE shop OWNER TO app")
        with closing(server.connect(server.root)) as admin, closing(server.connect("app")) as app:
            # As it was for everybody before PostgreSQL 15
            admin.execute("GRANT CREATE ON SCHEMA public TO app")
            app.execute(TRAPS.format(schema="trap" if is_owner else "public"))
            if is_owner:
                app.execute("ALTER DATABASE shop SET search_path = trap, pg_catalog")
                app.execute("ALTER DATABASE shop SET statement_timeout = '10s'")
                app.execute("ALTER DATABASE shop SET datestyle = 'German'")
        clients = sessions.sleeping(2)
        report = sweep(server, idle_seconds=0, allow_users=["app"]).run()
        assert report.error is None
        assert report.outcomes == {Outcome.TERMINATED: 2}
        assert not any(client.alive() for client in clients)
        with closing(server.connect(server.root)) as admin:
            assert admin.execute("SELECT who, how FROM trap.caught").fetchall() == []
        with engine_server(server) as engine:
            assert isinstance(engine, PostgresServer)
            shown = engine._query("SHOW statement_timeout")
            assert shown == [{"statement_timeout": "0"}]


def test_nobody_hides_behind_what_the_server_says_of_the_hidden(
    postgres: Server, sessions: Sessions
) -> None:
    """`<insufficient privilege>` stands for the statements of others; sent as one it makes nobody
    unseen or blind.
    """
    (client,) = sessions.sleeping(1)
    with pytest.raises(psycopg.errors.SyntaxError):
        client.run("<insufficient privilege>")
    report = sweep(postgres, idle_seconds=0, allow_users=["app"]).run()
    assert (report.error, report.outcomes) == (None, {Outcome.TERMINATED: 1})


# MySQL


SAID = (b"'\xe9\xff'", "'💩'".encode(), b"_binary'\xe2\x82'")


@contextmanager
def said(mysql: Server) -> Iterator[None]:
    """Others run statements with emoji and broken letters meanwhile."""
    with ExitStack() as opened:
        watcher = opened.enter_context(closing(mysql.connect(mysql.root, "")))
        # Or the driver itself fails at these letters
        watcher.set_character_set("latin1")
        # Nor can what is said be read by who cleans up
        opened.callback(until, lambda: not running(watcher))
        busy = [opened.enter_context(closing(mysql.connect("other"))) for _ in SAID]
        for connection, letters in zip(busy, SAID, strict=True):
            connection._execute_command(COMMAND.COM_QUERY, b"SELECT SLEEP(60), " + letters)
            opened.callback(watcher.cursor().execute, f"KILL {connection.thread_id()}")
        assert until(lambda: len(running(watcher)) == len(SAID))
        yield


def test_a_statement_that_is_no_text_stops_no_sweep(mysql: Server, sessions: Sessions) -> None:
    """The list is read, victims are struck and verified."""
    settle(mysql, sees_fractions=False)
    with said(mysql):
        clients = sessions.sleeping(3)
        settle(mysql, sees_fractions=False)
        report = sweep(mysql, idle_seconds=0, allow_users=["app", "other"]).run()
        assert (report.error, report.outcomes) == (None, {Outcome.TERMINATED: 3})
        assert report.spared[Reason.ACTIVE] == len(SAID)
        assert not any(client.alive() for client in clients)


def test_a_sleep_began_when_it_did_even_by_a_clock_that_is_late(servers: Servers) -> None:
    """SHOW PROCESSLIST, which is read then, comes to a new second up to a tick of the kernel later
    than SYSDATE.
    """
    server = servers["mysql_nops"]
    with Sessions(server) as own, said(server), engine_server(server) as striking:
        clients = own.sleeping(1)
        settle(server)
        found = {seen(striking, "mysql", clients)[0].mark}
        for _ in range(3):
            # Only as a second begins do the two clocks differ
            time.sleep(1 - time.time() % 1)
            # a new second has just begun
            end = time.monotonic() + 0.02
            while time.monotonic() < end:
                found.add(seen(striking, "mysql", clients)[0].mark)
        assert len(found) == 1


def running(watcher: Any) -> list[int]:
    """The ids of those that run such a statement."""
    with watcher.cursor() as cursor:
        cursor.execute("SHOW PROCESSLIST")
        return [row[0] for row in cursor.fetchall() if str(row[7]).startswith("SELECT SLEEP(60), ")]


@pytest.mark.parametrize(
    ("grant", "expected"),
    [
        ("GRANT PROCESS, CONNECTION ADMIN ON *.* TO `reaper`@`%`", True),
        ("GRANT CONNECTION_ADMIN ON *.* TO `reaper`@`%`", True),
        ("GRANT ALL PRIVILEGES ON *.* TO `reaper`@`%` WITH GRANT OPTION", True),
        ("GRANT USAGE ON *.* TO `my SUPER ON *.* TO`@`%`", False),
        ("GRANT `SUPER ON *.* TO`@`%` TO `reaper`@`%`", False),
        ("GRANT SELECT ON `SUPER ON *.* TO`.* TO `reaper`@`%`", False),
    ],
)
def test_a_name_in_a_grant_is_no_right(grant: str, expected: bool) -> None:
    """Rights are read before the first name; a role or a database called so gives none."""
    assert may_kill([grant]) is expected


# The lock that keeps two sweeps apart


def test_whoever_squats_on_the_lock_is_told_of(
    server: Server, sessions: Sessions, function: Lambda
) -> None:
    """Anybody may take the reaper's lock.

    While another account has it nobody is terminated, but that is a failure which names the
    session, raises the alarm, and is no `busy`.
    """
    clients = sessions.sleeping(2)
    (squatter,) = sessions.sleeping(1, "other")
    squatter.run(
        "SELECT pg_advisory_lock(1919246704, 1)" if server.engine == "postgres" else GET_LOCK
    )
    function.configure(target(server), REAPER_DRY_RUN="false", REAPER_IDLE_SECONDS="0")
    with pytest.raises(
        AllSweepsFailed, match=f"session {squatter.id} of another account holds the reaper's lock"
    ):
        function.invoke({"trigger": "alarm"})
    assert function.metrics[server.name]["SweepFailed"] == 1
    assert all(client.alive() for client in (*clients, squatter))


GET_LOCK = "SELECT GET_LOCK('reaper.sweep', 0)"


@pytest.mark.parametrize("impostor", ["REAPER", "réaper", "reaper@x"])
def test_only_the_own_account_is_taken_for_a_frozen_reaper(mysql: Server, impostor: str) -> None:
    """An account whose name differs in case, accents or behind an @ alone is another's, however
    long it has slept.
    """
    with closing(mysql.admin()) as admin:
        account = f"{admin.escape(impostor)}@'%'"
        admin.cursor().execute(
            f"CREATE USER {account} IDENTIFIED BY {admin.escape(mysql.password)}"
        )
        try:
            with closing(mysql.connect(impostor, "")) as squatter:
                squatter.cursor().execute(GET_LOCK)
                settle(mysql, sees_fractions=False)
                report = replace(
                    sweep(mysql, idle_seconds=0, allow_users=["nobody"]), frozen_after=0
                ).run()
                assert report.error is not None
                assert report.error.kind is ErrorKind.CONFIGURATION
                squatter.ping(reconnect=False)
        finally:
            admin.cursor().execute(f"DROP USER {account}")
