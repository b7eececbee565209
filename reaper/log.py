"""The functions' log: one JSON object a line, on standard output."""

from __future__ import annotations

import json
import sys
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


@cache
def logger() -> Logger:
    # In ASCII: names may hold what ends a line or commands a terminal, and JSON escapes only a part
    # of that.
    to_text = partial(json.dumps, default=str, separators=(",", ":"))
    return Logger(service="reaper", stream=cast(TextIO, _StandardOutput()), json_serializer=to_text)
