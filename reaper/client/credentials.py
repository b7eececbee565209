"""Where a target's user and password come from: nowhere, Secrets Manager, or an IAM token made on the spot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reaper.client.target import Auth, ConfigurationError, Target


class CredentialsUnavailable(Exception):
    """AWS gave no secret or token; the message is AWS's own."""


@dataclass(frozen=True)
class Login:
    user: str
    password: str | None = field(default=None, repr=False)


def login_for(target: Target) -> Login:
    """The user and password to log in with, fetched now.

    Raises ConfigurationError where the secret has no such shape, CredentialsUnavailable where AWS gives none.
    """
    match target.auth:
        case Auth.PASSWORD:
            return Login(target.user, target.password)
        case Auth.SECRET:
            return _from_secret(target)
        case Auth.IAM:
            return Login(target.user, _token(target))


def _from_secret(target: Target) -> Login:
    import boto3  # half a second on a cold start, so only where a secret is asked for
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = boto3.client("secretsmanager").get_secret_value(SecretId=target.secret)
    except (BotoCoreError, ClientError) as problem:
        raise CredentialsUnavailable(f"the secret of target {target.name!r} cannot be read: {problem}") from None
    found = _parse(answer.get("SecretString"), target.name)
    # Keys as RDS and its rotation functions write them; what else they hold comes from the target.
    password = found.get("password")
    if not isinstance(password, str):
        raise ConfigurationError(f"target {target.name!r}: the secret has no password; it needs username and password")
    return Login(str(found.get("username") or target.user), password)


def _parse(secret: str | None, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(secret or "")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigurationError(f"target {name!r}: the secret is no JSON object with username and password")
    return found


def _token(target: Target) -> str:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        token: str = boto3.client("rds").generate_db_auth_token(target.host, target.port, target.user)
    except (BotoCoreError, ClientError) as problem:
        raise CredentialsUnavailable(f"no IAM token for target {target.name!r}: {problem}") from None
    return token
