"""The handler on a real database, the one that DATABASE_URL names: an empty one, for its tables are
made anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from handler import db, lambda_handler  # type: ignore[import-not-found]  # pytest.ini says where

from reaper.client import TOKEN_TABLE

SCHEMA = (Path(__file__).parents[1] / "schema.sql").read_text(encoding="utf-8")


class Context:
    aws_request_id = "test"

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


@pytest.fixture(autouse=True)
def _tables() -> None:
    for table in ("goods", "sales", "reaper_tokens"):
        db.execute(f"DROP TABLE IF EXISTS {table}")
    for statement in (*SCHEMA.strip().strip(";").split(";\n"), TOKEN_TABLE[db.target.engine]):
        db.execute(statement)
    db.execute("INSERT INTO goods (id, price, stock) VALUES (7, 250, 10)")


def batch(*bodies: object) -> dict[str, Any]:
    return {
        "Records": [
            {"messageId": f"m{n}", "body": json.dumps(body)} for n, body in enumerate(bodies)
        ]
    }


def failed(event: dict[str, Any]) -> list[str]:
    return [
        failure["itemIdentifier"]
        for failure in lambda_handler(event, Context())["batchItemFailures"]
    ]


def test_an_order_is_sold() -> None:
    assert failed(batch({"item": 7, "pieces": 3})) == []
    assert db.query("SELECT item, pieces, total FROM sales") == [
        {"item": 7, "pieces": 3, "total": 750}
    ]
    assert db.query("SELECT stock FROM goods WHERE last_sold IS NOT NULL") == [{"stock": 7}]


def test_a_message_delivered_twice_is_sold_once() -> None:
    for _ in range(2):
        assert failed(batch({"item": 7, "pieces": 3})) == []
    assert db.query("SELECT stock FROM goods") == [{"stock": 7}]
    assert len(db.query("SELECT * FROM sales")) == 1


def test_what_fails_comes_again_and_the_others_are_sold() -> None:
    too_many, unknown, wrong = {"item": 7, "pieces": 11}, {"item": 8, "pieces": 1}, {"items": 7}
    assert failed(batch(too_many, unknown, wrong, {"item": 7, "pieces": 1})) == ["m0", "m1", "m2"]
    assert db.query("SELECT stock FROM goods") == [{"stock": 9}]
