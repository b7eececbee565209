"""An account whose password is rotated, on a real server with its secret in an imitated AWS."""

from __future__ import annotations

import json
from contextlib import closing
from itertools import count

import boto3

from lab.amazon import REGION
from lab.servers import Server, until

USER = "rotating"
READ = "GetSecretValue"


class Rotated:
    """An account whose password is kept in a secret and changes on request."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._words = (f"word-{number}" for number in count())
        with closing(server.admin()) as admin:
            for statement in _ACCOUNT[server.engine]:
                admin.cursor().execute(statement)
        self.word = self._changed()
        self._secrets = boto3.client("secretsmanager", region_name=REGION)
        self.secret = str(self._secrets.create_secret(Name=USER, SecretString=self._shape())["ARN"])

    def rotate(self) -> None:
        """Change the password as a rotation function does: on the server, then in the secret."""
        self.word = self._changed()
        self._secrets.put_secret_value(SecretId=self.secret, SecretString=self._shape())

    def diverge(self) -> None:
        """Change the password on the server and leave the secret as it was."""
        self._changed()

    def change(self, word: str) -> None:
        """Change the password on the server, to a random one."""
        if self._server.engine == "postgres":
            quoted = word.replace("'", "''")
            self._server.query(f"ALTER ROLE {USER} PASSWORD '{quoted}'")
        else:
            quoted = word.replace("\\", "\\\\").replace("'", "''")
            self._server.query(f"ALTER USER {USER}@'%' IDENTIFIED BY '{quoted}'")

    def _changed(self) -> str:
        word = next(self._words)
        self.change(word)
        return word

    def _shape(self) -> str:
        """The secret as a rotation function writes it. Its server address is wrong on purpose: the
        client must not use it.
        """
        return json.dumps(
            {
                "engine": "oracle",
                "host": "192.0.2.1",
                "port": 1,
                "username": USER,
                "password": self.word,
            }
        )


_ACCOUNT = {
    "postgres": [
        f"DROP ROLE IF EXISTS {USER}",
        f"CREATE ROLE {USER} LOGIN IN ROLE pg_read_all_stats, pg_signal_backend",
    ],
    "mysql": [
        f"CREATE USER IF NOT EXISTS {USER}@'%'",
        f"GRANT PROCESS ON *.* TO {USER}@'%'",
        f"GRANT ALL ON shop.* TO {USER}@'%'",
    ],
}


def ask_for_passwords(server: Server) -> None:
    """Have the server require a password of this account; the lab's PostgreSQL trusts everybody
    otherwise.
    """
    if server.engine != "postgres":
        return
    if server.folder is None:
        raise ValueError(
            f"{server.name} is not the tests' own: who needs a password there is not theirs to say"
        )
    rules = server.folder / "data" / "pg_hba.conf"
    text = rules.read_text()
    if USER not in text:
        rules.write_text(f"host all {USER} 127.0.0.1/32 scram-sha-256\n{text}")
    server.query("SELECT pg_reload_conf()")
    seen = f"SELECT count(*) FROM pg_hba_file_rules WHERE '{USER}' = ANY (user_name)"
    if not until(lambda: server.query(seen) == [(1,)], timeout=10):
        raise TimeoutError(f"{server.name} has not read its rules again")
