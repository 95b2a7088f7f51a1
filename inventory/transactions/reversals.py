"""Reversals: a contra row with the opposite effect, once for each movement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from inventory import errors
from inventory.database.base import fetch_all
from inventory.models.transaction import Transaction
from inventory.transactions import queries
from inventory.transactions.service import Movement, chunked, lock, record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inventory.fields import Values
    from inventory.transactions.rows import LedgerRow
    from inventory.web.idempotency import RequestKey

MAX_NAMED = 100


def reverse(transaction_id: int, data: Values, key: RequestKey | None = None) -> LedgerRow:
    """Record a contra row. The unique constraint on ``reverses_id`` ensures that it happens once.

    Raises TransactionNotFound, NotReversible, AlreadyReversed, InsufficientStock.
    """
    row = queries.get(transaction_id)
    if row.reverses_id is not None or row.delta == 0:
        raise errors.NotReversible
    lock([row.product_id])
    refuse_reversed([row])
    return record(row.product_id, contra(row, data), key=key)


def refuse_reversed(rows: Sequence[LedgerRow]) -> None:
    """Raise AlreadyReversed with the ids. The unique constraint would refuse too, but could not name them."""
    for ids in chunked([row.id for row in rows]):
        undone = select(Transaction.reverses_id).where(Transaction.reverses_id.in_(ids))
        found = fetch_all(undone.order_by(Transaction.reverses_id).limit(MAX_NAMED))
        if found:
            raise errors.AlreadyReversed(details={"transaction_ids": [row.reverses_id for row in found]})


def contra(row: LedgerRow, data: Values) -> Movement:
    """The opposite of a row of the ledger."""
    return Movement("adjustment", -row.delta, reason="reversal", reverses_id=row.id, **data)
