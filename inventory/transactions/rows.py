"""Result types of the ledger."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - part of public types
from typing import TYPE_CHECKING, NamedTuple

from inventory.models.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Sequence


class LedgerRow(NamedTuple):
    """A row of the ledger, as clients see it."""

    id: int
    product_id: int
    sku: str
    transaction_type: str
    quantity: int
    delta: int
    balance_after: int
    seq: int
    reason: str | None
    reference: str | None
    notes: str | None
    reverses_id: int | None
    batch_id: str | None
    actor: str | None
    created_at: datetime


COLUMNS = tuple(Transaction.__table__.c[name] for name in LedgerRow._fields)


class RecordedBatch(NamedTuple):
    """A batch with its rows in the order in which they were applied."""

    batch_id: str
    transactions: Sequence[LedgerRow]


class StockAt(NamedTuple):
    """A product's stock at a point in time."""

    product_id: int
    sku: str
    as_of: datetime
    quantity_on_hand: int
