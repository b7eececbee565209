"""The command line as an operator meets it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.servers import Server, Sessions, free_port
from lab.targets import target
from tests.harness import settle


def reaper(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """The console script in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("REAPER_")}
    command = [sys.executable, "-c", "from reaper.cli import main; main()", *arguments]
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean | environ,
    )


def dsn(server: Server, user: str = "reaper") -> str:
    return server.dsn(user, "shop" if server.engine == "postgres" else "")


def verdicts(report: dict[str, Any]) -> dict[int, str]:
    return {victim["id"]: victim["reason"] for victim in report["victims"]}


def test_replay_gives_the_verdicts_of_the_scan(
    server: Server, sessions: Sessions, tmp_path: Path
) -> None:
    """A saved snapshot judged again by the same rules names the same victims, in the same order."""
    sessions.sleeping(12)
    sessions.active(2)
    sessions.in_transaction(2)
    sessions.lock_holders(1)
    sessions.provider(1)
    if server.engine == "postgres":
        sessions.listeners(1)
        sessions.superuser(1)
    settle(server)
    file = tmp_path / "snapshot.json"
    rules = '{"idle_seconds": 0, "min_idle_per_user": 1, "max_kills": 8}'
    scanned = reaper("scan", dsn(server), "--rules", rules, "--save", str(file), "--json")
    replayed = reaper("replay", str(file), "--rules", rules, "--json")
    assert (scanned.returncode, replayed.returncode) == (0, 0), scanned.stderr + replayed.stderr
    (report,) = json.loads(scanned.stdout)["targets"]
    judged = json.loads(replayed.stdout)
    condemned = [verdict for verdict in judged["verdicts"] if verdict["action"] == "terminate"]
    assert [verdict["id"] for verdict in condemned] == [
        victim["id"] for victim in report["victims"]
    ]
    assert len(condemned) == 8
    spared: dict[str, int] = {}
    for verdict in judged["verdicts"][8:]:
        assert verdict["action"] == "spare"
        spared[verdict["reason"]] = spared.get(verdict["reason"], 0) + 1
    assert spared == report["spared"]
    assert judged["mode"] == report["mode"]
    assert judged["error"] is None


def test_no_sql_text_is_saved_unless_asked(servers: Any, tmp_path: Path) -> None:
    """Of SQL text only the first word reaches the snapshot file, unless all is asked for."""
    server = servers["postgres16"]
    with Sessions(server) as sessions:
        sessions.sleeping(1)[0].run("SELECT 'marked text'")
        file = tmp_path / "snapshot.json"
        assert reaper("scan", dsn(server), "--save", str(file)).returncode == 0
        assert "marked" not in file.read_text()
        assert reaper("scan", dsn(server), "--save", str(file), "--save-sql").returncode == 0
        assert "marked text" in file.read_text()


def test_kill_terminates_and_shows_what_happened(server: Server, sessions: Sessions) -> None:
    """`kill --yes` terminates, and its table says who, where from, idle how long, why, and what
    happened.
    """
    clients = sessions.sleeping(2)
    settle(server)
    done = reaper("kill", dsn(server), "--idle", "0s", "--yes", COLUMNS="120")
    assert done.returncode == 0, done.stderr
    for words in ("app", "127.0.0.1", "shop", "idle", "terminated", "2 slots freed"):
        assert words in done.stdout
    assert not any(client.alive() for client in clients)


def test_kill_asks_first(servers: Any) -> None:
    """Without --yes and with nobody to ask nothing is terminated; nor under REAPER_DRY_RUN or a dry
    target.
    """
    server = servers["postgres16"]
    with Sessions(server) as sessions:
        (client,) = sessions.sleeping(1)
        unasked = reaper("kill", dsn(server), "--idle", "0s")
        assert (unasked.returncode, "--yes" in unasked.stderr) == (2, True)
        dry = reaper("kill", dsn(server), "--idle", "0s", "--yes", REAPER_DRY_RUN="true")
        assert (dry.returncode, "REAPER_DRY_RUN" in dry.stderr) == (2, True)
        targets = json.dumps([target(server, name="orders", rules={"dry_run": True})])
        own = reaper("kill", "orders", "--idle", "0s", "--yes", REAPER_TARGETS=targets)
        assert (own.returncode, "'orders'" in own.stderr) == (2, True)
        ruled = reaper("kill", dsn(server), "--idle", "0s", "--yes", "--rules", '{"dry_run": true}')
        assert (ruled.returncode, "--rules" in ruled.stderr) == (2, True)
        spaced = reaper("kill", dsn(server), "--idle", "0s", "--yes", REAPER_DRY_RUN=" true ")
        assert (spaced.returncode, "REAPER_DRY_RUN" in spaced.stderr) == (2, True)
        both = reaper(
            "kill", dsn(server), "orders", "--idle", "0s", "--yes", REAPER_TARGETS=targets
        )
        assert (both.returncode, "'orders'" in both.stderr) == (2, True)
        assert client.alive()


def test_a_file_that_cannot_be_written_is_bad_use(servers: Any, tmp_path: Path) -> None:
    """--save to where nothing can be written is the operator's mistake, not the database's."""
    done = reaper("scan", dsn(servers["postgres16"]), "--save", str(tmp_path / "none" / "file"))
    assert done.returncode == 2
    assert "cannot write" in done.stderr


def test_json_is_one_document(servers: Any) -> None:
    """--json prints one document on standard output and nothing else there, with the failures in
    it.
    """
    server = servers["postgres16"]
    done = reaper("scan", dsn(server), f"mysql://reaper@127.0.0.1:{free_port()}", "--json")
    document = json.loads(done.stdout)
    assert [report["error"] and report["error"]["kind"] for report in document["targets"]] == [
        None,
        "unreachable",
    ]
    assert done.returncode == 1


BAD_USE = [
    (("scan", "mysql:///shop"), "has no host"),
    (("scan", "mysql://reaper:hidden@/shop"), "has no host"),
    (("scan", "oracle://reaper@db/shop"), "mysql:// or postgresql://"),
    (("scan", "mysql://reaper@db/shop?tsl=off"), "'tsl' with value 'off'; did you mean 'tls'"),
    (("scan", "mysql://reaper@db:99999/shop"), "the port is no number from 0 to 65535"),
    (("scan", "mysql://reaper@127.0.0.1", "--rules", "{"), "--rules is not JSON"),
    (
        ("scan", "mysql://reaper@127.0.0.1", "--rules", '{"idle_seconds": "1"}'),
        "idle_seconds is '1'",
    ),
    (
        ("scan", "mysql://reaper@127.0.0.1", "--rules", '{"idle_seconds": NaN}'),
        "idle_seconds is nan",
    ),
    (("scan", "mysql://reaper@127.0.0.1", "--max-kills", "-1"), "max_kills is -1"),
    (("scan", "mysql://reaper@127.0.0.1", "--idle", "soon"), "'soon' is no time"),
    (("kill", "orders", "--yes"), "REAPER_TARGETS"),
    (("replay", "no-such-file.json"), "cannot read no-such-file.json"),
    (("frobnicate",), "frobnicate"),
    (("scna", "orders"), "Did you mean 'scan'"),
    (("scan",), "Missing argument 'TARGET'. See reaper scan --help"),
    (("scan", "orders", "--idel", "1m"), "--idle"),
    (("advise",), "give a TARGET, or --proxy NAME"),
    (("advise", "mysql://reaper@127.0.0.1", "--memory", "much"), "'much' is no memory"),
    (("advise", "mysql://reaper@127.0.0.1", "--instance-class", "db.large"), "'db.large'"),
    (("size", "--engine", "mysql"), "one of --memory"),
    (
        ("size", "--engine", "mysql", "--memory", "8GiB", "--max-connections", "8"),
        "one of --memory",
    ),
    (("size", "--engine", "mysql", "--max-acu", "8"), "mysql has no capacity units"),
    (
        ("size", "--engine", "postgres", "--flavour", "mariadb", "--memory", "8"),
        "postgres has postgres, rds, aurora",
    ),
    (
        ("size", "--engine", "postgres", "--memory", "8", "--function", "checkout=50"),
        "write checkout=50,200ms",
    ),
    (("size", "--engine", "postgres", "--max-connections", "9"), "are left for functions"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD_USE)
def test_bad_use_is_one_clear_line(arguments: tuple[str, ...], said: str) -> None:
    """A mistake on the command line is told with its key and value, exit status 2, in one line, no
    password.
    """
    done = reaper(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "hidden" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("orders", "not a JSON list"),
        ("{}", "dict"),
        ('[{"name": "orders", "host": "db", "user": "reaper"}]', "engine is missing"),
        ('[{"name": "orders", "engine": "mysql", "user": "reaper"}]', "host is missing"),
        (
            '[{"name": "x", "engine": "mysql", "host": "db", "user": "r", "rules": {"idle": 1}}]',
            "'idle' with value 1",
        ),
    ],
)
def test_a_bad_target_list_is_one_clear_line(targets: str, said: str) -> None:
    """What is wrong with REAPER_TARGETS is told with its key and value before anything is
    touched.
    """
    done = reaper("scan", "orders", REAPER_TARGETS=targets)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("[]", "engine, rows and context"),
        ('{"engine": "oracle", "rows": []}', "engine is 'oracle'"),
        ('{"engine": "mysql", "rows": {}}', "rows is {}"),
        ('{"engine": "mysql", "rows": [{"Id": "seven"}]}', "Id is 'seven'"),
        ('{"engine": "postgres", "rows": [{}]}', "pid is None"),
        ('{"engine": "mysql", "rows": [], "context": {"innodb_trx": [1]}}', "innodb_trx is [1]"),
        ("{", "is not JSON"),
    ],
)
def test_a_bad_snapshot_file_is_one_clear_line(document: str, said: str, tmp_path: Path) -> None:
    """A snapshot file that is none is told in one line with exit status 2."""
    file = tmp_path / "snapshot.json"
    file.write_text(document)
    done = reaper("replay", str(file), "--json")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_blind_snapshot_is_an_error(tmp_path: Path) -> None:
    """Replaying a snapshot of a blind account says so, with exit status 1."""
    file = tmp_path / "snapshot.json"
    row = {
        "Id": 1,
        "User": "reaper",
        "Host": "h:1",
        "db": None,
        "Command": "Query",
        "Time": 0,
        "State": "",
        "Info": "",
    }
    context = {"connection_id": 1, "current_user": "reaper@%", "threads_connected": 40}
    file.write_text(json.dumps({"engine": "mysql", "rows": [row], "context": context}))
    done = reaper("replay", str(file), "--json")
    assert json.loads(done.stdout)["error"]["kind"] == "blind"
    assert done.returncode == 1


def asked(answer: bytes, *arguments: str) -> str:
    """What the command shows on a terminal where somebody types the answer."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from reaper.cli import main; main()", *arguments]
    shown = b""
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        while b"[y/N]" not in shown and (piece := os.read(process.stdout.fileno(), 4096)):
            shown += piece
        os.write(ours, answer)
        shown += process.stdout.read()
    os.close(ours)
    os.close(theirs)
    return shown.decode()


def test_the_operator_is_shown_whom_and_asked(server: Server, sessions: Sessions) -> None:
    """`kill` shows the victims before it asks; a no, or just Enter, leaves them alone, a yes
    terminates them.
    """
    (client,) = sessions.sleeping(1)
    settle(server)
    for no in (b"n\n", b"\n"):
        shown = asked(no, "kill", dsn(server), "--idle", "0s")
        assert shown.index(str(client.id)) < shown.index("Terminate these 1 on")
        assert "slots freed" not in shown
    assert client.id in server.states()
    assert "1 slots freed" in asked(b"y\n", "kill", dsn(server), "--idle", "0s")
    assert not client.alive()
