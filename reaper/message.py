"""A target that the planner discovered, as a message carries it to the sweep, and what such a
message is allowed to say.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from reaper.client.fields import ConfigurationError, choice, reject_unknown_keys, text
from reaper.client.redaction import shown
from reaper.client.target import Auth
from reaper.model import SweepTarget, SweepWarning
from reaper.rules import check_delegated


class Notice(StrEnum):
    """A warning about a target that its sweeps' reports must carry."""

    PROXY = SweepWarning.RDS_PROXY_PROTECTED.value
    PROXY_SUBNETS = SweepWarning.RDS_PROXY_SUBNETS_PROTECTED.value


# An instance's endpoint; those of clusters and proxies have a hyphen in their second label. Only
# Amazon can get a certificate for such a name, so a forged message cannot have a password sent
# elsewhere.
_ENDPOINT = re.compile(
    r"[a-z][a-z0-9-]*\.[a-z0-9]+\."
    r"(?:[a-z]+(?:-[a-z]+)+-\d+\.rds\.amazonaws\.com|rds\.cn-[a-z]+-\d+\.amazonaws\.com\.cn)"
)


@dataclass(frozen=True)
class DiscoveredTarget:
    """A target that is in no list, so the message that asks for its sweep has to bring it along.

    `notices` are warnings that the reports of its sweeps must carry.
    """

    target: SweepTarget
    notices: tuple[Notice, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads as this target; it never holds a password."""
        target = self.target.target
        found = {
            "name": target.name,
            "id": self.target.id,
            "engine": target.engine,
            "host": target.host,
            "port": target.port,
            "user": target.user,
            "auth": target.auth,
            "secret": target.secret,
            "rules": self.target.rules.to_json(),
            "notices": list(self.notices),
        }
        return {key: value for key, value in found.items() if value not in (None, {}, [])}

    @classmethod
    def from_json(cls, given: Any, where: str = "message: target") -> Self:
        """Read what `to_json` wrote.

        Raises ConfigurationError naming the key and the value. Anybody who can write to the queue
        could have written it, so it cannot choose where a password is sent, nor which sessions are
        terminated beyond what the stack allows.
        """
        reject_unknown_keys(given, _KEYS, where)
        if choice(given, "auth", Auth, where) not in (Auth.IAM, Auth.SECRET):
            raise ConfigurationError(
                f"{where}: auth is {shown('auth', given.get('auth'))}; say iam or secret"
            )
        if not _ENDPOINT.fullmatch(host := text(given, "host", where) or ""):
            raise ConfigurationError(
                f"{where}: host is {shown('host', host)}, which is no RDS instance's endpoint"
            )
        entry = {key: value for key, value in given.items() if key != "notices"}
        target = SweepTarget.from_mapping(entry | {"tls": "verify"}, where)
        check_delegated(target.rules.names, f"{where}: rules")
        return cls(target, _notices(given, where))


_KEYS = ("name", "id", "engine", "host", "port", "user", "auth", "secret", "rules", "notices")


def _notices(given: Mapping[str, Any], where: str) -> tuple[Notice, ...]:
    value = given.get("notices") or []
    if not isinstance(value, list) or any(item not in list(Notice) for item in value):
        raise ConfigurationError(
            f"{where}: notices is {shown('notices', value)}; known: {', '.join(Notice)}"
        )
    return tuple(map(Notice, value))
