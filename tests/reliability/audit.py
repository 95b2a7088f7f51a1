"""Compares what clients were told with what stands in the database, and the database with itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, text

from inventory.database.base import db, settled_before
from inventory.models.transaction import Transaction
from tests.builders import assert_ledger_is_sound
from tests.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask import Flask

    from tests.reliability.traffic import Clerk, FeedReader

DRIFT = """
SELECT COALESCE(SUM(ABS(p.quantity_on_hand
    - COALESCE((SELECT SUM(t.delta) FROM transactions t WHERE t.product_id = p.id), 0))), 0) FROM products p
"""
FACTS = ("id", "product_id", "seq", "delta", "balance_after", "batch_id")


@dataclass(frozen=True)
class Audit:
    """``lost``: acknowledged, but not, or not so, in the ledger. ``twice``: with more rows than one request has.

    ``halves``: without an answer, and with some of its rows in the ledger but not all.
    """

    lost: int
    twice: int
    halves: int

    def assert_clean(self) -> None:
        assert (self.lost, self.twice, self.halves) == (0, 0, 0)


def audit(app: Flask, clerks: Iterable[Clerk]) -> Audit:
    """Compare the ledger with what clerks were told about each of their references."""
    written = rows_by_reference(app)
    lost = twice = halves = 0
    for clerk in clerks:
        for reference, rows in clerk.acknowledged.items():
            found = written.get(reference, set())
            told = {tuple(row[name] for name in FACTS) for row in rows}
            lost += not told <= found
            twice += len(found) > len(told)
        for reference, expected in clerk.uncertain.items():
            count = len(written.get(reference, ()))
            twice += count > expected
            halves += 0 < count < expected
    return Audit(lost, twice, halves)


def rows_by_reference(app: Flask) -> dict[str, set[tuple[Any, ...]]]:
    written = defaultdict(set)
    with app.app_context():
        columns = ", ".join(FACTS)
        for reference, *facts in db.session.execute(
            text(f"SELECT reference, {columns} FROM transactions WHERE reference IS NOT NULL")
        ):
            written[reference].add(tuple(facts))
    return written


def drift(session: Any) -> int:
    """Units by which the products' quantities and the sums of their ledger rows are apart."""
    return int(session.scalar(text(DRIFT)))


def assert_feed_is_complete(app: Flask, feed: FeedReader) -> None:
    """The feed shows every row of the ledger, and none twice.

    On a PostgreSQL server that others use as well, rows that are still behind a running transaction of theirs may
    follow later.
    """
    with app.app_context():
        settled = select(Transaction.id).where(Transaction.xid < settled_before())
        due = set(db.session.scalars(settled))
        feed.read_to_the_end()
        written = set(db.session.scalars(select(Transaction.id)))
    assert len(feed.ids) == len(set(feed.ids))
    assert due <= set(feed.ids) <= written


def assert_sound(app: Flask) -> None:
    """What `flask verify` says, what the tests' own query says, and on SQLite what the file says about itself."""
    assert_ledger_is_sound(app)
    verdict = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "verify", "--json"],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": app.config["DATABASE_URL"]},
        capture_output=True,
        check=False,
    )
    assert verdict.returncode == 0, verdict
    assert json.loads(verdict.stdout)["findings"] == 0
    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            assert db.session.execute(text("PRAGMA integrity_check")).scalars().all() == ["ok"]
            assert db.session.execute(text("PRAGMA foreign_key_check")).all() == []
