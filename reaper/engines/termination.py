"""How victims are terminated: a chunk at a time, each one shortly after it was read again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reaper.client.deadline import Deadline
from reaper.engines.base import ChunkOutcome, Server
from reaper.model import Outcome, Session

# Seconds from the start of a victim's re-read to its kill, at most
WINDOW = 0.050
# Seconds into the window; a kill that is sent later may take effect after the window's end
LAST_CALL = 0.8 * WINDOW
_FIRST_CHUNK = 8
_LARGEST_CHUNK = 1024
# Seconds; no chunk takes less, and the next chunk's size is computed by dividing by it
_SHORTEST = 1e-4
# Single victims in a row that could not even be read again within the window
_PATIENCE = 20


class TooSlowToTerminateError(RuntimeError):
    """The server, or the network to it, is so slow that no kill can follow its re-read within the
    window.
    """


def terminate_all(
    server: Server, victims: Sequence[Session], deadline: Deadline
) -> Iterator[list[tuple[Session, Outcome]]]:
    """Terminate the victims in the server's order, a chunk at a time; yield each chunk's outcomes.

    Stops at the deadline, which leaves the rest without an outcome. Chunks are as large as the
    window allows: a re-read may cost as much for one session as for hundreds. Raises
    TooSlowToTerminateError where not even one victim can be terminated in time.
    """
    waiting = list(server.kill_order(victims))
    size, fruitless = _FIRST_CHUNK, 0
    while waiting and deadline.affords(WINDOW):
        chunk = waiting[:size]
        result = server.terminate(chunk)
        yield [
            (session, result.outcomes[session.id])
            for session in chunk
            if session.id in result.outcomes
        ]
        waiting = [session for session in waiting if session.id not in result.outcomes]
        fruitless = 0 if result.outcomes else fruitless + (size == 1)
        if fruitless >= _PATIENCE:
            raise TooSlowToTerminateError(
                f"reading one session again takes {result.seconds * 1000:.0f} ms; no session is "
                f"terminated later than {WINDOW * 1000:.0f} ms after it was read"
            )
        size = _next_size(len(chunk), result)


def _next_size(size: int, result: ChunkOutcome) -> int:
    done = len(result.outcomes)
    if done < size:
        return max(1, done)
    return max(1, min(_LARGEST_CHUNK, int(size * LAST_CALL / max(result.seconds, _SHORTEST))))
