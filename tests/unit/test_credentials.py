"""Where logins and target lists come from, with AWS imitated by moto: no network."""

from __future__ import annotations

import json
from collections.abc import Iterator

import boto3
import pytest
from moto import mock_aws

from reaper.client.credentials import CredentialsUnavailable, login_for
from reaper.client.target import ConfigurationError, Target
from reaper.fleet import targets_from_environ

HIDDEN = "a-marked-word"
TARGET = {"name": "orders", "engine": "mysql", "host": "orders.internal", "user": "reaper"}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        yield


def stored(secret: object) -> Target:
    """A target whose secret holds this."""
    text = secret if isinstance(secret, str) else json.dumps(secret)
    arn = boto3.client("secretsmanager").create_secret(Name="orders", SecretString=text)["ARN"]
    return Target.from_mapping(TARGET | {"secret": arn})


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("secret", "user"),
    [
        ({"username": "admin", "password": HIDDEN}, "admin"),
        ({"username": "admin", "password": HIDDEN, "engine": "mysql", "host": "elsewhere", "port": "3306"}, "admin"),
        ({"password": HIDDEN}, "reaper"),
    ],
)
def test_a_secret_gives_user_and_password(secret: dict[str, str], user: str) -> None:
    """RDS-managed and rotation shapes both give the login; where they name no user the target does."""
    login = login_for(stored(secret))
    assert (login.user, login.password) == (user, HIDDEN)
    assert HIDDEN not in repr(login)


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("secret", [HIDDEN, [HIDDEN], {"username": "admin", "word": HIDDEN}, {"password": 7}])
def test_a_secret_of_another_shape_is_an_error(secret: object) -> None:
    """The error says what the secret needs, and shows nothing of it."""
    with pytest.raises(ConfigurationError, match=r"^target 'orders': the secret .*username and password$") as caught:
        login_for(stored(secret))
    assert HIDDEN not in str(caught.value)


@pytest.mark.usefixtures("aws")
def test_a_secret_that_cannot_be_read_is_no_login() -> None:
    """AWS's refusal is told in its own words, with the target's name."""
    with pytest.raises(CredentialsUnavailable, match=r"target 'orders' cannot be read: .*ResourceNotFoundException"):
        login_for(Target.from_mapping(TARGET | {"secret": "none"}))


@pytest.mark.usefixtures("aws")
def test_an_iam_token_is_made_for_the_target() -> None:
    """Auth iam logs in as the target's user with a token for its host and port."""
    login = login_for(Target.from_mapping(TARGET | {"auth": "iam"}))
    assert login.user == "reaper"
    assert login.password is not None
    assert login.password.startswith("orders.internal:3306/?Action=connect&DBUser=reaper&")


@pytest.mark.usefixtures("aws")
def test_the_target_list_comes_from_ssm() -> None:
    """REAPER_TARGETS_PARAMETER names the parameter that holds the list; what is wrong in it names the parameter."""
    ssm = boto3.client("ssm")
    ssm.put_parameter(Name="/reaper/targets", Type="SecureString", Value=json.dumps([TARGET]))
    ssm.put_parameter(Name="/reaper/broken", Type="String", Value="{")
    (target,) = targets_from_environ({"REAPER_TARGETS_PARAMETER": "/reaper/targets"})
    assert target.name == "orders"
    with pytest.raises(ConfigurationError, match=r"^SSM parameter /reaper/broken is not a JSON list"):
        targets_from_environ({"REAPER_TARGETS_PARAMETER": "/reaper/broken"})
    with pytest.raises(ConfigurationError, match=r"^REAPER_TARGETS_PARAMETER '/none' cannot be read: "):
        targets_from_environ({"REAPER_TARGETS_PARAMETER": "/none"})
