"""AWS's services for a function that runs in another process: a port that passes its calls on to
moto in this one.
"""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

REGION = "eu-central-1"


class Amazon(ThreadingHTTPServer):
    """The endpoint for AWS_ENDPOINT_URL, to be used inside `mock_aws`, which answers in this
    process.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        # Moto is not safe to call from two threads at once.
        self.lock = threading.Lock()
        self.environ = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}"}
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Amazon

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        # The signature says for which service and region the call is.
        scope = re.search(r"Credential=[^/]+/\d+/([\w-]+)/(\w+)/", self.headers["Authorization"])
        assert scope, "the call is not signed"
        headers = {
            name: value
            for name, value in self.headers.items()
            if name not in ("Host", "Content-Length")
        }
        # Not sent anywhere: moto answers in place of the network.
        with self.server.lock:
            url = f"https://{scope[2]}.{scope[1]}.amazonaws.com{self.path}"
            answer = requests.post(url, data=body, headers=headers, timeout=60)
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *args: object) -> None:
        """Say nothing."""
