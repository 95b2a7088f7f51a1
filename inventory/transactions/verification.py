"""Recomputes the stock of every product from the ledger and compares it with the stored stock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import String, exists, func, select, type_coerce
from sqlalchemy.orm import aliased

from inventory.database.base import db
from inventory.database.engines import problems, snapshot
from inventory.models.product import Product
from inventory.models.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection, Engine, Row, Select

CHUNK = 1_000
Reversed = aliased(Transaction)
Previous = aliased(Transaction)


class LedgerLine(NamedTuple):
    """A ledger row with its product and the row that it reverses.

    A product without rows has one line whose ``seq`` is None. Values in a corrupt SQLite file can have any type.
    """

    product_id: int
    sku: str
    quantity_on_hand: int
    last_seq: int
    seq: int | None
    transaction_type: str
    quantity: int
    delta: int
    balance_after: int
    created_at: str
    reverses_id: int | None
    reversed_product_id: int | None
    reversed_delta: int | None
    reversed_reverses_id: int | None
    reversed_before: bool


@dataclass(frozen=True)
class Finding:
    """An inconsistency.

    ``seq`` is None if the product row is wrong. ``product_id``, ``sku`` and ``seq`` are None if the SQLite file is.
    """

    product_id: int | None
    sku: str | None
    seq: int | None
    problem: str


@dataclass
class Verdict:
    products: int = 0
    transactions: int = 0
    findings: int = 0


def verify(
    product_id: int | None,
    report: Callable[[Finding], None],
    progress: Callable[[int], None] = lambda _rows: None,
    engine: Engine | None = None,
) -> Verdict:
    """Check one product or all, in constant memory and from one snapshot. The service can be running.

    ``report`` is called with each finding, ``progress`` with the number of rows checked since its last call. Without a
    product id an SQLite file is checked for corruption, too. ``engine`` defaults to that of the service.
    """
    verdict = Verdict()
    with snapshot(engine or db.engine, time_limit=False) as connection:
        for problem in problems(connection) if product_id is None else ():
            verdict.findings += 1
            report(Finding(None, None, None, problem))
        for _product_id, rows in groupby(lines(connection, product_id), key=attrgetter("product_id")):
            verdict.products += 1
            for found in check(counted(rows, verdict, progress)):
                verdict.findings += 1
                report(found)
        for stray_id, sku, seq in stream(connection, select_strays(product_id)):
            verdict.transactions += 1
            verdict.findings += 1
            progress(1)
            report(Finding(stray_id, sku, seq, "refers to a missing product"))
    return verdict


def count_rows(product_id: int | None) -> int:
    """Number of ledger rows to check."""
    statement = select(func.count()).select_from(Transaction)
    if product_id is not None:
        statement = statement.where(Transaction.product_id == product_id)
    with snapshot(db.engine, time_limit=False) as connection:
        return connection.execute(statement).scalar_one()


def select_rows(product_id: int | None) -> Select[*tuple[object, ...]]:
    """All products with their ledger rows in order of ``seq``, and the rows that these reverse.

    A product without rows has one empty row.
    """
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
            # Read as text, because parsing an invalid time would raise an error.
            type_coerce(Transaction.created_at, String).label("created_at"),
            Transaction.reverses_id,
            Reversed.product_id.label("reversed_product_id"),
            Reversed.delta.label("reversed_delta"),
            Reversed.reverses_id.label("reversed_reverses_id"),
            exists()
            .where(Previous.reverses_id == Transaction.reverses_id, Previous.id < Transaction.id)
            .label("reversed_before"),
        )
        .outerjoin(Transaction, Transaction.product_id == Product.id)
        .outerjoin(Reversed, Reversed.id == Transaction.reverses_id)
        .order_by(Product.id, Transaction.seq)
    )
    return statement if product_id is None else statement.where(Product.id == product_id)


def lines(connection: Connection, product_id: int | None) -> Iterator[LedgerLine]:
    return (LedgerLine(*row) for row in stream(connection, select_rows(product_id)))


def stream(connection: Connection, statement: Select[*tuple[Any, ...]]) -> Iterable[Row[*tuple[Any, ...]]]:
    return connection.execution_options(yield_per=CHUNK).execute(statement)


def select_strays(product_id: int | None) -> Select[*tuple[object, ...]]:
    """Ledger rows without a product. Foreign keys normally prevent them."""
    statement = (
        select(Transaction.product_id, Transaction.sku, Transaction.seq)
        .outerjoin(Product)
        .where(Product.id.is_(None))
        .order_by(Transaction.id)
    )
    return statement if product_id is None else statement.where(Transaction.product_id == product_id)


def counted(rows: Iterable[LedgerLine], verdict: Verdict, progress: Callable[[int], None]) -> Iterator[LedgerLine]:
    for row in rows:
        if row.seq is not None:
            verdict.transactions += 1
            progress(1)
        yield row


def check(rows: Iterator[LedgerLine]) -> Iterator[Finding]:
    """Findings for one product: each ledger row is checked, then the totals are compared with the product."""
    balance = total = seq = 0
    earlier = None
    for row in rows:
        if row.seq is None:
            continue
        if not is_readable(row):
            yield finding(row, row.seq, "has an invalid number or time")
            continue
        yield from check_row(row, balance, seq, earlier)
        balance, total, seq, earlier = row.balance_after, total + row.delta, row.seq, row.created_at
    sums = {"the last balance_after": balance, "the sum of the deltas": total}
    for name, value in sums.items():
        if row.quantity_on_hand != value:
            yield finding(row, None, f"quantity_on_hand is {row.quantity_on_hand}, but {name} is {value}")
    if row.last_seq != seq:
        yield finding(row, None, f"last_seq is {row.last_seq}, but the last ledger row has seq {seq}")


def is_readable(row: LedgerLine) -> bool:
    """Whether the values have valid types. A corrupt or edited SQLite file can contain anything."""
    numbers = (row.seq, row.quantity, row.delta, row.balance_after)
    return all(type(number) is int for number in numbers) and is_time(row.created_at)


def is_time(value: object) -> bool:
    try:
        return isinstance(value, datetime) or bool(datetime.fromisoformat(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def check_row(row: LedgerLine, balance: int, seq: int, earlier: str | None) -> Iterator[Finding]:
    """Findings for one ledger row, given the previous one."""
    signed = -row.quantity if row.transaction_type == "sale" else row.quantity
    wrong = {
        f"expected seq {seq + 1}": row.seq != seq + 1,
        f"delta is {row.delta}, expected {signed}": row.delta != signed,
        f"balance_after is {row.balance_after}, expected {balance + row.delta}": (
            row.balance_after != balance + row.delta
        ),
        f"balance_after is negative: {row.balance_after}": row.balance_after < 0,
        "created_at is earlier than in the previous row": earlier is not None and row.created_at < earlier,
        "does not undo the row it reverses": row.reverses_id is not None and not undoes(row),
        "reverses a row that was already reversed": row.reversed_before,
    }
    for problem, found in wrong.items():
        if found:
            yield finding(row, row.seq, problem)


def undoes(row: LedgerLine) -> bool:
    """Whether a contra row is the opposite of a row of the same product that is not itself a reversal."""
    return (row.reversed_product_id, row.reversed_delta, row.reversed_reverses_id) == (row.product_id, -row.delta, None)


def finding(row: LedgerLine, seq: int | None, problem: str) -> Finding:
    return Finding(row.product_id, row.sku, seq, problem)
