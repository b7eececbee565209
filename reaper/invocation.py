"""One invocation of a function: which one it is, when it began, and how long it may take."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from reaper.client.deadline import RESERVE, Deadline, LambdaContext

# Seconds for a call by hand that brings no context
_WITHOUT_LAMBDA = 60.0


@dataclass(frozen=True)
class Invocation:
    """`id` is Lambda's own id of the request, or one made up for a call by hand.

    `began` is on the monotonic clock, in seconds. `deadline` leaves time for the report; `lasts` is
    how many seconds the invocation may take, a little less than the function's timeout.
    """

    id: str
    began: float
    deadline: Deadline
    lasts: float

    @classmethod
    def begin(cls, context: LambdaContext | None) -> Invocation:
        """The invocation that begins now."""
        began = time.monotonic()
        deadline = Deadline.from_context(context) if context else Deadline.after(_WITHOUT_LAMBDA)
        id_ = getattr(context, "aws_request_id", None) or os.urandom(16).hex()
        return cls(id_, began, deadline, deadline.remaining() + RESERVE)
