"""What each driver is told about TLS, and that the trusted certificates are read once."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import certifi
import pytest

from reaper.client import tls
from reaper.client.fields import ConfigurationError
from reaper.client.target import Target


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """A bundle like Amazon's."""
    file = tmp_path / "bundle.pem"
    file.write_bytes(Path(certifi.where()).read_bytes())
    return file


def target(**given: Any) -> Target:
    return Target.from_mapping(
        {"engine": "mysql", "host": "orders.internal", "user": "app"} | given
    )


def context(**given: Any) -> ssl.SSLContext:
    found = tls.for_pymysql(target(**given))["ssl"]
    assert isinstance(found, ssl.SSLContext)
    return found


def test_one_context_a_process(ca: Path) -> None:
    """All connections share the context of a file, until the file changes."""
    first = context(ca=str(ca))
    assert context(ca=str(ca), host="other.internal") is first
    os.utime(ca, (1, 1))
    assert context(ca=str(ca)) is not first
    assert context(tls="require") is context(tls="require")


def test_a_bundle_is_verified_with_the_name(ca: Path) -> None:
    """With a CA the chain and the host name count, though not every rule of X.509; `require`
    encrypts and no more.
    """
    verifying = context(ca=str(ca))
    assert (verifying.verify_mode, verifying.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert not verifying.verify_flags & ssl.VERIFY_X509_STRICT
    assert len(verifying.get_ca_certs()) > 0
    assert context(tls="require", ca=str(ca)).verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"sslmode": "verify-full", "sslrootcert": "CA", "require_auth": None}),
        ({"tls": "require"}, {"sslmode": "require", "sslrootcert": None, "require_auth": None}),
        ({"tls": "off"}, {"sslmode": "disable", "sslrootcert": None, "require_auth": "!password"}),
    ],
)
def test_what_libpq_is_told(
    ca: Path, given: dict[str, str], expected: dict[str, str | None]
) -> None:
    """One meaning on both engines: a CA beside `require` would make libpq verify half."""
    told = tls.for_psycopg(target(ca=str(ca), **given))
    assert told == {key: str(ca) if value == "CA" else value for key, value in expected.items()}


def test_a_ca_that_holds_no_certificate_is_an_error(tmp_path: Path) -> None:
    """The message names the target and the file, before any packet is sent."""
    file = tmp_path / "ca.pem"
    file.write_text("nothing of the kind")
    with pytest.raises(
        ConfigurationError, match=r"^target 'orders': ca '.*ca\.pem' cannot be used: "
    ):
        context(ca=str(file))
