"""Servers that speak TLS and check passwords, with certificates from an authority made for this
run.
"""

from __future__ import annotations

import datetime
import select
import socket
import ssl
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from . import processes
from .base import Server
from .catalogue import start

# PostgreSQL's pg_hba.conf: the standard accounts log in without a password, others only with an
# entry of their own.
HBA = """
host  all  postgres,app,reaper  127.0.0.1/32  trust
host  all  asked                127.0.0.1/32  password
host  all  rotating             127.0.0.1/32  scram-sha-256
"""


class Authority:
    """A certificate authority for the tests; its folder is removed at the end of the run."""

    def __init__(self, name: str) -> None:
        self.folder = processes.run().folder / name
        self.folder.mkdir()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(
            self._name, self._key, x509.BasicConstraints(ca=True, path_length=0)
        )
        self.ca = self._written("ca.pem", certificate.public_bytes(serialization.Encoding.PEM))

    def certificate(self, host: str) -> tuple[Path, Path]:
        """A certificate for one host name, and its key, with file permissions that PostgreSQL
        accepts.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._signed(subject, key, x509.SubjectAlternativeName([x509.DNSName(host)]))
        pem = serialization.Encoding.PEM
        plain = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._written("server.pem", certificate.public_bytes(pem)), self._written(
            "server.key", plain
        )

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )

    def _written(self, name: str, content: bytes) -> Path:
        file = self.folder / name
        file.touch(0o600)
        file.write_bytes(content)
        return file


@cache
def authority(name: str = "authority") -> Authority:
    return Authority(name)


class Front:
    """Terminates TLS before a PostgreSQL that was built without it, as a pooler does. Plain-text
    connections pass through.
    """

    _SSL_REQUEST = bytes([0, 0, 0, 8, 4, 210, 22, 47])

    def __init__(self, server: Server, certificate: Path, key: Path) -> None:
        self._server = server
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, name="front", daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), ExitStack() as opened:
            opened.enter_context(client)
            first = client.recv(8)
            if first == self._SSL_REQUEST:
                client.sendall(b"S")
                client = opened.enter_context(self._context.wrap_socket(client, server_side=True))
                first = b""
            server = opened.enter_context(
                socket.create_connection((self._server.host, self._server.port))
            )
            server.sendall(first)
            while True:
                for source in select.select([client, server], [], [])[0]:
                    if not (piece := source.recv(65536)):
                        return
                    (server if source is client else client).sendall(piece)


@cache
def secure(name: str) -> Server:
    """A server by its name in the catalogue, with TLS: its certificate is for `localhost`, and for
    no address.
    """
    certificate, key = authority().certificate("localhost")
    if not name.startswith("postgres"):
        return start(
            name,
            settings={
                "ssl_ca": str(authority().ca),
                "ssl_cert": str(certificate),
                "ssl_key": str(key),
            },
        )
    hba = authority().folder / "pg_hba.conf"
    hba.write_text(HBA)
    server = start(name, settings={"hba_file": str(hba)})
    return replace(server, port=Front(server, certificate, key).port)
