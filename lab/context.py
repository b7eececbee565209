"""Lambda's context object, for whatever calls a handler without Lambda."""

from __future__ import annotations


class Context:
    """One invocation: its request id, its function, and the time that it has left.

    `seconds` is what is left however often it is asked, since no clock runs.
    """

    function_name = "reaper"
    invoked_function_arn = "arn:aws:lambda:eu-central-1:111122223333:function:reaper"

    def __init__(
        self, seconds: float = 60, request_id: str = "request-1", memory_mb: int = 128
    ) -> None:
        self.aws_request_id = request_id
        self.memory_limit_in_mb = memory_mb
        self._milliseconds = round(seconds * 1000)

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds, as Lambda names and counts them."""
        return self._milliseconds
