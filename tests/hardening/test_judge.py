"""The judge of the ledger notices what it is there to notice, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.hardening.ledger import (
    ACCOUNTS,
    OPENING,
    SLACK,
    Books,
    Deed,
    Entry,
    Freeze,
    Kind,
    Run,
    Told,
    judge,
    load,
    save,
)

LIMIT = 2.0
TOTAL = OPENING * len(ACCOUNTS)


def deed(id_: str, kind: Kind, told: Told, key: str | None = None, result: Any = None) -> Deed:
    return Deed(id_, 1, kind, id_ if key is None else key, 100.0, LIMIT, 101.0, told, result)


# One run in which every promise is kept: the second payment was booked by the attempt whose answer
# was lost.
HONEST = Run(
    deeds=(
        deed("write", Kind.WRITE, Told.DONE, result=1),
        deed("lost write", Kind.WRITE, Told.FAILED, result="the server was away"),
        deed("transfer", Kind.TRANSFER, Told.DONE, result="transfer"),
        deed("doubtful", Kind.TRANSFER, Told.UNKNOWN, result="the answer was lost"),
        deed("first try", Kind.PAYMENT, Told.UNKNOWN, key="event", result="the answer was lost"),
        deed("second try", Kind.PAYMENT, Told.DONE, key="event", result="first try"),
        deed("twin's try", Kind.PAYMENT, Told.DONE, key="event", result="first try"),
        deed("read", Kind.READ, Told.DONE, key="transfer", result={"money": TOTAL, "seen": 1}),
        deed("first read", Kind.READ, Told.DONE, key="", result={"money": TOTAL, "seen": 0}),
    ),
    freezes=(Freeze(1, 50.0, 60.0),),
    books=Books(
        entries=(
            Entry("write", "write"),
            Entry("transfer", "transfer", 1, 2, 30),
            Entry("event", "first try", 2, 3, 10),
        ),
        balances=dict.fromkeys(ACCOUNTS, OPENING)
        | {1: OPENING - 30, 2: OPENING + 20, 3: OPENING + 10},
    ),
)


def with_entries(
    *change: Callable[[list[Entry]], Any], balances: dict[int, int] | None = None
) -> Run:
    entries = list(HONEST.books.entries)
    for each in change:
        each(entries)
    return replace(HONEST, books=Books(entries, {**HONEST.books.balances, **(balances or {})}))


def with_deed(id_: str, **changes: Any) -> Run:
    return replace(
        HONEST, deeds=[replace(d, **changes) if d.id == id_ else d for d in HONEST.deeds]
    )


def test_an_honest_run_passes() -> None:
    """What is done, failed, or unknown and there or not, is all as it was told."""
    assert judge(HONEST) == []


def test_a_doubt_may_come_either_way() -> None:
    """What was told to be unknown may be there as well, once."""
    there = with_entries(
        lambda entries: entries.append(Entry("doubtful", "doubtful", 4, 5, 7)),
        balances={4: OPENING - 7, 5: OPENING + 7},
    )
    assert judge(there) == []


def balance(account: int) -> int:
    return HONEST.books.balances[account]


WRONG = {
    "lost: write write": with_entries(lambda entries: entries.pop(0)),
    "lost: transfer transfer": with_entries(
        lambda entries: entries.pop(1), balances={1: OPENING, 2: OPENING - 10}
    ),
    "lost: payment event": with_entries(
        lambda entries: entries.pop(2), balances={2: OPENING + 30, 3: OPENING}
    ),
    "doubled: write": with_entries(lambda entries: entries.append(entries[0])),
    "doubled: event": with_entries(
        lambda entries: entries.append(replace(entries[2], deed="second try")),
        balances={2: balance(2) - 10, 3: balance(3) + 10},
    ),
    "a failure that was none: lost write": with_entries(
        lambda entries: entries.append(Entry("lost write", "lost write"))
    ),
    "a failure that was none: event": with_deed("first try", told=Told.FAILED),
    "from nowhere: ghost": with_entries(lambda entries: entries.append(Entry("ghost", "ghost"))),
    "another's result: second try": with_deed("second try", result="second try"),
    "money": with_entries(balances={4: OPENING - 1}),
    "half a transfer: account 2": with_entries(balances={2: balance(2) - 5, 3: balance(3) + 5}),
    "half a transfer: read read": with_deed("read", result={"money": TOTAL - 30, "seen": 1}),
    "read read saw transfer 0": with_deed("read", result={"money": TOTAL, "seen": 0}),
    "read read saw transfer 2": with_deed("read", result={"money": TOTAL, "seen": 2}),
    "hung: write write never": with_deed("write", ended=None, told=None),
    "hung: read read took": with_deed("read", ended=100.0 + LIMIT * SLACK + 0.1),
}


@pytest.mark.parametrize("complaint", WRONG)
def test_each_wrong_is_noticed(complaint: str) -> None:
    """A lost write, a doubled one, a token used twice, money gone, half a transfer, a stale read, a
    hang.
    """
    assert [said for said in judge(WRONG[complaint]) if said.startswith(complaint)] != []


def test_only_the_time_awake_counts() -> None:
    """A frozen process cannot keep a deadline; a freeze of another's excuses nothing."""
    late = with_deed("read", ended=100.0 + LIMIT * SLACK + 5)
    frozen = Freeze(1, 99.0, 107.0)
    assert judge(replace(late, freezes=[frozen])) == []
    assert judge(replace(late, freezes=[replace(frozen, teller=2)])) != []


def test_the_log_comes_back(tmp_path: Path) -> None:
    """What was logged is judged again as it was; a line cut short by the end of its process is left
    out.
    """
    lines = [
        {"id": "1.0", "teller": 1, "kind": "write", "key": "1.0", "began": 1.0, "limit": LIMIT},
        {"id": "1.0", "ended": 2.0, "told": "done", "result": 1},
        {"id": "1.1", "teller": 1, "kind": "read", "key": "1.0", "began": 3.0, "limit": LIMIT},
    ]
    (tmp_path / "teller-1.jsonl").write_text(
        "\n".join(map(json.dumps, lines)) + '\n{"id": "1.1", "ended"'
    )
    freeze = {"kind": "freeze", "tellers": [1, 2], "began": 5.0, "ended": 6.0}
    (tmp_path / "troubles.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in ({"kind": "cut"}, freeze))
    )
    books = Books([Entry("1.0", "1.0")], {1: 2})
    save(books, tmp_path)
    assert load(tmp_path) == Run(
        deeds=[
            Deed("1.0", 1, Kind.WRITE, "1.0", 1.0, LIMIT, 2.0, Told.DONE, 1),
            Deed("1.1", 1, Kind.READ, "1.0", 3.0, LIMIT),
        ],
        freezes=[Freeze(1, 5.0, 6.0), Freeze(2, 5.0, 6.0)],
        books=books,
    )
