"""What every engine promises about terminating sessions and about the lock; the fake one passes the
same tests as the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from lab.servers import Sessions, until
from reaper.engines.base import Server
from reaper.model import Mark, Outcome, Session
from tests.conftest import Servers, names
from tests.fakes import FakeDatabase
from tests.harness import settle
from tests.live.stage import engine_server, seen, terminate


@dataclass(frozen=True)
class Stage:
    """An engine's server with clients on it; `settle` waits until it shows what they did last."""

    server: Server
    sleeping: Callable[[int], Sequence[Any]]
    seen: Callable[[Sequence[Any]], list[Session]]
    settle: Callable[[], None]
    another: Callable[..., AbstractContextManager[Server]]
    """One more session on the same server, of the reaper or of another user."""


@pytest.fixture(params=["fake", *names()])
def stage(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Stage]:
    if request.param == "fake":
        fake = FakeDatabase()

        def look(clients: Sequence[Any]) -> list[Session]:
            found = {session.id: session for session in fake.read(fake.look()).sessions}
            return [found[client.id] for client in clients]

        yield Stage(fake, fake.sleeping, look, lambda: None, fake.another)
        return
    server = servers[request.param]
    with Sessions(server) as sessions, engine_server(server) as engine:
        yield Stage(
            engine,
            sessions.sleeping,
            lambda clients: seen(engine, server.engine, list(clients)),
            lambda: settle(server),
            lambda user="reaper": engine_server(server, user),
        )


def test_the_unchanged_are_terminated_and_gone(stage: Stage) -> None:
    """Who has not changed since the look is signalled, and soon no longer listed; the others are
    not touched.
    """
    clients = stage.sleeping(6)
    stage.settle()
    victims = stage.seen(clients)[:4]
    assert terminate(stage.server, victims) == dict.fromkeys(victims, Outcome.SIGNALLED)
    while stage.server.still_present(victims):
        stage.settle()
    assert [client.alive() for client in clients] == [False] * 4 + [True] * 2


def test_who_woke_is_spared(stage: Stage) -> None:
    """A session that ran a statement between the look and the kill lives on, asleep again or
    not.
    """
    asleep, woken = stage.sleeping(2), stage.sleeping(2)
    stage.settle()
    # Whole seconds on some: a new sleep must differ from the old one by more than one
    stage.settle()
    victims = stage.seen([*asleep, *woken])
    for client in woken:
        client.run("SELECT 1")
    outcomes = terminate(stage.server, victims)
    assert [outcomes[victim] for victim in victims] == [Outcome.SIGNALLED] * 2 + [
        Outcome.CHANGED
    ] * 2
    assert all(client.run("SELECT 1") == [(1,)] for client in woken)


def test_another_session_under_the_same_id_is_spared(stage: Stage) -> None:
    """A pid or Id that now belongs to another session is not the victim that was judged, whatever
    differs.
    """
    (client,) = stage.sleeping(1)
    stage.settle()
    (session,) = stage.seen([client])
    assert session.mark is not None
    former = [_with_other(session.mark, place) for place in range(len(session.mark.key))]
    if session.mark.since:
        former.append(session.mark._replace(since=session.mark.since - 3600))
    for mark in former:
        if mark != session.mark:
            victim = session._replace(mark=mark)
            assert terminate(stage.server, [victim]) == {victim: Outcome.CHANGED}
    assert client.alive()


def _with_other(mark: Mark, place: int) -> Mark:
    key = list(mark.key)
    key[place] = None
    return mark._replace(key=tuple(key))


def test_who_went_does_not_save_those_after(stage: Stage) -> None:
    """A victim that vanished in the middle of a batch is `gone`, and those after it are terminated
    all the same.
    """
    clients = stage.sleeping(9)
    stage.settle()
    victims = stage.seen(clients)
    assert terminate(stage.server, victims[4:5]) == {victims[4]: Outcome.SIGNALLED}
    while stage.server.still_present(victims[4:5]):
        stage.settle()
    outcomes = terminate(stage.server, victims)
    found = [outcomes[victim] for victim in victims]
    assert found == [Outcome.SIGNALLED] * 4 + [Outcome.GONE] + [Outcome.SIGNALLED] * 4


def test_the_lock_is_one_sessions(stage: Stage) -> None:
    """Who has the lock keeps the others out until it lets go; they are told at once, and see who it
    is.
    """
    assert stage.server.holder() is None
    with stage.another() as other:
        assert stage.server.lock()
        assert not other.lock()
        seen, own = other.holder(), stage.server.holder()
        assert seen is not None
        assert own is not None
        # Who asks is awake
        assert (seen.id, seen.is_ours, own.idle_seconds) == (own.id, True, None)
        assert seen.idle_seconds is not None
        stage.server.unlock()
        assert other.holder() is None
        assert other.lock()
        assert not stage.server.lock()
        other.unlock()


def test_the_lock_ends_with_its_session(stage: Stage) -> None:
    """Whoever holds it and goes leaves it to the next."""
    with stage.another() as other:
        assert other.lock()
        assert not stage.server.lock()
    assert until(stage.server.lock, timeout=10)
    stage.server.unlock()


def test_a_holder_of_our_own_can_be_ended(stage: Stage) -> None:
    """The reaper's own session can be ended, which frees the lock; ending one that has gone is
    nothing.
    """
    with stage.another() as other:
        assert other.lock()
        holder = stage.server.holder()
        assert holder is not None
        stage.server.end(holder)
        assert until(stage.server.lock, timeout=10)
        stage.server.end(holder)
        stage.server.unlock()


def test_a_strangers_lock_is_not_ours(stage: Stage) -> None:
    """A session of another account that holds the lock is known for what it is."""
    with stage.another(user="blind") as stranger:
        assert stranger.lock()
        holder = stage.server.holder()
        assert holder is not None
        assert not holder.is_ours
