"""The ledger: what tellers attempted and were told, held against what the database has in the end.

The judge is pure. `python -m tests.hardening.ledger FOLDER` judges the log of a run that was kept.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

ACCOUNTS = range(1, 41)
# On each of them
OPENING = 1000
# Times its limit a deed may take before it counts as hung
SLACK = 5


class Kind(StrEnum):
    READ = "read"
    # One statement on its own
    WRITE = "write"
    # a transaction that moves money
    TRANSFER = "transfer"
    # The same with a token, for an event that is delivered more than once
    PAYMENT = "payment"


class Told(StrEnum):
    DONE = "done"
    # OutcomeUnknown
    UNKNOWN = "unknown"
    # Any other error, which must mean that nothing was done
    FAILED = "failed"


@dataclass(frozen=True)
class Deed:
    """One call, as its teller noted it: before, and what came of it; `ended` None where nothing
    came.

    `key` names the effect: the token of a payment, the id itself of another write, of a read the
    write that it is to see. `result` is what the call returned, or its error. Seconds on the clock
    that all processes share.
    """

    id: str
    teller: int
    kind: Kind
    key: str
    began: float
    limit: float
    ended: float | None = None
    told: Told | None = None
    result: Any = None


@dataclass(frozen=True)
class Freeze:
    """A time in which a teller's process was stopped."""

    teller: int
    began: float
    ended: float


@dataclass(frozen=True)
class Entry:
    """A row of the ledger: the effect of one write, and which deed brought it about."""

    key: str
    deed: str
    source: int = 0
    destination: int = 0
    amount: int = 0


@dataclass(frozen=True)
class Books:
    """The tables in the end."""

    entries: Sequence[Entry]
    balances: Mapping[int, int]


@dataclass(frozen=True)
class Run:
    """All that there is to judge."""

    deeds: Sequence[Deed]
    freezes: Sequence[Freeze]
    books: Books


def judge(run: Run) -> list[str]:
    """What is wrong; nothing where every promise was kept."""
    return [
        *_hung(run.deeds, run.freezes),
        *_misread(run.deeds),
        *_misbooked(run.deeds, run.books.entries),
        *_misplaced(run.books),
    ]


def _hung(deeds: Iterable[Deed], freezes: Iterable[Freeze]) -> Iterator[str]:
    frozen: dict[int, list[Freeze]] = defaultdict(list)
    for freeze in freezes:
        frozen[freeze.teller].append(freeze)
    for deed in deeds:
        if deed.ended is None:
            yield f"hung: {deed.kind} {deed.id} never ended"
        elif (took := _awake(deed.began, deed.ended, frozen[deed.teller])) > SLACK * deed.limit:
            yield f"hung: {deed.kind} {deed.id} took {took:.1f} s of {deed.limit:.1f}"


def _awake(began: float, ended: float, freezes: Iterable[Freeze]) -> float:
    """The seconds of a deed in which its process was let run."""
    return ended - began - sum(max(0.0, min(ended, f.ended) - max(began, f.began)) for f in freezes)


def _misread(deeds: Iterable[Deed]) -> Iterator[str]:
    """Every answered read sees all the money, and once what its teller was told to be done."""
    for deed in deeds:
        if deed.kind is not Kind.READ or deed.told is not Told.DONE:
            continue
        if deed.result["money"] != OPENING * len(ACCOUNTS):
            yield f"half a transfer: read {deed.id} saw {deed.result['money']} in all"
        if deed.key and deed.result["seen"] != 1:
            yield f"read {deed.id} saw {deed.key} {deed.result['seen']} times after it was done"


def _misbooked(deeds: Iterable[Deed], entries: Iterable[Entry]) -> Iterator[str]:
    """Done is there once; failed is not there; unknown may be; nothing is there twice."""
    attempts: dict[str, list[Deed]] = defaultdict(list)
    found: dict[str, list[Entry]] = defaultdict(list)
    for deed in deeds:
        if deed.kind is not Kind.READ:
            attempts[deed.key].append(deed)
    for entry in entries:
        found[entry.key].append(entry)
    for key in attempts | found:
        yield from _misbooked_key(key, attempts[key], found[key])


def _misbooked_key(key: str, attempts: Sequence[Deed], found: Sequence[Entry]) -> Iterator[str]:
    done = [deed for deed in attempts if deed.told is Told.DONE]
    if done and not found:
        yield f"lost: {done[0].kind} {key} was done, says {done[0].id}"
    if len(found) > 1:
        yield (
            f"doubled: {key} is there {len(found)} times, from "
            f"{', '.join(entry.deed for entry in found)}"
        )
    told = {deed.id: deed.told for deed in attempts}
    for entry in found:
        if entry.deed not in told:
            yield f"from nowhere: {key} by {entry.deed}, who never tried"
        elif told[entry.deed] is Told.FAILED:
            yield f"a failure that was none: {key} is there from {entry.deed}"
    for deed in done:
        if deed.kind is Kind.PAYMENT and found and deed.result != found[0].deed:
            yield (
                f"another's result: {deed.id} was told {deed.result}, but {key} is from "
                f"{found[0].deed}"
            )


def _misplaced(books: Books) -> Iterator[str]:
    """Each account holds what the entries say: no transfer is there by half."""
    due = dict.fromkeys(ACCOUNTS, OPENING)
    for entry in books.entries:
        if entry.amount:
            due[entry.source] -= entry.amount
            due[entry.destination] += entry.amount
    total = sum(books.balances.values())
    if total != OPENING * len(ACCOUNTS):
        yield f"money: {total} in all, where {OPENING * len(ACCOUNTS)} were paid in"
    for account, balance in due.items():
        if books.balances.get(account) != balance:
            yield (
                f"half a transfer: account {account} has {books.balances.get(account)}, its "
                f"entries make {balance}"
            )


# The log: a folder with a file of JSON lines from each teller, `troubles.jsonl`, `sweeps.jsonl` and
# `books.json`.


def load(folder: Path) -> Run:
    """A run as it was logged. A line cut short by the end of its teller stands for nothing."""
    noted: dict[str, dict[str, Any]] = {}
    for path in folder.glob("teller-*.jsonl"):
        for line in _lines(path):
            noted.setdefault(line["id"], {}).update(line)
    troubles = _lines(folder / "troubles.jsonl")
    books = json.loads((folder / "books.json").read_text())
    return Run(
        deeds=[_deed(line) for line in noted.values()],
        freezes=[
            Freeze(teller, line["began"], line["ended"])
            for line in troubles
            if line["kind"] == "freeze"
            for teller in line["tellers"]
        ],
        books=Books(
            entries=[Entry(**entry) for entry in books["entries"]],
            balances={int(account): balance for account, balance in books["balances"].items()},
        ),
    )


def save(books: Books, folder: Path) -> None:
    (folder / "books.json").write_text(json.dumps(asdict(books)))


def _deed(line: Mapping[str, Any]) -> Deed:
    told = Told(line["told"]) if "told" in line else None
    return Deed(**{**line, "kind": Kind(line["kind"]), "told": told})


def _lines(path: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]


if __name__ == "__main__":
    print("\n".join(judge(load(Path(sys.argv[1])))) or "nothing is wrong")
