"""Whatever somebody sends to the functions, they answer or say what is wrong: nobody is terminated
by mistake.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lab import ROOT
from lab.context import Context
from lab.servers import Proxy, Server, Sessions
from lab.targets import target
from reaper import advising, fleet, handler
from reaper.advice import Advice
from reaper.client.fields import ConfigurationError
from reaper.engines import engine_for
from reaper.engines.snapshot_file import RawSnapshot
from reaper.environment import parse_targets
from reaper.model import Mode
from reaper.policy import judge
from reaper.report import Report
from reaper.request.events import Trigger
from reaper.rules import Rules
from reaper.sweep import Sweep
from tests.aws import Asked, aws
from tests.conftest import Servers
from tests.harness import Lambda

# The fixture, for pytest to find here
__all__ = ["aws"]

CORPUS = Path(__file__).parent / "corpus"
# What Lambda's runtime would hand over
EVENTS = sorted(CORPUS.glob("*.json"))
# What only a queue or a topic can carry
BODIES = sorted(CORPUS.glob("*.body"))
SAMPLES = {
    path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "events").glob("*.json"))
}

# Letters of an error about one event
LONGEST = 600
# Seconds for any event; those of six megabytes take one
SOON = 5.0


def loaded(path: Path) -> Any:
    return json.loads(path.read_bytes())


def text(path: Path) -> str:
    """As a queue may hand it over; it knows no bytes."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def in_queue(body: object) -> dict[str, Any]:
    return {"Records": [{"messageId": "1", "eventSource": "aws:sqs", "body": body}]}


def in_topic(message: object) -> dict[str, Any]:
    return {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": message}}]}


def is_short(problem: Exception) -> bool:
    return str(problem).isprintable() and len(str(problem)) <= LONGEST


class Spied:
    """The deployed functions, of which no sweep begins; it is noted instead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.sweeps: list[Sweep] = []
        self.said = ""
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        monkeypatch.setattr(Sweep, "run", self._note)
        monkeypatch.setattr(
            advising, "advise_target", lambda sweep: Advice(sweep.target.name, "postgres")
        )
        nobody = {"engine": "postgres", "host": "127.0.0.1", "port": 1, "user": "reaper"}
        names = ("orders", "billing")
        self.set(REAPER_TARGETS=json.dumps([nobody | {"name": name, "id": name} for name in names]))

    def _note(self, sweep: Sweep) -> Report:
        self.sweeps.append(sweep)
        return Report(
            sweep.target.name, "postgres", sweep.trigger, sweep.rules.dry_run, mode=Mode.ROUTINE
        )

    def set(self, **environ: str) -> None:
        for name, value in environ.items():
            self._monkeypatch.setenv(name, value)

    def __call__(
        self, event: Any, function: Callable[[Any, Any], Any] = handler.lambda_handler
    ) -> Any:
        """The answer, or the error that says what was wrong: one line that is not long, soon, and
        without a secret.
        """
        self.sweeps.clear()
        began = time.monotonic()
        try:
            answer = function(event, Context())
        except ConfigurationError as problem:
            answer = problem
        assert not isinstance(answer, Exception) or is_short(answer)
        took = time.monotonic() - began
        printed = self._capsys.readouterr()
        self.said = f"{answer}\n{printed.out}\n{printed.err}"
        assert "marked" not in self.said
        assert took < SOON
        return answer

    @property
    def live(self) -> list[Sweep]:
        return [sweep for sweep in self.sweeps if not sweep.rules.dry_run]


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Spied:
    return Spied(monkeypatch, capsys)


def is_refused(
    spied: Spied, event: Any, function: Callable[[Any, Any], Any] = handler.lambda_handler
) -> bool:
    return isinstance(spied(event, function), ConfigurationError) and not spied.sweeps


# The corpus


@pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)
def test_a_malformed_event_is_refused(spied: Spied, path: Path) -> None:
    """By an armed stack, alone, as a queue's message and as a topic's: before anything is swept."""
    spied.set(REAPER_DRY_RUN="false", REAPER_MANUAL_KILL="true")
    assert is_refused(spied, loaded(path))
    assert spied(in_queue(text(path)))["batchItemFailures"] == [{"itemIdentifier": "1"}]
    assert spied.sweeps == []
    assert is_refused(spied, in_topic(text(path)))


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.stem)
def test_a_malformed_message_is_refused(spied: Spied, path: Path) -> None:
    """The same of texts that are no JSON at all, or say a thing twice."""
    spied.set(REAPER_DRY_RUN="false")
    for body in (text(path), path.read_bytes().decode("latin-1")):
        assert spied(in_queue(body))["batchItemFailures"] == [{"itemIdentifier": "1"}]
        assert spied.sweeps == []
        assert '"message":"bad message"' in spied.said
        assert is_refused(spied, in_topic(body))


def test_the_planner_refuses_the_same(spied: Spied, aws: Asked) -> None:
    """The function that asks for a fleet's sweeps asks for none, and asks AWS nothing."""
    queue = boto3.client("sqs").create_queue(QueueName="sweeps")["QueueUrl"]
    spied.set(REAPER_QUEUE_URL=queue, REAPER_DRY_RUN="false")
    assert not isinstance(spied({}, fleet.lambda_handler), ConfigurationError)
    assert aws["SendMessageBatch"] == 1
    for path in EVENTS:
        assert is_refused(spied, loaded(path), fleet.lambda_handler), path.stem
    assert aws["SendMessageBatch"] == 1


@pytest.mark.parametrize("name", ["postgres16", "mariadb"])
def test_malformed_events_touch_no_server(servers: Servers, function: Lambda, name: str) -> None:
    """With a real server and an idle session that any sweep would take: nobody even logs in."""
    server: Server = servers[name]
    with Proxy(server.host, server.port) as proxy, Sessions(server) as sessions:
        (client,) = sessions.sleeping(1)
        function.configure(
            target(proxy.through(server), name="orders"),
            REAPER_DRY_RUN="false",
            REAPER_IDLE_SECONDS="0",
        )
        for path in (*EVENTS, *BODIES):
            if path in EVENTS:
                with pytest.raises(ConfigurationError):
                    function.invoke(loaded(path))
            function.invoke(in_queue(text(path)))
        assert proxy.counts.accepted == 0
        assert client.alive()


# Too large, too deep


def deep(levels: int) -> Any:
    found: Any = []
    for _ in range(levels):
        found = [found]
    return found


def alarm(**dimensions: Any) -> dict[str, Any]:
    metric = {"metricStat": {"metric": {"dimensions": dimensions}}}
    return {"alarmData": {"state": {"value": "ALARM"}, "configuration": {"metrics": [metric]}}}


PLACES: dict[str, Callable[[Any], Any]] = {
    "event": lambda value: value,
    "key": lambda value: {"kill": value},
    "targets": lambda value: {"targets": value},
    "target": lambda value: {"targets": [value]},
    "trigger": lambda value: {"trigger": value},
    "dry_run": lambda value: {"dry_run": value},
    "rules": lambda value: {"rules": value},
    "rule": lambda value: {"rules": {"idle_seconds": value}},
    "name": lambda value: {"rules": {"protect_users": [value]}},
    "host": lambda value: {"rules": {"protect_hosts": value}},
    "advise": lambda value: {"advise": value},
    "detail": lambda value: {
        "source": "aws.events",
        "detail-type": "Scheduled Event",
        "detail": value,
    },
    "detail-type": lambda value: {"detail-type": value},
    "state": lambda value: {"alarmData": {"state": {"value": value}}},
    "dimensions": lambda value: {
        "alarmData": alarm()["alarmData"] | {"configuration": {"metrics": value}}
    },
    "dimension": lambda value: alarm(Target=value),
    "records": lambda value: {"Records": value},
    "source": lambda value: {"Records": [{"EventSource": value}]},
    "message": in_topic,
    "message-id": lambda value: {
        "Records": [{"messageId": [value], "eventSource": "aws:sqs", "body": "{}"}]
    },
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("levels", [400, 800, 900, 950, 980, 2000, 100_000])
def test_deep_nesting_is_an_error(spied: Spied, place: str, levels: int) -> None:
    """However deep, wherever it stands: the error says so, and Python's own about its stack is
    never met.
    """
    spied.set(REAPER_DRY_RUN="false")
    assert is_refused(spied, PLACES[place](deep(levels)))


@pytest.mark.parametrize("place", PLACES)
def test_six_megabytes_of_text_are_an_error(spied: Spied, place: str) -> None:
    """What Lambda lets through at most, as one word, is refused within seconds by an error of a
    line.
    """
    assert is_refused(spied, PLACES[place]("dry_run " * 750_000))


METRICS = {"Dimensions": [{"name": "Target", "value": f"t{place}"} for place in range(100_000)]}
MANY: dict[str, Callable[[], Any]] = {
    "keys": lambda: {f"key{place}": 1 for place in range(400_000)},
    "keys-beside-aws": lambda: (
        SAMPLES["alarm-action"] | {f"d{place}": 1 for place in range(400_000)}
    ),
    "one-key": lambda: {"dry_run " * 750_000: True},
    "targets": lambda: {"targets": [f"t{place}" for place in range(400_000)]},
    "globs": lambda: {"rules": {"protect_users": ["*a"] * 400_000}},
    "one-glob": lambda: {"rules": {"protect_users": ["*a" * 3_000_000]}},
    "networks": lambda: {"rules": {"protect_hosts": ["10.0.0.0/8"] * 400_000}},
    "records": lambda: {"Records": in_queue("{}")["Records"] * 100_000},
    "metrics": lambda: in_topic(json.dumps({"NewStateValue": "ALARM", "Trigger": METRICS})),
    "digits": lambda: in_topic("1" * 6_000_000),
    "brackets": lambda: in_topic("[" * 6_000_000),
}


@pytest.mark.parametrize("name", MANY)
def test_six_megabytes_of_many_things_are_an_error(spied: Spied, name: str) -> None:
    """No list, however long, keeps the function busy: it is refused within seconds."""
    spied.set(REAPER_DRY_RUN="false")
    assert is_refused(spied, MANY[name]())


@pytest.mark.parametrize(
    "body", ["[" * 6_000_000, '{"rules": ' * 50_000, "9" * 6_000_000, '{"a": 1, ' * 400_000]
)
def test_a_message_of_six_megabytes_spoils_no_other(spied: Spied, body: str) -> None:
    """It is listed as failed, and the message beside it is swept."""
    records = [
        *in_queue(body)["Records"],
        {"messageId": "2", "eventSource": "aws:sqs", "body": "{}"},
    ]
    assert spied({"Records": records})["batchItemFailures"] == [{"itemIdentifier": "1"}]
    assert [sweep.target.name for sweep in spied.sweeps] == ["orders", "billing"]


# Every shape, mutated

Path_ = tuple[Any, ...]
# a step into a text that is JSON
IN_JSON = "…"

ODD: list[Any] = [
    "ALARM", "OK", "manual", "queue", "schedule", "orders", "*", "{}", "[]", "\ud83d", "\x1b[2J",
    10**4000, 1e400, -1
]  # fmt: skip
WORDS = [
    "dry_run",
    "dryRun",
    "targets",
    "rules",
    "trigger",
    "advise",
    "Records",
    "detail-type",
    "alarmData",
    "state",
]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(ODD)
)
KEYS = st.one_of(st.text(max_size=6), st.sampled_from(WORDS))
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def inside(value: Any) -> Any:
    """What a text says that is a JSON object, None for any other."""
    if not isinstance(value, str) or not value.startswith("{"):
        return None
    try:
        return json.loads(value)
    except ValueError:
        return None


def places(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    yield at
    steps: Any = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for step, inner in steps:
        yield from places(inner, (*at, step))
    if (said := inside(value)) is not None:
        yield from places(said, (*at, IN_JSON))


Change = Callable[[Any, Any, str, Any], None]


def changed(value: Any, at: Path_, change: Change, key: str = "", new: Any = None) -> Any:
    """A copy in which the container of that place was changed."""
    step, *rest = at
    if step == IN_JSON and isinstance(value, str):
        return json.dumps(changed(inside(value), tuple(rest), change, key, new))
    copy = dict(value) if isinstance(value, dict) else list(value)
    if rest:
        copy[step] = changed(copy[step], tuple(rest), change, key, new)
    else:
        change(copy, step, key, new)
    return copy


def replace(container: Any, step: Any, key: str, new: Any) -> None:
    container[step] = new


def remove(container: Any, step: Any, key: str, new: Any) -> None:
    del container[step]


def add(container: Any, step: Any, key: str, new: Any) -> None:
    if isinstance(container, dict):
        container.setdefault(key, new)
    else:
        container.insert(step, new)


def rename(container: Any, step: Any, key: str, new: Any) -> None:
    if isinstance(container, dict):
        container[key] = container.pop(step)


@st.composite
def mutations(draw: st.DrawFn, event: Any, kept: Path_ = ()) -> Any:
    """The event with a few things replaced, removed, added or renamed, but for what stands at one
    place.
    """
    spoils = {kept[:depth] for depth in range(1, len(kept) + 1)}
    # a neighbour that is renamed must not take its place
    keys = KEYS.filter(lambda key: key not in kept)
    for _ in range(draw(st.integers(1, 3))):
        possible = [at for at in places(event) if at and at not in spoils and at[-1] != IN_JSON]
        if possible:
            change = draw(st.sampled_from([replace, remove, add, rename]))
            event = changed(event, draw(st.sampled_from(possible)), change, draw(keys), draw(JSON))
    return event


FUZZ = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize("name", SAMPLES)
def test_only_a_manual_event_kills_on_a_dry_stack(spied: Spied, name: str) -> None:
    """Whatever becomes of the samples is answered or refused.

    With REAPER_MANUAL_KILL alone exactly `"dry_run": false` in an event of a person's own makes a
    live sweep; without it nothing does.
    """

    @FUZZ
    @given(mutations(SAMPLES[name]))
    def check(event: Any) -> None:
        spied.set(REAPER_MANUAL_KILL="false")
        spied(event)
        assert spied.live == []
        spied.set(REAPER_MANUAL_KILL="true")
        spied(event)
        if spied.live:
            assert event.keys() <= OWN
            assert event["dry_run"] is False
            assert event.get("trigger") in (None, Trigger.MANUAL)

    check()


OWN = {"dry_run", "targets", "rules", "trigger", "advise"}


def test_who_says_dry_run_gets_no_live_sweep(spied: Spied) -> None:
    """On an armed stack: whatever else is wrong with an event that says `"dry_run": true`, it is
    dry or refused.
    """
    spied.set(REAPER_DRY_RUN="false", REAPER_MANUAL_KILL="true")

    @settings(FUZZ, max_examples=400)
    @given(
        mutations(
            SAMPLES["manual-dry-run"] | {"targets": ["orders"], "rules": {"max_kills": 5}},
            ("dry_run",),
        )
    )
    def check(event: Any) -> None:
        spied(event)
        assert spied.live == []

    check()


STATES: dict[str, Path_] = {
    "alarm-action": ("alarmData", "state", "value"),
    "alarm-composite": ("alarmData", "state", "value"),
    "alarm-eventbridge": ("detail", "state", "value"),
    "alarm-sns": ("Records", 0, "Sns", "Message", IN_JSON, "NewStateValue"),
}


@pytest.mark.parametrize("name", STATES)
def test_an_alarm_that_is_not_in_alarm_sweeps_nothing(spied: Spied, name: str) -> None:
    """On an armed stack, whatever else is changed about it."""
    spied.set(REAPER_DRY_RUN="false")
    quiet = changed(SAMPLES[name], STATES[name], replace, new="OK")

    @FUZZ
    @given(mutations(quiet, STATES[name]))
    def check(event: Any) -> None:
        # a second one beside it may be in alarm
        assume(len(event.get("Records", "1")) == 1)
        spied(event)
        assert spied.sweeps == []

    check()


# What an administrator writes


@pytest.mark.parametrize("levels", [900, 980, 5000])
def test_deep_nesting_in_a_setting_is_an_error(levels: int) -> None:
    """In the target list and in a rule's variable, as in an event."""
    nested = "[" * levels + "]" * levels
    for listed in (nested, f'[{{"name": {nested}}}]', f'[{{"host": {nested}, "user": "u"}}]'):
        with pytest.raises(ConfigurationError):
            parse_targets(listed, "REAPER_TARGETS")
    for variable in ("REAPER_MAX_KILLS", "REAPER_PROTECT_USERS", "REAPER_DRY_RUN"):
        with pytest.raises(ConfigurationError, match=f"^{variable} is "):
            Rules.from_environ({variable: nested})


COLUMNS = [
    "Id", "User", "Host", "db", "Command", "Time", "State", "Info", "pid", "usename", "datname",
    "application_name", "client_addr", "backend_type", "state", "query", "state_age_s",
    "xact_age_s", "backend_age_s", "leader_pid",
]  # fmt: skip
FACTS = [
    "connection_id", "current_user", "uptime_s", "threads_connected", "max_connections", "flavour",
    "innodb_trx", "user_level_locks", "last_statement_s", "backend_pid", "connections_used",
    "superusers", "advisory_lock_pids", "reserved_connections", "user_limits", "database_limits",
    "unconfirmed", "sees_all", "lag_s", "server",
]  # fmt: skip
USUAL = st.sampled_from(["idle", "Sleep", "client backend", "<insufficient privilege>", 0, 1, 2000])
SNAPSHOTS = st.fixed_dictionaries(
    {
        "engine": st.sampled_from(["mysql", "postgres"]),
        "rows": st.lists(st.dictionaries(st.sampled_from(COLUMNS), JSON | USUAL), max_size=4),
        "context": st.dictionaries(st.sampled_from(FACTS), JSON),
    }
)


@settings(FUZZ, max_examples=300)
@given(JSON | SNAPSHOTS)
def test_a_malformed_snapshot_is_judged_or_refused(document: Any) -> None:
    """A file that `replay` is given: every row gets its verdict, or one error says what is
    wrong.
    """
    problem: Exception | None = None
    try:
        look = RawSnapshot.from_file(document)
        judged = judge(engine_for(look.engine).read(look), Rules())
    except ConfigurationError as found:
        problem = found
    assert is_short(problem) if problem else len(judged.verdicts) == len(look.rows)
