"""Where a target's user and password come from, and for how long they are used."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from reaper.client.deadline import Clock, Deadline
from reaper.client.faults import Fault
from reaper.client.fields import ConfigurationError, object_or_empty
from reaper.client.target import Auth, Target

# Seconds by the wall clock. A token is good for 15 minutes and any number of logins. What stands in
# the target, or comes from the caller's own function, costs nothing to ask for again.
_MAX_AGE = {Auth.SECRET: 300.0, Auth.IAM: 600.0, Auth.PASSWORD: 0.0}

# Seconds that AWS may take to answer.
_LONGEST_WAIT = 2.0
# boto3's default session is not thread-safe, and targets are swept concurrently.
_making = threading.Lock()


class CredentialsUnavailable(Exception):
    """AWS gave no secret or token.

    The message is AWS's own; `fault` says whether trying again may help.
    """

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True)
class Login:
    """A user and a password; the latter is in no repr."""

    user: str
    password: str | None = field(default=None, repr=False)


class Credentials:
    """One target's login: fetched when it is needed, kept until it is old or a server has refused
    it.

    `password` is the caller's own source, asked for every new connection; what it gives is kept by
    nobody.
    """

    def __init__(
        self, target: Target, password: Callable[[], str] | None = None, wall: Clock = time.time
    ) -> None:
        if password is not None and (
            target.auth is not Auth.PASSWORD or target.password is not None
        ):
            own = f"auth {target.auth.value!r}" if target.password is None else "a password"
            raise ConfigurationError(
                f"target {target.name!r} has {own} beside the function that gives its password; "
                f"keep one of them"
            )
        self._target = target
        self._password = password
        self._wall = wall
        self._kept: tuple[Login, float] | None = None

    @property
    def can_change(self) -> bool:
        """Whether asking again may bring another login than the one that was refused."""
        return self._password is not None or self._target.auth is not Auth.PASSWORD

    def forget(self) -> None:
        """Have the next login fetched, however young this one is."""
        self._kept = None

    def login(self, deadline: Deadline) -> Login:
        """The user and password to log in with.

        Raises ConfigurationError where the secret has no such shape, CredentialsUnavailable where
        AWS gives none.
        """
        now = self._wall()
        if self._kept is not None:
            login, fetched = self._kept
            # A negative age means that the clock was set back, and says nothing.
            if 0 <= now - fetched < _MAX_AGE[self._target.auth]:
                return login
        login = self._fetched(deadline)
        if not (_can_be_sent(login.user) and _can_be_sent(login.password or "")):
            raise ConfigurationError(
                f"target {self._target.name!r}: its user or password holds a NUL or half a "
                "character, which no login can carry; choose another"
            )
        self._kept = login, now
        return login

    def _fetched(self, deadline: Deadline) -> Login:
        target = self._target
        match target.auth:
            case Auth.SECRET:
                return _from_secret(target, deadline)
            case Auth.IAM:
                return Login(target.user, _token(target, deadline))
            case Auth.PASSWORD:
                return Login(target.user, self._password() if self._password else target.password)


def _can_be_sent(word: str) -> bool:
    """Whether a driver can put it into a login; its own error over one that it cannot would carry
    it along.
    """
    return "\0" not in word and not any("\ud800" <= letter <= "\udfff" for letter in word)


def aws_client(service: str, deadline: Deadline, region: str | None = None) -> Any:
    """A client for one call, which tries twice and ends with the deadline; boto3's own patience is
    minutes.

    Not kept: the connection it pools would die in a freeze, and a new one takes 3 ms once boto3 is
    loaded.
    """
    # Importing boto3 takes half a second on a cold start, so only where AWS is asked.
    import boto3
    from botocore.config import Config

    wait = min(_LONGEST_WAIT, max(deadline.remaining(), 0.01) / 4)
    # Every address that the name resolves to may take the time to connect.
    config = Config(
        connect_timeout=wait / 2,
        read_timeout=wait,
        retries={"mode": "standard", "total_max_attempts": 2},
    )
    with _making:
        return boto3.client(service, region_name=region or None, config=config)


@contextmanager
def _told_by_aws(what: str) -> Iterator[None]:
    """Raise AWS's errors, and boto3's, as CredentialsUnavailable saying what was asked for."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"{what}: boto3 is missing; Lambda brings it along, elsewhere install it"
        ) from None
    try:
        yield
    except (BotoCoreError, ClientError) as problem:
        raise CredentialsUnavailable(f"{what}: {problem}", _fault(problem)) from None


def _fault(problem: Exception) -> Fault:
    """What trying again can do about it: no route, no answer, throttling and AWS's own failures are
    temporary; anything else is for a person to change.
    """
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError  # noqa: A004  botocore's name for it

    if isinstance(problem, ClientError):
        status = problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        passes = status >= 500 or "Throttl" in problem.response["Error"]["Code"]
    else:
        passes = isinstance(problem, ConnectionError | HTTPClientError)
    return Fault.UNREACHABLE if passes else Fault.CONFIGURATION


def _from_secret(target: Target, deadline: Deadline) -> Login:
    """The login in a secret, whether RDS wrote it ({username, password}) or a rotation function,
    which adds host, port and more.

    Only the login is used: where to connect is up to the target alone.
    """
    where = f"target {target.name!r}: secret {target.secret!r}"
    with _told_by_aws(f"{where} cannot be read"):
        found = _read(target.secret or "", deadline)
    user, password = found.get("username") or target.user, found.get("password")
    if not isinstance(password, str):
        raise ConfigurationError(
            f"{where} holds no password; it must be a JSON object with username and password"
        )
    if not isinstance(user, str):
        raise ConfigurationError(
            f"{where} holds a username that is no text; it must be a JSON object with both"
        )
    return Login(user, password)


def _read(secret: str, deadline: Deadline) -> Mapping[str, Any]:
    match secret.split(":"):
        case ["ssm", _, *_]:
            return _parameter(secret.removeprefix("ssm:"), None, deadline)
        case ["arn", _, "ssm", region, *_]:
            return _parameter(secret, region, deadline)
        case ["arn", _, _, region, *_]:
            return _managed(secret, region, deadline)
    return _managed(secret, None, deadline)


def _managed(name: str, region: str | None, deadline: Deadline) -> Mapping[str, Any]:
    answer = aws_client("secretsmanager", deadline, region).get_secret_value(SecretId=name)
    return object_or_empty(answer.get("SecretString") or "")


def _parameter(name: str, region: str | None, deadline: Deadline) -> Mapping[str, Any]:
    """What an SSM parameter holds: the same object, or just the password."""
    answer = aws_client("ssm", deadline, region).get_parameter(Name=name, WithDecryption=True)
    text = answer["Parameter"]["Value"]
    return object_or_empty(text) or {"password": text}


def _token(target: Target, deadline: Deadline) -> str:
    # Signed here, without a packet to AWS. It is good for the region in the host's name alone.
    region = re.search(r"\.([a-z]+(?:-[a-z]+)+-\d)\.rds\.amazonaws\.com$", target.host)
    with _told_by_aws(f"target {target.name!r}: no IAM token can be made"):
        client = aws_client("rds", deadline, region[1] if region else None)
        token: str = client.generate_db_auth_token(target.host, target.port, target.user)
    return token
