"""The ways to terminate sessions on MySQL and MariaDB; a server chooses one of them, once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import NamedTuple, Protocol

import pymysql

from reaper.client.deadline import Clock
from reaper.client.drivers.connection import Connection
from reaper.engines.base import ChunkOutcome
from reaper.engines.mysql import bulk_kill, kill_if_idle
from reaper.engines.mysql.errors import classify
from reaper.engines.mysql.lists import ProcessList
from reaper.engines.mysql.marks import is_same
from reaper.engines.mysql.queries import each_result, query
from reaper.engines.mysql.transactions import Transactions
from reaper.engines.rows import MARK, Fetched
from reaper.engines.termination import LAST_CALL, WINDOW
from reaper.model import KillMethod, Mark, Outcome, Session

COMMANDS = {KillMethod.KILL: bulk_kill.KILL, KillMethod.RDS_KILL: bulk_kill.RDS_KILL}

# A kill may take so many times as long as the latest ones did
_MARGIN = 1.2
# The same for kills in packets, which cannot be called back once they are sent
_PACKET_MARGIN = 2
# Kills in one packet: the clock is asked before each packet
_PACKET = 8
# Seconds one kill takes, before one was measured
_FIRST_GUESS = 0.001
# Seconds for one statement of kills, each looked up first: the sweep's deadline waits for it
_BULK = 0.5


class Way(Protocol):
    """A way to terminate those victims that have not changed since they were seen."""

    def terminate(self, victims: Sequence[Session]) -> ChunkOutcome:
        """Terminate as many of the first victims as the window allows."""


class Window(NamedTuple):
    """When the window of a chunk began, which is when its victims were read again."""

    # In seconds by our clock
    began: float
    # In seconds by the server's clock
    server_time: float


class Kill(Protocol):
    """A way to kill sessions that have just been read again and had not changed."""

    def kill(self, ids: Sequence[int], window: Window) -> Mapping[int, Outcome]:
        """Kill as many of the first as the window allows."""


class Pace:
    """How many seconds one kill takes here, learned from the latest ones."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.seconds = _FIRST_GUESS

    def learn(self, began: float, kills: int) -> None:
        """Remember that so many kills were done since `began`.

        With none done expect less: a stall does not last for ever, and only another kill can tell
        that it is over.
        """
        latest = (self._clock() - began) / kills if kills else 0.0
        self.seconds = (self.seconds + latest) / 2


class QueryIds:
    """MariaDB's QUERY_IDs of sleeping sessions at the latest look, those that no other session had.

    A ping leaves a session the QUERY_ID that the next statement anywhere will have, too, so that
    two sessions may share one; then it identifies neither.
    """

    def __init__(self) -> None:
        self._marks: Mapping[int, Mark | None] = {}

    def remember(self, rows: Iterable[Fetched]) -> None:
        """Take the rows of a look, each with its mark, of sessions whose QUERY_ID is their own."""
        self._marks = {row["Id"]: row[MARK] for row in rows}

    def of(self, victim: Session) -> int | None:
        """The victim's QUERY_ID; None where it does not identify it, or the latest look saw the
        session otherwise.
        """
        if victim.mark is None or not is_same(self._marks.get(victim.id), victim.mark):
            return None
        query_id = victim.mark.key[-1]
        # 0, which no client has, where the server did not tell
        return query_id if isinstance(query_id, int) else 0


@dataclass(frozen=True)
class RereadThenKill:
    """Reads the victims again and kills those that have not changed."""

    clock: Clock
    lists: ProcessList
    kill: Kill

    def terminate(self, victims: Sequence[Session]) -> ChunkOutcome:
        """Terminate those that are as they were seen; the others have changed or gone."""
        began = self.clock()
        reread = self.lists.reread([victim.id for victim in victims])
        outcomes = {
            victim.id: Outcome.CHANGED if victim.id in reread.marks else Outcome.GONE
            for victim in victims
            if not is_same(reread.marks.get(victim.id), victim.mark)
        }
        unchanged = [victim.id for victim in victims if victim.id not in outcomes]
        killed = self.kill.kill(unchanged, Window(began, reread.server_time))
        return ChunkOutcome({**outcomes, **killed}, self.clock() - began)


@dataclass(frozen=True)
class KillByQueryId:
    """MariaDB looks up what each victim did last right before its kill, in one statement for all;
    no victim is read again here.
    """

    connection: Connection
    clock: Clock
    pace: Pace
    command: str
    lists: ProcessList
    query_ids: QueryIds
    otherwise: Way

    def terminate(self, victims: Sequence[Session]) -> ChunkOutcome:
        """Terminate those that a QUERY_ID identifies; where there is none, all by another way."""
        began = self.clock()
        # The lookup comes right before the command, but rds_kill itself may outlast the window
        fits = _MARGIN * self.pace.seconds <= WINDOW
        known = {victim.id: self.query_ids.of(victim) for victim in victims} if fits else {}
        identified = {id_: query_id for id_, query_id in known.items() if query_id is not None}
        if not identified:
            return self.otherwise.terminate(victims)
        # The turn of the other victims comes when these are done.
        outcomes = self._kill(identified)
        return ChunkOutcome(outcomes, (self.clock() - began) / max(1, len(outcomes)))

    def _kill(self, query_ids: Mapping[int, int]) -> dict[int, Outcome]:
        ids, began = list(query_ids), self.clock()
        statement = bulk_kill.kill_unless_begun(ids, list(query_ids.values()), _BULK, self.command)
        outcomes = bulk_outcomes(self.connection, statement, ids)
        self.pace.learn(began, len(outcomes))
        changed = [id_ for id_, outcome in outcomes.items() if outcome is Outcome.CHANGED]
        if changed:
            listed = {row["Id"] for row in self.lists.read(changed)}
            outcomes |= {id_: Outcome.GONE for id_ in changed if id_ not in listed}
        return outcomes


@dataclass(frozen=True)
class KillIfIdle:
    """The operator's stored procedure looks at each victim right before its kill, all called in one
    packet; no victim is read again here.
    """

    connection: Connection
    clock: Clock
    transactions: Transactions

    def terminate(self, victims: Sequence[Session]) -> ChunkOutcome:
        """Terminate those of which the procedure says that they have not changed."""
        self.transactions.await_renewal()
        began = self.clock()
        marks = {victim.id: victim.mark for victim in victims if victim.mark is not None}
        outcomes = {victim.id: Outcome.CHANGED for victim in victims if victim.mark is None}
        answers = self._call("; ".join(starmap(kill_if_idle.call, marks.items()))) if marks else []
        outcomes |= dict(zip(marks, answers, strict=False))
        return ChunkOutcome(outcomes, self.clock() - began)

    def _call(self, calls: str) -> list[Outcome]:
        """What each call answered. An error ends the packet, so those after it have no answer."""
        answers: list[Outcome] = []
        try:
            # The end of a CALL is a result of its own, without a row.
            for rows in each_result(self.connection, calls):
                answers += [
                    kill_if_idle.OUTCOMES.get(str(row[0]), Outcome.FAILED) for row in rows or ()
                ]
        except pymysql.Error as error:
            answers.append(classify(error))
        return answers


@dataclass(frozen=True)
class KillPackets:
    """A few kills in one packet after the other, for as long as there is time for a few more."""

    connection: Connection
    clock: Clock
    pace: Pace
    command: str

    def kill(self, ids: Sequence[int], window: Window) -> Mapping[int, Outcome]:
        """Kill as many as the window is expected to allow."""
        outcomes: dict[int, Outcome] = {}
        while len(outcomes) < len(ids):
            most = min(_PACKET, self._affordable(window.began))
            if not most:
                break
            outcomes |= self._packet(ids[len(outcomes) :][:most])
        if ids and not outcomes:
            self.pace.learn(window.began, 0)
        return outcomes

    def _affordable(self, began: float) -> int:
        """How many kills fit into what is left of the window, were each slower than of late."""
        left = began + LAST_CALL - self.clock()
        return max(0, int(left / (_PACKET_MARGIN * self.pace.seconds)))

    def _packet(self, ids: Sequence[int]) -> dict[int, Outcome]:
        """One packet for all; an error ends it, so those after the error have no outcome yet."""
        began, done = self.clock(), 0
        try:
            for rows in each_result(self.connection, self._statements(ids)):
                # Only the end of a statement has no columns: a procedure may send rows before it.
                done += rows is None
            outcomes = dict.fromkeys(ids, Outcome.SIGNALLED)
        except pymysql.Error as error:
            # Without a procedure between, this account has the right by itself.
            denied = classify(error, has_right=self.command == bulk_kill.KILL)
            outcomes = dict.fromkeys(ids[:done], Outcome.SIGNALLED) | {ids[done]: denied}
        self.pace.learn(began, len(outcomes))
        return outcomes

    def _statements(self, ids: Sequence[int]) -> str:
        return "; ".join(self.command.format(f"{id_:d}") for id_ in ids)


@dataclass(frozen=True)
class CompoundKill:
    """One statement for all, which MariaDB itself ends with the window; no kill is begun so late
    that it would not be done by then.
    """

    connection: Connection
    clock: Clock
    pace: Pace
    command: str

    def kill(self, ids: Sequence[int], window: Window) -> Mapping[int, Outcome]:
        """Kill as many as the server finds time for."""
        if not ids:
            return {}
        sent = self.clock()
        until = window.server_time + min(LAST_CALL, WINDOW - _MARGIN * self.pace.seconds)
        outcomes = bulk_outcomes(self.connection, bulk_kill.kill(ids, until, self.command), ids)
        self.pace.learn(sent, len(outcomes))
        return outcomes


class NoKill:
    """For an account without a right to kill: each victim is refused, and nothing is sent."""

    def kill(
        self,
        ids: Sequence[int],
        window: Window,  # noqa: ARG002  nothing is sent in it
    ) -> Mapping[int, Outcome]:
        """Refuse all."""
        return dict.fromkeys(ids, Outcome.REFUSED)


def bulk_outcomes(connection: Connection, statement: str, ids: Sequence[int]) -> dict[int, Outcome]:
    """Run a statement of many kills: what became of each session; those that the statement had no
    time for have no outcome.
    """
    ((answer,),) = (row.values() for row in query(connection, statement))
    errors = (
        pymysql.OperationalError(number, message) if number else None
        for number, message in bulk_kill.errors(answer)
    )
    return {
        id_: classify(error) if error else Outcome.SIGNALLED
        for id_, error in zip(ids, errors, strict=False)
    }
