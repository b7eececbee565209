"""Logins on real servers with secrets in an imitated AWS: rotated, refused, throttled, and never
shown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, cast

import boto3
import pytest
from botocore.awsrequest import AWSResponse

from lab.context import Context
from lab.rotation import READ, USER, Rotated
from lab.servers import Proxy, Server, until
from lab.targets import target
from reaper import running
from reaper.client.credentials import CredentialsUnavailable
from reaper.client.database import Database
from reaper.client.deadline import Deadline
from reaper.client.drivers import driver_for
from reaper.client.drivers.base import Driver
from reaper.client.events import GivenUp
from reaper.client.faults import Fault
from reaper.client.kept import Settings
from reaper.client.target import EngineName
from reaper.model import SweepTarget
from reaper.report import ErrorKind
from reaper.rules import Rules
from reaper.sweep import Sweep
from tests.aws import Asked, aws
from tests.harness import Lambda
from tests.live.test_client import dead, end, session
from tests.live.test_tls import ca, secured

# The fixtures, for pytest to find here
__all__ = ["aws", "ca", "secured"]


@pytest.fixture
def rotated(aws: Asked, secured: Server) -> Rotated:
    return Rotated(secured)


@pytest.fixture
def proxy(secured: Server) -> Iterator[Proxy]:
    """A way to the server that counts the logins."""
    with Proxy("127.0.0.1", secured.port) as found:
        yield found


def dsn(server: Server, ca: str, port: int | None = None, user: str = "whoever") -> str:
    """The target's own user is not the secret's, which goes over it."""
    return replace(server, host="localhost", port=port or server.port).dsn(user, ca=ca)


def sweep(server: Server, ca: str, secret: str, **more: Any) -> Sweep:
    """A dry sweep with the secret's login."""
    given = target(server, USER, host="localhost", ca=ca, secret=secret) | more.pop("given", {})
    return Sweep(SweepTarget.from_mapping(given), Rules(), "manual", Deadline.after(60), **more)


def test_rotated_between_two_invocations_of_the_client(
    aws: Asked, secured: Server, ca: str, rotated: Rotated
) -> None:
    """The kept connection outlives a rotation; when it has ended the secret is read once more, no
    error.
    """
    with closing(Database(dsn(secured, ca), secret=rotated.secret)) as db:
        handler = db.handler(lambda event, context: db.query("SELECT 7 AS a"))
        handler({}, Context())
        rotated.rotate()
        assert handler({}, Context()) == [{"a": 7}]
        assert aws[READ] == 1
        end(secured, session(db))
        dead(db)
        assert handler({}, Context()) == [{"a": 7}]
        assert (aws[READ], db.stats.connected, db.stats.retried) == (2, 2, 1)


def test_a_client_that_is_refused_twice_gives_up(
    aws: Asked, secured: Server, ca: str, rotated: Rotated, proxy: Proxy
) -> None:
    """Two reads, two logins, then the server's own error, which does not hold the password."""
    rotated.diverge()
    with closing(Database(dsn(secured, ca, proxy.port), secret=rotated.secret)) as db:
        with pytest.raises(Exception, match=USER) as caught:
            db.query("SELECT 1")
        assert db.driver.fault(caught.value) is Fault.CREDENTIALS
        assert rotated.word not in f"{caught.value!r} {caught.value} {caught.value.__notes__}"
        assert (aws[READ], proxy.counts.accepted) == (2, 2)


def test_a_password_that_cannot_change_is_refused_once(
    secured: Server, ca: str, rotated: Rotated, proxy: Proxy
) -> None:
    """The same password again would only bring the account nearer to a lock-out."""
    wrong = dsn(replace(secured, password="wrong"), ca, proxy.port, USER)
    with closing(Database(wrong)) as db:
        with pytest.raises(Exception, match=USER) as caught:
            db.query("SELECT 1")
        assert db.driver.fault(caught.value) is Fault.CREDENTIALS
        assert proxy.counts.accepted == 1


def test_a_function_is_asked_again(secured: Server, ca: str, rotated: Rotated) -> None:
    """The caller's own source of passwords is asked for every connection, and once more after a
    refusal.
    """
    words = iter(["stale", rotated.word, rotated.word])
    with closing(Database(dsn(secured, ca, user=USER), password=lambda: next(words))) as db:
        assert db.query("SELECT 7 AS a") == [{"a": 7}]
        db.close()
        assert db.query("SELECT 7 AS a") == [{"a": 7}]
        assert list(words) == []


def test_rotated_between_two_invocations_of_the_reaper(
    aws: Asked,
    secured: Server,
    ca: str,
    rotated: Rotated,
    function: Lambda,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A target from SSM, its password from a secret: the seat outlives a rotation, the next costs
    one read.
    """
    listed = [target(secured, USER, host="localhost", ca=ca, secret=rotated.secret)]
    boto3.client("ssm").put_parameter(
        Name="/reaper/targets", Type="SecureString", Value=json.dumps(listed)
    )
    monkeypatch.delenv("REAPER_TARGETS", raising=False)
    monkeypatch.setenv("REAPER_TARGETS_PARAMETER", "/reaper/targets")
    assert [report["error"] for report in function.invoke({})["targets"]] == [None]
    assert aws[READ] == 1
    rotated.rotate()
    assert [report["error"] for report in function.invoke({})["targets"]] == [None]
    assert aws[READ] == 1
    (seat,) = running.SEATS.values()
    connection: Any = seat.connection
    end(secured, connection.id)
    assert until(lambda: not connection.is_alive(), timeout=10)
    assert [report["error"] for report in function.invoke({})["targets"]] == [None]
    assert aws[READ] == 2
    seat.discard(GivenUp.CLOSED)


class Late:
    """A driver before whose first login something happens."""

    def __init__(self, engine: str, happens: Callable[[], None]) -> None:
        self._driver = driver_for(EngineName(engine))
        self._happens: list[Callable[[], None]] = [happens]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def connect(self, *args: Any, **more: Any) -> Any:
        while self._happens:
            self._happens.pop()()
        return self._driver.connect(*args, **more)


def test_rotated_between_the_reapers_read_and_its_login(
    aws: Asked, secured: Server, ca: str, rotated: Rotated
) -> None:
    """A login that is refused with a secret just read is tried again with the secret read anew."""
    late = cast(Driver, Late(secured.engine, rotated.rotate))
    report = sweep(secured, ca, rotated.secret, drivers=lambda engine: late).run()
    assert report.error is None
    assert aws[READ] == 2


def test_a_reaper_that_is_refused_twice_reports_it(
    aws: Asked, secured: Server, ca: str, rotated: Rotated, proxy: Proxy
) -> None:
    """Two reads, two logins, then the error `credentials`."""
    rotated.diverge()
    report = sweep(secured, ca, rotated.secret, given={"port": proxy.port}).run()
    assert report.error is not None
    assert report.error.kind is ErrorKind.CREDENTIALS
    assert rotated.word not in repr(report)
    assert (aws[READ], proxy.counts.accepted) == (2, 2)


def test_a_throttled_secret_is_read_again(
    aws: Asked, secured: Server, ca: str, rotated: Rotated
) -> None:
    """AWS's "not so fast" is waited out like a server without a slot."""
    refusals = [
        {
            "Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"},
            "ResponseMetadata": {},
        }
    ]

    def throttle(**more: Any) -> tuple[AWSResponse, dict[str, Any]] | None:
        return (AWSResponse("", 400, {}, None), refusals.pop()) if refusals else None

    boto3.DEFAULT_SESSION.events.register_last("before-call.secrets-manager", throttle)
    with closing(Database(dsn(secured, ca), secret=rotated.secret)) as db:
        assert db.query("SELECT 7 AS a") == [{"a": 7}]
        assert (db.stats.retried, refusals) == (1, [])


def test_a_secret_that_may_not_be_read_is_told_at_once(aws: Asked) -> None:
    """Nobody waits for a right, or a name, that will not come; the report calls it a matter of
    credentials.
    """
    with closing(Database("mysql://app@192.0.2.1/shop?tls=off", secret="no-such-secret")) as db:
        with pytest.raises(
            CredentialsUnavailable, match=r"secret 'no-such-secret' cannot be read: .*NotFound"
        ):
            db.query("SELECT 1")
        assert (aws[READ], db.stats.retried) == (1, 0)
    given = {"engine": "mysql", "host": "192.0.2.1", "user": "reaper", "secret": "no-such-secret"}
    report = Sweep(SweepTarget.from_mapping(given), Rules(), "manual", Deadline.after(60)).run()
    assert report.error is not None
    assert report.error.kind is ErrorKind.CREDENTIALS


def test_an_aws_without_an_answer_keeps_to_the_deadline(
    monkeypatch: pytest.MonkeyPatch, silent_port: int
) -> None:
    """A network without a way to AWS costs the deadline, not boto3's minutes, and the error says
    what was asked.
    """
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent_port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    began = time.monotonic()
    db = Database("mysql://app@192.0.2.1/shop", secret="orders", settings=Settings(timeout=1.0))
    with pytest.raises(
        Exception, match=r"secret 'orders' cannot be read: Read timeout|no time left"
    ):
        db.query("SELECT 1")
    assert time.monotonic() - began < 5 * 1.0
