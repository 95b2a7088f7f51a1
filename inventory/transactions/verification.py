"""Recomputes every product's stock from the ledger and compares: the proof that nothing has gone wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, exists, func, select, type_coerce
from sqlalchemy.orm import aliased

from inventory.database.base import db
from inventory.database.engines import unlimited_snapshot
from inventory.models.product import Product
from inventory.models.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection, Row, Select

CHUNK = 1_000
Reversed = aliased(Transaction)
Twin = aliased(Transaction)


@dataclass(frozen=True)
class Finding:
    """Something that cannot be right. ``seq`` is null where it is the product's own row that is wrong."""

    product_id: int
    sku: str
    seq: int | None
    problem: str


@dataclass
class Verdict:
    products: int = 0
    transactions: int = 0
    findings: int = 0


def verify(
    product_id: int | None, report: Callable[[Finding], None], progress: Callable[[int], None] = lambda _rows: None
) -> Verdict:
    """Check one product or all of them, in constant memory and from one snapshot, so also while the service runs.

    ``report`` is called with each finding, ``progress`` with the number of ledger rows done since its last call.
    """
    verdict = Verdict()
    with unlimited_snapshot(db.engine) as snapshot:
        for _product_id, rows in groupby(stream(snapshot, select_rows(product_id)), key=attrgetter("product_id")):
            verdict.products += 1
            for found in check(counted(rows, verdict, progress)):
                verdict.findings += 1
                report(found)
        for row in counted(stream(snapshot, select_strays(product_id)), verdict, progress):
            verdict.findings += 1
            report(finding(row, row.seq, "belongs to a product that is not there"))
    return verdict


def count_rows(product_id: int | None) -> int:
    """How many rows of the ledger there are to check."""
    statement = select(func.count()).select_from(Transaction)
    if product_id is not None:
        statement = statement.where(Transaction.product_id == product_id)
    with unlimited_snapshot(db.engine) as snapshot:
        return snapshot.execute(statement).scalar_one()


def select_rows(product_id: int | None) -> Select[*tuple[Any, ...]]:
    """Every product with its rows by ``seq`` and what they reverse; a product without rows has one empty row."""
    statement = (
        select(
            Product.id.label("product_id"),
            Product.sku,
            Product.quantity_on_hand,
            Product.last_seq,
            Transaction.seq,
            Transaction.transaction_type,
            Transaction.quantity,
            Transaction.delta,
            Transaction.balance_after,
            # As it is stored, for what is no time would end the reading.
            type_coerce(Transaction.created_at, String).label("created_at"),
            Transaction.reverses_id,
            Reversed.product_id.label("reversed_product_id"),
            Reversed.delta.label("reversed_delta"),
            Reversed.reverses_id.label("reversed_reverses_id"),
            exists()
            .where(Twin.reverses_id == Transaction.reverses_id, Twin.id < Transaction.id)
            .label("reversed_before"),
        )
        .outerjoin(Transaction, Transaction.product_id == Product.id)
        .outerjoin(Reversed, Reversed.id == Transaction.reverses_id)
        .order_by(Product.id, Transaction.seq)
    )
    return statement if product_id is None else statement.where(Product.id == product_id)


def stream(snapshot: Connection, statement: Select[*tuple[Any, ...]]) -> Iterable[Row[Any]]:
    return snapshot.execution_options(yield_per=CHUNK).execute(statement)


def select_strays(product_id: int | None) -> Select[*tuple[Any, ...]]:
    """Rows whose product is not there, which no foreign key would have let happen."""
    statement = (
        select(Transaction.product_id, Transaction.sku, Transaction.seq)
        .outerjoin(Product)
        .where(Product.id.is_(None))
        .order_by(Transaction.id)
    )
    return statement if product_id is None else statement.where(Transaction.product_id == product_id)


def counted(rows: Iterable[Row[Any]], verdict: Verdict, progress: Callable[[int], None]) -> Iterator[Row[Any]]:
    for row in rows:
        if row.seq is not None:
            verdict.transactions += 1
            progress(1)
        yield row


def check(rows: Iterator[Row[Any]]) -> Iterator[Finding]:
    """What is wrong with one product: its rows one by one, then where they lead against what the product says."""
    balance = total = seq = 0
    earlier = None
    for row in rows:
        if row.seq is None:
            continue
        if not is_readable(row):
            yield finding(row, row.seq, "is not made of whole numbers and a time")
            continue
        yield from check_row(row, balance, seq, earlier)
        balance, total, seq, earlier = row.balance_after, total + row.delta, row.seq, row.created_at
    sums = {"the last balance_after": balance, "the sum of the deltas": total}
    for name, value in sums.items():
        if row.quantity_on_hand != value:
            yield finding(row, None, f"quantity_on_hand is {row.quantity_on_hand}, but {name} is {value}")
    if row.last_seq != seq:
        yield finding(row, None, f"last_seq is {row.last_seq}, but the ledger ends at {seq}")


def is_readable(row: Row[Any]) -> bool:
    """SQLite's columns hold anything, once a file is damaged or edited by hand."""
    numbers = (row.seq, row.quantity, row.delta, row.balance_after)
    return all(type(number) is int for number in numbers) and is_moment(row.created_at)


def is_moment(value: Any) -> bool:
    try:
        return isinstance(value, datetime) or bool(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return False


def check_row(row: Row[Any], balance: int, seq: int, earlier: Any) -> Iterator[Finding]:
    """What is wrong with one row of the ledger, given the one before."""
    signed = -row.quantity if row.transaction_type == "sale" else row.quantity
    problems = {
        f"follows seq {seq}": row.seq != seq + 1,
        f"delta is {row.delta}, but type and quantity say {signed}": row.delta != signed,
        f"balance_after is {row.balance_after}, but {balance} and {row.delta} make {balance + row.delta}": (
            row.balance_after != balance + row.delta
        ),
        f"balance_after is {row.balance_after}": row.balance_after < 0,
        "created_at is before that of the row before": earlier is not None and row.created_at < earlier,
        "does not undo the row it reverses": row.reverses_id is not None and not undoes(row),
        "reverses a row that was reversed before": row.reversed_before,
    }
    for problem, found in problems.items():
        if found:
            yield finding(row, row.seq, problem)


def undoes(row: Row[Any]) -> bool:
    """Whether a contra row is the opposite of a row of the same product that is no reversal itself."""
    return (row.reversed_product_id, row.reversed_delta, row.reversed_reverses_id) == (row.product_id, -row.delta, None)


def finding(row: Row[Any], seq: int | None, problem: str) -> Finding:
    return Finding(row.product_id, row.sku, seq, problem)
