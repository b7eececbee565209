"""How a connection is secured: what each driver is told, so that no password travels before TLS is
up.
"""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path
from typing import Any

from reaper.client.fields import ConfigurationError
from reaper.client.target import Target, Tls

_SSLMODES = {Tls.OFF: "disable", Tls.REQUIRE: "require", Tls.VERIFY: "verify-full"}


def for_psycopg(target: Target) -> dict[str, Any]:
    """libpq's parameters. It keeps contexts of its own, and reads the file anew for each
    connection.
    """
    tls = target.effective_tls
    return {
        "sslmode": _SSLMODES[tls],
        # Only there: next to "require" it would verify the certificate after all, and not the name.
        "sslrootcert": target.ca if tls is Tls.VERIFY else None,
        # Without TLS libpq would answer a server that asks for the password itself (16 and later
        # can refuse).
        "require_auth": "!password" if tls is Tls.OFF else None,
    }


def for_pymysql(target: Target) -> dict[str, Any]:
    """PyMySQL's arguments. `ssl_ca` alone would encrypt without verifying, so it gets a whole
    context.
    """
    match target.effective_tls:
        case Tls.OFF:
            # PyMySQL 1.2.4 answers these two without a look at whether TLS is on
            # (Connection._process_auth).
            return {
                "ssl_disabled": True,
                "auth_plugin_map": {"mysql_clear_password": _Refuses, "dialog": _Refuses},
            }
        case Tls.REQUIRE:
            return {"ssl": _encrypting()}
        case Tls.VERIFY:
            return {"ssl": _trusting(target)}


class _Refuses:
    """A way to log in that hands the password itself to whoever asks, in PyMySQL's form."""

    def __init__(self, connection: Any) -> None:
        self._server = f"{connection.host}:{connection.port}"

    def authenticate(self, packet: object) -> None:  # noqa: ARG002  whatever it says
        raise ConfigurationError(
            f"{self._server} asks for the password in clear text and tls is 'off'; say tls=verify"
        )


@lru_cache(maxsize=1)
def _encrypting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _trusting(target: Target) -> ssl.SSLContext:
    ca = Path(target.ca or "")
    try:
        return _made(ca, ca.stat().st_mtime_ns)
    # ssl's own errors are OSErrors
    except OSError as problem:
        raise ConfigurationError(
            f"target {target.name!r}: ca {target.ca!r} cannot be used: {problem}"
        ) from None


@lru_cache(maxsize=8)
def _made(ca: Path, changed: int) -> ssl.SSLContext:  # noqa: ARG001  a file that has changed is read again
    """One context a process and file: to read a bundle of a hundred certificates takes 30 ms."""
    context = ssl.create_default_context(cafile=ca)
    # Amazon's roots lack an extension that Python 3.13 demands by default.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
