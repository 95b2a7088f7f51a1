"""Compares the responses that clients received with the database, and checks that the database is consistent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, text

from inventory.database.base import db
from inventory.database.functions import settled_before
from inventory.models.transaction import Transaction
from tests.builders import assert_ledger_is_consistent
from tests.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask import Flask

    from tests.reliability.traffic import Clerk, FeedReader

DRIFT = """
SELECT COALESCE(SUM(ABS(p.quantity_on_hand
    - COALESCE((SELECT SUM(t.delta) FROM transactions t WHERE t.product_id = p.id), 0))), 0) FROM products p
"""
COLUMNS = ("id", "product_id", "seq", "delta", "balance_after", "batch_id")


@dataclass(frozen=True)
class Audit:
    """Numbers of requests with a wrong effect on the ledger.

    ``lost``: acknowledged, but missing in the ledger or different there. ``duplicated``: more rows than one request
    writes. ``partial``: no response, and only some of the rows in the ledger.
    """

    lost: int
    duplicated: int
    partial: int

    def assert_clean(self) -> None:
        assert (self.lost, self.duplicated, self.partial) == (0, 0, 0)


def audit(app: Flask, clerks: Iterable[Clerk]) -> Audit:
    """Compare the ledger with the responses that clerks received, by reference."""
    written = rows_by_reference(app)
    lost = duplicated = partial = 0
    for clerk in clerks:
        for reference, rows in clerk.acknowledged.items():
            found = written.get(reference, set())
            acknowledged = {tuple(row[name] for name in COLUMNS) for row in rows}
            lost += not acknowledged <= found
            duplicated += len(found) > len(acknowledged)
        for reference, expected in clerk.uncertain.items():
            count = len(written.get(reference, ()))
            duplicated += count > expected
            partial += 0 < count < expected
    return Audit(lost, duplicated, partial)


def rows_by_reference(app: Flask) -> dict[str, set[tuple[Any, ...]]]:
    written = defaultdict(set)
    with app.app_context():
        columns = ", ".join(COLUMNS)
        for reference, *values in db.session.execute(
            text(f"SELECT reference, {columns} FROM transactions WHERE reference IS NOT NULL")
        ):
            written[reference].add(tuple(values))
    return written


def drift(session: Any) -> int:
    """The difference in units between the products' quantities and the sums of their ledger rows."""
    return int(session.scalar(text(DRIFT)))


def assert_feed_is_complete(app: Flask, feed: FeedReader) -> None:
    """The feed shows every row of the ledger exactly once.

    On a shared PostgreSQL server, the newest rows may still be withheld because of a transaction in another database.
    """
    with app.app_context():
        settled = select(Transaction.id).where(Transaction.xid < settled_before())
        due = set(db.session.scalars(settled))
        feed.read_to_the_end()
        written = set(db.session.scalars(select(Transaction.id)))
    assert len(feed.ids) == len(set(feed.ids))
    assert due <= set(feed.ids) <= written


def assert_consistent(app: Flask) -> None:
    """`flask verify`, the tests' own query and, on SQLite, the integrity checks find no error."""
    assert_ledger_is_consistent(app)
    verification = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "verify", "--json"],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": app.config["DATABASE_URL"]},
        capture_output=True,
        check=False,
    )
    assert verification.returncode == 0, verification
    assert json.loads(verification.stdout)["findings"] == 0
    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            assert db.session.execute(text("PRAGMA integrity_check")).scalars().all() == ["ok"]
            assert db.session.execute(text("PRAGMA foreign_key_check")).all() == []
