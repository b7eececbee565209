"""The functions' log: one JSON object a line, on standard output, each with the request's id and
its trigger.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TextIO, cast

from aws_lambda_powertools import Logger


class _StandardOutput:
    """Standard output as it is now; a logger keeps the stream it was made with, which may be closed
    by then.
    """

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


@contextmanager
def logged_as(request_id: str, trigger: str) -> Iterator[None]:
    """Every line that is logged meanwhile carries these; a line's own trigger takes precedence.

    Afterwards they are forgotten, so that the environment's next invocation has its own.
    """
    with logger().append_context_keys(request_id=request_id, trigger=trigger):
        yield


@cache
def logger() -> Logger:
    """The one logger of both functions."""
    # In ASCII: names may hold what ends a line or commands a terminal, and JSON escapes only a part
    # of that.
    to_text = partial(json.dumps, default=str, separators=(",", ":"))
    return Logger(service="reaper", stream=cast(TextIO, _StandardOutput()), json_serializer=to_text)
