"""Which server, as whom, and how safely: what a connection needs to know, read from a mapping or a
DSN.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from reaper.client.fields import ConfigurationError, choice, reject_unknown_keys, text
from reaper.client.redaction import redact, shown


class EngineName(StrEnum):
    """The protocol that a server speaks. MySQL stands for MariaDB and Aurora MySQL as well: which
    of them it is, is read from the server.
    """

    MYSQL = "mysql"
    POSTGRES = "postgres"


class Auth(StrEnum):
    """Where the password comes from: a secret in AWS, an IAM token, or the target itself."""

    SECRET = "secret"  # noqa: S105  a way to log in, not a secret
    IAM = "iam"
    PASSWORD = "password"  # noqa: S105  a way to log in, not a password


class Tls(StrEnum):
    """Whether the connection is encrypted, and whether the server's certificate is verified."""

    VERIFY = "verify"
    REQUIRE = "require"
    OFF = "off"


DEFAULT_PORTS = {EngineName.MYSQL: 3306, EngineName.POSTGRES: 5432}
_SCHEMES = {
    "mysql": EngineName.MYSQL,
    "mariadb": EngineName.MYSQL,
    "postgresql": EngineName.POSTGRES,
    "postgres": EngineName.POSTGRES,
}


@dataclass(frozen=True)
class Target:
    """One database server and the account to use there.

    `tls` None means: verified, except on loopback without a `ca`, where it is not asked for.
    """

    name: str
    engine: EngineName
    host: str
    port: int
    user: str
    database: str | None = None
    auth: Auth = Auth.PASSWORD
    secret: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    ca: str | None = None

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any], where: str = "target") -> Self:
        """Read and check one entry of a target list; raise ConfigurationError naming the key and
        the value.
        """
        reject_unknown_keys(given, [f.name for f in fields(cls)], where)
        for key in ("host", "user"):
            if not given.get(key):
                raise ConfigurationError(f"{where}: {key} is missing")
        # Its first label would become the target's name, which is shown everywhere.
        if isinstance(host := given["host"], str) and re.search(r"[\s@\"'{}=]|://", host):
            value = shown("host", host)
            raise ConfigurationError(
                f"{where}: host is {value}; give a name or an address and nothing else"
            )
        name = text(given, "name", where) or first_label(
            host if isinstance(host, str) else shown("host", host)
        )
        where = f"target {shown('name', name)}"
        engine = choice(given, "engine", EngineName, where)
        if engine is None:
            raise ConfigurationError(f"{where}: engine is missing; say mysql or postgres")
        target = cls(
            name=name,
            engine=engine,
            host=text(given, "host", where) or "",
            port=_port(given, engine, where),
            user=text(given, "user", where) or "",
            database=text(given, "database", where),
            auth=choice(given, "auth", Auth, where)
            or (Auth.SECRET if given.get("secret") else Auth.PASSWORD),
            secret=text(given, "secret", where),
            password=_password(given, where),
            tls=choice(given, "tls", Tls, where),
            ca=text(given, "ca", where),
        )
        target._check(where)
        return target

    @classmethod
    def from_dsn(cls, dsn: str) -> Self:
        """Read `mysql://user:password@host:port/database?tls=off` or `postgresql://…`; other keys
        are options.
        """
        return cls.from_mapping(parse_dsn(dsn), f"DSN {redact(dsn)!r}")

    @property
    def effective_tls(self) -> Tls:
        """What `tls` says, or its default for this host."""
        return self.tls or (Tls.OFF if is_loopback(self.host) and not self.ca else Tls.VERIFY)

    def _check(self, where: str) -> None:
        if not self.name.isprintable() or not self.name.strip() or len(self.name) > _LONGEST_NAME:
            raise ConfigurationError(
                f"{where}: name must be 1 to {_LONGEST_NAME} printable characters; give another"
            )
        if self.auth is Auth.SECRET and not self.secret:
            raise ConfigurationError(
                f"{where}: auth is 'secret' but secret is missing; give its ARN or name"
            )
        if self.auth is Auth.IAM and self.effective_tls is Tls.OFF:
            raise ConfigurationError(
                f"{where}: auth 'iam' needs TLS, but tls is 'off'; an IAM token is a password"
            )
        if self.ca and not Path(self.ca).is_file():
            raise ConfigurationError(f"{where}: ca {self.ca!r} is not a file")


# The name stands in log lines and is a dimension of metrics.
_LONGEST_NAME = 255

_ENCODE = "write : / ? # @ in a user or password as %3A %2F %3F %23 %40"


def parse_dsn(dsn: str) -> dict[str, Any]:
    """The mapping a DSN stands for, not yet checked against a target's keys."""
    # Every error below shows the DSN, and none its password.
    shown = redact(dsn)
    try:
        parts = urlsplit(dsn)
        port = parts.port
    # The text of urllib's error shows what it took for the port, which may be half a password.
    except ValueError:
        raise ConfigurationError(
            f"DSN {shown!r}: the port is no number from 0 to 65535; {_ENCODE}"
        ) from None
    engine = _SCHEMES.get(parts.scheme)
    if engine is None or "://" not in dsn:
        raise ConfigurationError(f"DSN {shown!r}: begin it with mysql:// or postgresql://")
    if "@" in parts.path + parts.query or parts.fragment:
        raise ConfigurationError(f"DSN {shown!r}: there is an @ or # behind the host; {_ENCODE}")
    for part, value in (("host", parts.hostname), ("user", parts.username)):
        if not value:
            raise ConfigurationError(
                f"DSN {shown!r} has no {part}; write {parts.scheme}://user@host:port/database"
            )
    found = {
        "engine": engine.value,
        "host": parts.hostname,
        "port": port,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password) if parts.password else None,
        "database": unquote(parts.path.lstrip("/")) or None,
    }
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if twice := options.keys() & {key for key, value in found.items() if value is not None}:
        raise ConfigurationError(f"DSN {shown!r} gives {min(twice)} twice")
    return found | options


def first_label(host: str) -> str:
    """`orders` of `orders.abc.eu-central-1.rds.amazonaws.com`; an address has no labels and is
    itself.
    """
    return host if _address(host) else host.split(".")[0]


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether the host is this machine, by its name or by its address."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _password(given: Mapping[str, Any], where: str) -> str | None:
    value = given.get("password")
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"{where}: password is no text")
    return value


def _port(given: Mapping[str, Any], engine: EngineName, where: str) -> int:
    value = given.get("port")
    if value is None:
        return DEFAULT_PORTS[engine]
    # A secret and a DSN option spell the port as a text.
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 65536:
        raise ConfigurationError(
            f"{where}: port is {shown('port', value)}; give a number from 1 to 65535"
        )
    return number
