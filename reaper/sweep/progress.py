"""What a sweep has found and done so far, from which its report is made once, at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reaper.model import KillMethod, Mode, Outcome, Session, Snapshot, SweepWarning, Verdict
from reaper.policy import Judgement, pressure_remains
from reaper.report import Entry, SweepError, Victim
from reaper.rules import Rules


@dataclass
class SweepProgress:
    """The one mutable record of a sweep. What was not read stays None or empty."""

    entry: Entry | None = None
    attempts: int = 0
    method: KillMethod | None = None
    mode: Mode = Mode.ROUTINE
    # As it was found: before the first kill
    snapshot: Snapshot | None = None
    # At the last look
    latest: Snapshot | None = None
    warnings: Sequence[SweepWarning] = ()
    # Of the first look, and of those that later looks condemned
    verdicts: Sequence[Verdict] = ()
    # Those of the last look, where there was more than one
    last_verdicts: Sequence[Verdict] = ()
    chosen: list[Verdict] = field(default_factory=list)
    # Of the chosen, by session id
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    # When a slot was first seen to be free, by the sweep's clock
    first_freed: float | None = None
    error: SweepError | None = None
    # Whether another sweep can use the connection
    is_usable: bool = True

    @property
    def victims(self) -> tuple[Victim, ...]:
        """The chosen, each with its outcome; None for those that were not reached."""
        return tuple(
            Victim(verdict, self.outcomes.get(verdict.session.id)) for verdict in self.chosen
        )

    def pressure_remains(self, rules: Rules) -> bool | None:
        """Whether there is pressure still, by the last look and the slots freed since; None where
        the account saw nothing.
        """
        if self.snapshot is None or self.snapshot.blind or self.latest is None:
            return None
        freed = {id_ for id_, outcome in self.outcomes.items() if outcome is Outcome.TERMINATED}
        return pressure_remains(self.latest, rules, freed)

    def chosen_with(self, outcome: Outcome | None) -> list[Session]:
        """The chosen with this outcome; None for those that were not reached yet."""
        return [
            verdict.session
            for verdict in self.chosen
            if self.outcomes.get(verdict.session.id) is outcome
        ]

    def add_look(self, snapshot: Snapshot, judgement: Judgement) -> bool:
        """Add what a look after the first kills found; return whether it chose anybody new."""
        self.latest, self.last_verdicts = snapshot, judgement.verdicts
        known = {verdict.session.id for verdict in self.chosen}
        fresh = [verdict for verdict in judgement.victims if verdict.session.id not in known]
        by_id = {verdict.session.id: verdict for verdict in (*self.verdicts, *fresh)}
        self.verdicts = tuple(by_id.values())
        self.chosen += fresh
        return bool(fresh)
