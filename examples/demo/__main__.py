"""The demo's story, step by step; it checks every claim it makes."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from examples.demo.chart import chart
from examples.demo.invocation import Invocation
from examples.demo.record import Record
from examples.demo.stage import PLAYS, Cast, Play, Slots, Stage
from examples.demo.telling import Narrator, abridged
from examples.demo.workers import DemoFailed, Environment, check
from lab.servers import Unavailable, processes, start, until

IDLE_SECONDS = 2
BETWEEN_FREEZES = 0.1
SCHEDULE = {"trigger": "schedule"}
DRY = {"REAPER_IDLE_SECONDS": str(IDLE_SECONDS)}
ARMED = DRY | {"REAPER_DRY_RUN": "false"}


def play_all(play: Play, tell: Narrator, by_schedule: bool = False) -> Record:
    """The whole story in its order. With `by_schedule` there are also sweeps between its steps."""
    with ExitStack() as stack:
        stage = Stage(play, stack.enter_context(start(play.server, settings=play.settings)))
        before = introduce(stage, tell)
        cast = stage.cast(before.usable, stack)
        fill(stage, cast, tell, by_schedule)
        refuse(stage, cast, tell)
        dry = dry_run(stage, cast, tell)
        live = for_real(stage, cast, dry, tell)
        show_output(live, tell)
        let_in(stage, cast, tell)
        go_on(stage, cast, by_schedule)
        count_orders(stage, cast, tell)
        wake(cast.frozen[0], tell)
        return stage.record


def introduce(stage: Stage, tell: Narrator) -> Slots:
    tell.step("A database with few slots")
    slots = stage.slots()
    tell.say(f"{stage.name}, started for this demo: {slots.usable} connections for applications.")
    tell.say(stage.play.way_in)
    return slots


def fill(stage: Stage, cast: Cast, tell: Narrator, by_schedule: bool) -> None:
    tell.step("Lambda functions connect, work, and are frozen")
    tell.say(
        "Each process here plays one Lambda environment. When a function returns, Lambda freezes "
        "its "
        "environment; the connection stays open, used by nobody, maybe for ever."
    )
    for environment in cast.busy:
        environment.work()
        environment.start_work()
        stage.slots()
    tell.say(f"- {len(cast.busy)} are busy: they book orders, one statement after the other.")
    for number, environment in enumerate(cast.frozen, start=1):
        environment.work()
        environment.freeze()
        # So that their idle times differ
        stage.watch(BETWEEN_FREEZES)
        if by_schedule and number % 3 == 1:
            stage.reap(SCHEDULE, DRY)
    tell.say(f"- {len(cast.frozen)} have booked one order each and are frozen (SIGSTOP).")
    slots = stage.slots()
    check(slots.taken == slots.usable, f"the database is not full: {slots}")
    stage.record.note(f"full: {len(cast.frozen)} are frozen")
    tell.say(f"Connections, as the server counts them: {slots}.", "bold")


def refuse(stage: Stage, cast: Cast, tell: Narrator) -> None:
    tell.step("A newcomer is refused: too many clients")
    tell.say(
        f"One more customer, so one more environment, {cast.newcomer.name}. The server tells it:"
    )
    error = cast.newcomer.invoke()
    check(error is not None, "the newcomer was not refused")
    check(
        any(words in str(error) for words in stage.play.refusals),
        f"the newcomer met another error: {error}",
    )
    stage.record.note("a newcomer is refused")
    tell.quote(str(error).rpartition("failed: ")[2])
    if stage.play.refusal_note:
        tell.say(stage.play.refusal_note)


def dry_run(stage: Stage, cast: Cast, tell: Narrator) -> Invocation:
    tell.step("Dry run: whom would the reaper terminate?")
    tell.say(
        f'Its Lambda handler is invoked with the event {{"dry_run": true}}. A zombie is a session '
        f"that has been "
        f"idle for REAPER_IDLE_SECONDS={IDLE_SECONDS} or longer (by default 900)."
    )
    # Until the last frozen one has been idle long enough to be a zombie
    stage.watch(IDLE_SECONDS)
    found = stage.reap({"dry_run": True}, DRY)
    stage.record.note(f"dry run: {len(found.victims)} would go")
    tell.victims(found.report["victims"])
    asleep = {session for environment in cast.frozen for session in environment.sessions}
    check(
        set(found.victims) == asleep,
        "the dry run did not name exactly the frozen processes' sessions",
    )
    tell.say(f"Spared: {spared(found, len(cast.busy))} (the busy ones and the reaper itself).")
    slots = stage.slots()
    check(slots.taken == slots.usable, f"the dry run changed something: {slots}")
    tell.say(f"A dry run only tells. Connections: {slots}.", "bold")
    return found


def spared(found: Invocation, busy: int) -> str:
    """Why the busy sessions and the reaper's own were spared. A busy one may be seen between two
    statements.
    """
    reasons = ("active", "not_idle_long_enough", "own_account")
    counts = {reason: found.report["spared"].get(reason, 0) for reason in reasons}
    check(
        counts["active"] + counts["not_idle_long_enough"] == busy,
        f"not all busy ones were spared: {counts}",
    )
    return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)


def for_real(stage: Stage, cast: Cast, dry: Invocation, tell: Narrator) -> Invocation:
    tell.step("For real: the slots come back")
    tell.say(
        "The same handler with REAPER_DRY_RUN=false (without it nothing is ever terminated) and "
        "the event {}."
    )
    before = stage.slots()
    live = stage.reap({}, ARMED)
    stage.record.note(f"for real: {len(live.victims)} terminated")
    check(live.victims == dry.victims, "the sweep did not take those that the dry run had named")
    check(
        live.report["outcomes"] == {"terminated": len(cast.frozen)},
        f"outcomes: {live.report['outcomes']}",
    )
    until(lambda: stage.slots().taken == len(cast.busy), timeout=5)
    after = stage.slots()
    check(after.taken == len(cast.busy), f"the slots did not come back: {after}")
    tell.say(f"{len(live.victims)} sessions terminated: exactly those that the dry run named.")
    tell.say(f"Connections before: {before}. After: {after}.", "bold")
    stage.watch(0.5)
    return live


def show_output(live: Invocation, tell: Narrator) -> None:
    tell.step("What CloudWatch receives: the handler's standard output")
    sample, *others = live.terminations
    check(len(others) + 1 == len(live.victims), "not every termination was logged")
    tell.say(f"{len(others) + 1} log lines, one for each session terminated. The first:")
    tell.document(sample)
    tell.say(
        "One line of metrics, which CloudWatch turns into graphs and alarms; only the list of "
        "names and units "
        "is abridged here. The counts include the reaper's own session."
    )
    tell.document(abridged(live.metrics))


def let_in(stage: Stage, cast: Cast, tell: Narrator) -> None:
    tell.step("The newcomer gets in")
    cast.newcomer.work()
    stage.record.note("the newcomer gets in")
    tell.say(f"{cast.newcomer.name}, refused a moment ago, is invoked again: order booked.")
    tell.say(f"Connections: {stage.slots()}.", "bold")


def go_on(stage: Stage, cast: Cast, by_schedule: bool) -> None:
    """Show a little of the time after, for the picture. The newcomer works, or a sweep would find
    it idle as well.
    """
    cast.newcomer.start_work()
    stage.watch(0.5)
    for _ in range(2 if by_schedule else 0):
        stage.reap(SCHEDULE, ARMED)
        stage.slots()
    error = cast.newcomer.finish_work()
    check(error is None, f"{cast.newcomer.name} was hurt: {error}")


def count_orders(stage: Stage, cast: Cast, tell: Narrator) -> None:
    tell.step("No busy session was touched")
    for environment in cast.busy:
        error = environment.finish_work()
        check(error is None, f"{environment.name} was hurt: {error}")
        check(len(environment.sessions) == 1, f"{environment.name} had to reconnect")
    booked = stage.orders()
    for environment in cast.busy:
        found = booked[environment.name]
        check(
            found == environment.orders,
            f"{environment.name} booked {environment.orders}, the database has {found}",
        )
    counts = ", ".join(str(environment.orders) for environment in cast.busy)
    tell.say(
        f"All {len(cast.busy)} worked through it all, each on its first connection, without an "
        f"error: "
        f"{counts} orders booked, and the database has as many of each."
    )


def wake(environment: Environment, tell: Narrator) -> None:
    tell.step("A frozen function wakes")
    environment.thaw()
    error = environment.invoke()
    check(error is not None, f"{environment.name}'s connection outlived the sweep")
    tell.say(f"{environment.name} is thawed and invoked. Its old connection is dead:")
    tell.quote(str(error))
    environment.work()
    tell.say(
        "It reconnects, and its next order is booked. To spare it even that one error is for the "
        "other half of this project, a client that reconnects and retries what is safe."
    )


def show_pictures(record: Record, folder: Path, with_dashboard: bool, tell: Narrator) -> None:
    """Show the whole story at a glance, in the terminal and as SVG."""
    tell.step("Connections over time")
    tell.plot(record)
    drawn = {"demo.svg": chart(record)}
    if with_dashboard:
        # Imported here because it loads SAM's translator, which takes a second
        from examples.demo.dashboard import dashboard

        drawn["dashboard.svg"] = dashboard(record)
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in drawn.items():
        (folder / name).write_text(document, encoding="utf-8")
        tell.say(f"The same as a picture: {folder / name}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument(
        "engine", nargs="?", choices=PLAYS, default="postgres", help="mysql plays on MariaDB"
    )
    parser.add_argument(
        "--into",
        metavar="FOLDER",
        type=Path,
        default=Path("build"),
        help="where to put the picture; build by default",
    )
    parser.add_argument(
        "--dashboard",
        action="store_true",
        help="draw the stack's dashboard, too; sweeps more often for it",
    )
    asked = parser.parse_args()
    play = PLAYS[asked.engine]
    tell = Narrator()
    began = time.monotonic()
    tell.console.print(
        "Frozen functions fill a database; the reaper makes room again.", style="bold"
    )
    tell.say(f"Setting up a throwaway {play.title} takes a few seconds.", "dim")
    try:
        record = play_all(play, tell, by_schedule=asked.dashboard)
    except KeyboardInterrupt:
        print("\ndemo interrupted", file=sys.stderr)
        return 130
    except Unavailable as problem:
        print(f"the demo cannot run: {problem}{play.missing_note}", file=sys.stderr)
        return 1
    except DemoFailed as problem:
        print(f"\nthe demo failed: {problem}", file=sys.stderr)
        return 1
    processes.run().end()
    show_pictures(record, asked.into, asked.dashboard, tell)
    tell.say(f"\nDone in {time.monotonic() - began:.0f} s; its processes and its server are gone.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
