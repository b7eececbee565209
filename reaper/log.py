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
    """Writes to the current standard output; a logger keeps the stream that it was created with,
    which may have been closed since.
    """

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


@contextmanager
def logged_as(request_id: str, trigger: str) -> Iterator[None]:
    """Every line logged inside the block carries these; a line's own trigger takes precedence.

    They are removed afterwards, since the environment's next invocation has its own.
    """
    with logger().append_context_keys(request_id=request_id, trigger=trigger):
        yield


@cache
def logger() -> Logger:
    """The one logger of both functions."""
    # Output is ASCII: names may contain line ends or terminal control characters, and JSON escapes
    # only some of them by itself.
    to_text = partial(json.dumps, default=str, separators=(",", ":"))
    return Logger(service="reaper", stream=cast(TextIO, _StandardOutput()), json_serializer=to_text)
