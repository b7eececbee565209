"""Which server, as whom, and how safely: what a connection needs to know, read from a mapping or a
DSN.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit


class ConfigurationError(ValueError):
    """Something a person configured is wrong; the message says what, with which value, and what to
    do.
    """


class EngineName(StrEnum):
    # MySQL, MariaDB and Aurora MySQL: the flavour is read from the server
    MYSQL = "mysql"
    POSTGRES = "postgres"


class Auth(StrEnum):
    SECRET = "secret"  # noqa: S105  a way to log in, not a secret
    IAM = "iam"
    PASSWORD = "password"  # noqa: S105  a way to log in, not a password


class Tls(StrEnum):
    VERIFY = "verify"
    REQUIRE = "require"
    OFF = "off"


DEFAULT_PORTS = {EngineName.MYSQL: 3306, EngineName.POSTGRES: 5432}
_Kind = TypeVar("_Kind", bound=StrEnum)
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
        # It would become the name
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


# It stands in log lines and is a dimension of metrics
_LONGEST_NAME = 255

_ENCODE = "write : / ? # @ in a user or password as %3A %2F %3F %23 %40"


def parse_dsn(dsn: str) -> dict[str, Any]:
    """The mapping a DSN stands for, not yet checked against a target's keys."""
    # Every error below shows the DSN, none its password
    shown = redact(dsn)
    try:
        parts = urlsplit(dsn)
        port = parts.port
    # Its text would show what it took for the port, which may be half a password
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


def redact(dsn: str) -> str:
    """The DSN without its password, fit for an error message."""
    hidden = re.sub(
        r"([?&])([^=&]*)=[^&]*", lambda m: f"{m[1]}{m[2]}=***" if is_secret(m[2]) else m[0], dsn
    )
    # Greedy up to the last @: a password typed without percent-encoding may hold one itself.
    hidden = re.sub(r"(?s)^(.*?):(?!//).*@", r"\1:***@", hidden)
    # No @ at all: the host was forgotten, and what stands where its port would be is no port.
    return re.sub(r"(?s)^([^@\[]*?):(?!//|\d*(?:[/?]|$))[^@]*$", r"\1:***", hidden)


def hide_passwords(text: str) -> str:
    """A message without the passwords of DSNs that somebody else put into it; `redact` is for a DSN
    alone.
    """
    hidden = re.sub(r":(?!//)\S*@", ":***@", text)
    return re.sub(r"(://[^\s:/@\[]*):(?!//|\d*(?:[/?'\"\s]|$))[^\s@]*(?!\S*@)", r"\1:***", hidden)


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
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def reject_unknown_keys(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise ConfigurationError for the first key that is not known, with the nearest one that
    is.
    """
    if not isinstance(given, Mapping):
        # Not its value: where a target is meant it may be a DSN with a password.
        raise ConfigurationError(f"{where} is {type(given).__name__}, not an object with keys")
    names = list(known)
    for key in given:
        if key not in names:
            name, value = shown("key", key), shown(str(key), given[key])
            raise ConfigurationError(
                f"{where}: unknown key {name} with value {value}{hint(key, names)}"
            )


def hint(word: object, known: Iterable[str]) -> str:
    """The end of an error about an unknown word: the nearest known one, else all of them."""
    near = nearest(word, known)
    return f"; did you mean {near!r}?" if near else f"; known: {', '.join(known)}"


def nearest(word: object, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    # No known word is so long, and to compare one of megabytes takes seconds.
    found = difflib.get_close_matches(str(word)[:100], list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def is_secret(key: str) -> bool:
    """Whether a key names a password, however it is spelt."""
    return (
        _SECRET.search(key) is not None
        or key.lower() == "pw"
        or nearest(key.lower(), ["password"]) is not None
    )


_SECRET = re.compile("pass|pwd|secret|token|credential", re.IGNORECASE)
_FROM_A_SECRET_ON = re.compile(rf"(?is)((?:pasw|{_SECRET.pattern})\w*\W{{0,6}}?[:=]).*")
# Letters, of which at most 60 are shown
_LOOKED_AT = 2000


def shown(key: str, value: object) -> str:
    """A value as an error message may show it: short, on one line, and never a secret.

    Within it, nothing is shown that follows a key for secrets, nor a DSN's password.
    """
    if is_secret(key):
        return "***"
    try:
        found = repr(value[:_LOOKED_AT] if isinstance(value, str) else value)
    # An integer of more digits than Python prints
    except ValueError:
        return f"a huge {type(value).__name__}"
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    found = _FROM_A_SECRET_ON.sub(r"\1 ***", found[:_LOOKED_AT])
    found = hide_passwords(found)
    return found if len(found) <= 60 else found[:57] + "..."


def printable(text: str) -> str:
    """What somebody else chose to write, safe to show: one line, and nothing that a terminal would
    obey.
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def parse_json(text: Any) -> Any:
    """What a JSON text says; raise ValueError where it is none, is nested too deeply, or gives a
    key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {shown('key', key)} is given twice")
        found[key] = value
    return found


def text(given: Mapping[str, Any], key: str, where: str) -> str | None:
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{where}: {key} is {shown(key, value)}; give it as a text")
    # Whatever it is taken for would be shown again and again
    if "://" in value and hide_passwords(value) != value:
        raise ConfigurationError(
            f"{where}: {key} is {shown(key, value)}; a DSN with its password does not belong here"
        )
    return value


def choice(given: Mapping[str, Any], key: str, kinds: type[_Kind], where: str) -> _Kind | None:
    value = given.get(key)
    if value is None:
        return None
    try:
        return kinds(value)
    except ValueError:
        raise ConfigurationError(
            f"{where}: {key} is {shown(key, value)}; choose {', '.join(kinds)}"
        ) from None


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
