"""Where logins and target lists come from, with AWS imitated by moto: no network."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
)

from reaper.client.credentials import Credentials, CredentialsUnavailable, Login, _fault
from reaper.client.database import Database
from reaper.client.deadline import Deadline
from reaper.client.faults import Fault
from reaper.client.fields import ConfigurationError
from reaper.client.target import Target
from reaper.environment import targets_from_environ
from reaper.model import SweepTarget
from tests.aws import Asked, aws

# The fixture, for pytest to find here
__all__ = ["aws"]

HIDDEN = "a-marked-word"
TARGET = {"name": "orders", "engine": "mysql", "host": "orders.internal", "user": "reaper"}
ROTATION = {
    "engine": "mysql",
    "host": "elsewhere",
    "username": "admin",
    "password": HIDDEN,
    "port": "1",
}


class Wall:
    """A wall clock that is set by hand."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def login(given: dict[str, Any]) -> Login:
    return Credentials(Target.from_mapping(TARGET | given)).login(Deadline.after(60))


def stored(secret: object) -> str:
    """The ARN of a secret that holds this."""
    text = secret if isinstance(secret, str) else json.dumps(secret)
    return str(
        boto3.client("secretsmanager").create_secret(Name="orders", SecretString=text)["ARN"]
    )


def parameter(value: object, name: str = "/orders/login") -> str:
    """The ARN of an SSM parameter that holds this."""
    text = value if isinstance(value, str) else json.dumps(value)
    ssm = boto3.client("ssm")
    ssm.put_parameter(Name=name, Type="SecureString", Value=text)
    return str(ssm.get_parameter(Name=name)["Parameter"]["ARN"])


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("secret", "user"),
    [
        ({"username": "admin", "password": HIDDEN}, "admin"),
        (ROTATION, "admin"),
        ({"password": HIDDEN}, "reaper"),
    ],
)
def test_a_secret_gives_user_and_password(secret: dict[str, str], user: str) -> None:
    """RDS-managed and rotation shapes both give the login; where they name no user the target
    does.
    """
    arn = stored(secret)
    assert login({"secret": arn}) == login({"secret": "orders"}) == Login(user, HIDDEN)


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("value", "user"),
    [(HIDDEN, "reaper"), ({"password": HIDDEN}, "reaper"), (ROTATION, "admin")],
)
def test_a_parameter_gives_user_and_password(value: object, user: str) -> None:
    """An SSM parameter, by name or ARN, holds the same object or the bare password."""
    arn = parameter(value)
    assert login({"secret": arn}) == login({"secret": "ssm:/orders/login"}) == Login(user, HIDDEN)


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("value", ["12345678", "[1]", '"quoted"', "{not json"])
def test_a_bare_password_is_taken_as_it_stands(value: str) -> None:
    """A password that happens to look like JSON is still the password."""
    parameter(value)
    assert login({"secret": "ssm:/orders/login"}) == Login("reaper", value)


@pytest.mark.usefixtures("aws")
def test_a_secret_is_read_where_its_arn_says() -> None:
    """The region in an ARN goes over the function's own."""
    there = boto3.client("secretsmanager", region_name="eu-west-1")
    arn = there.create_secret(Name="orders", SecretString=json.dumps({"password": HIDDEN}))["ARN"]
    assert login({"secret": arn}) == Login("reaper", HIDDEN)


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    "secret", [HIDDEN, [HIDDEN], {"username": "admin", "word": HIDDEN}, {"password": 7}]
)
def test_a_secret_of_another_shape_is_an_error(secret: object) -> None:
    """The error says what the secret needs, and shows nothing of it."""
    stored(secret)
    with pytest.raises(
        ConfigurationError, match=r"^target 'orders': secret 'orders' holds no password; "
    ) as caught:
        login({"secret": "orders"})
    assert HIDDEN not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("secret", "code"), [("none", "ResourceNotFoundException"), ("ssm:/none", "ParameterNotFound")]
)
def test_what_cannot_be_read_is_no_login(secret: str, code: str) -> None:
    """AWS's refusal is told in its own words, with the names of target and secret."""
    words = rf"^target 'orders': secret '{secret}' cannot be read: .*{code}"
    with pytest.raises(CredentialsUnavailable, match=words) as caught:
        login({"secret": secret})
    assert caught.value.fault is Fault.CONFIGURATION


def refusal(code: str, status: int = 400) -> ClientError:
    return ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetSecretValue"
    )


@pytest.mark.parametrize(
    ("problem", "fault"),
    [
        (refusal("ThrottlingException"), Fault.UNREACHABLE),
        (refusal("InternalServiceError", 500), Fault.UNREACHABLE),
        (ConnectTimeoutError(endpoint_url="https://x"), Fault.UNREACHABLE),
        (EndpointConnectionError(endpoint_url="https://x"), Fault.UNREACHABLE),
        (refusal("AccessDeniedException"), Fault.CONFIGURATION),
        (refusal("DecryptionFailure"), Fault.CONFIGURATION),
        (NoCredentialsError(), Fault.CONFIGURATION),
    ],
)
def test_what_passes_is_tried_again(problem: Exception, fault: Fault) -> None:
    """Throttling, failures and silence of AWS's pass; a right that is missing does not."""
    assert _fault(problem) is fault


def test_a_secret_is_kept_by_the_wall_clock(aws: Asked) -> None:
    """One read serves all logins of five minutes; a clock set back, or a refused login, ends
    that.
    """
    wall = Wall()
    credentials = Credentials(
        Target.from_mapping(TARGET | {"secret": stored({"password": HIDDEN})}), wall=wall
    )
    reads = []
    for step in (0, 299, 1, 299, -1000, 1):
        wall.now += step
        credentials.login(Deadline.after(60))
        reads.append(aws["GetSecretValue"])
    assert reads == [1, 1, 2, 2, 3, 3]
    credentials.forget()
    credentials.login(Deadline.after(60))
    assert aws["GetSecretValue"] == 4


@pytest.mark.usefixtures("aws")
def test_an_iam_token_is_made_for_the_target() -> None:
    """Auth iam logs in as the target's user with a token for its host and port, in the region of
    its host.
    """
    host = "orders.abc.eu-west-1.rds.amazonaws.com"
    made = login({"auth": "iam", "host": host})
    assert made.user == "reaper"
    assert made.password is not None
    assert made.password.startswith(f"{host}:3306/?Action=connect&DBUser=reaper&")
    assert "eu-west-1%2Frds-db" in made.password
    assert "eu-central-1%2Frds-db" in (login({"auth": "iam"}).password or "")


@pytest.mark.usefixtures("aws")
def test_an_iam_token_is_never_near_its_end() -> None:
    """A token lives 15 minutes; it serves for ten, then another is made."""
    wall = Wall()
    credentials = Credentials(Target.from_mapping(TARGET | {"auth": "iam"}), wall=wall)
    first = credentials.login(Deadline.after(60))
    wall.now += 599
    assert credentials.login(Deadline.after(60)) is first
    wall.now += 1
    assert credentials.login(Deadline.after(60)) is not first


def test_a_function_is_asked_for_every_login() -> None:
    """What the caller's own function gives is kept by nobody."""
    words = iter(["first", "second"])
    credentials = Credentials(Target.from_mapping(TARGET), lambda: next(words))
    assert [credentials.login(Deadline.after(60)).password for _ in range(2)] == ["first", "second"]


@pytest.mark.parametrize("given", [{"secret": "orders"}, {"auth": "iam"}, {"password": HIDDEN}])
def test_two_sources_are_a_mistake(given: dict[str, str]) -> None:
    """A function beside a secret, a token or a password: which one was meant?"""
    with pytest.raises(
        ConfigurationError, match=r"^target 'orders' has a.*; keep one of them$"
    ) as caught:
        Credentials(Target.from_mapping(TARGET | given), lambda: HIDDEN)
    assert HIDDEN not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "changes"),
    [({}, False), ({"password": HIDDEN}, False), ({"secret": "s"}, True), ({"auth": "iam"}, True)],
)
def test_only_what_can_change_is_worth_another_login(given: dict[str, str], changes: bool) -> None:
    """A password that stands in the target will be refused again: trying it twice would only help a
    lock-out.
    """
    assert Credentials(Target.from_mapping(TARGET | given)).can_change is changes
    assert Credentials(Target.from_mapping(TARGET), lambda: HIDDEN).can_change


def test_nothing_shows_a_password() -> None:
    """Objects land in logs and tracebacks by their repr and str."""
    given = TARGET | {"password": HIDDEN}
    target, credentials = Target.from_mapping(given), Credentials(Target.from_mapping(given))
    made = credentials.login(Deadline.after(60))
    database = Database(f"mysql://app:{HIDDEN}@orders.internal/shop")
    holders = (
        target,
        credentials,
        made,
        database,
        database._kept,
        database.target,
        SweepTarget.from_mapping(given),
    )
    assert made.password == HIDDEN
    assert [holder for holder in holders if HIDDEN in f"{holder!r} {holder}"] == []


@pytest.mark.usefixtures("aws")
def test_the_target_list_comes_from_ssm() -> None:
    """REAPER_TARGETS_PARAMETER names the parameter that holds the list; what is wrong in it names
    the parameter.
    """
    parameter([TARGET], "/reaper/targets")
    parameter("{", "/reaper/broken")
    (target,) = targets_from_environ({"REAPER_TARGETS_PARAMETER": "/reaper/targets"})
    assert target.name == "orders"
    with pytest.raises(
        ConfigurationError, match=r"^SSM parameter /reaper/broken is not a JSON list"
    ):
        targets_from_environ({"REAPER_TARGETS_PARAMETER": "/reaper/broken"})
    with pytest.raises(
        ConfigurationError, match=r"^REAPER_TARGETS_PARAMETER '/none' cannot be read: "
    ):
        targets_from_environ({"REAPER_TARGETS_PARAMETER": "/none"})
