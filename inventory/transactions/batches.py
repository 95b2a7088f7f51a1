"""Batches: movements recorded together, all or none."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from sqlalchemy import insert, select

from inventory import errors
from inventory.database.base import db
from inventory.database.types import fold
from inventory.models.product import Product
from inventory.models.transaction import Batch
from inventory.transactions import queries, service
from inventory.transactions.reversals import record_contra, refuse_reversed
from inventory.transactions.rows import LedgerRow, RecordedBatch
from inventory.transactions.service import lock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inventory.fields import Values
    from inventory.web.idempotency import RequestKey

Line = TypeVar("Line")


def create(lines: Sequence[Values], key: RequestKey | None = None) -> RecordedBatch:
    """Record lines in the order given, all or none. Raises BatchRejected."""
    lock_lines(lines)
    batch_id = new_id()
    write(batch_id, "batch", key)
    rows = all_or_none(list(enumerate(lines)), lambda line: service.create(line, batch_id=batch_id))
    return RecordedBatch(batch_id, rows)


def lock_lines(lines: Sequence[Values]) -> None:
    skus = {fold(line["sku"]) for line in lines if "sku" in line}
    by_sku = db.session.scalars(select(Product.id).where(Product.sku_folded.in_(skus)))
    lock({*by_sku, *(line["product_id"] for line in lines if "product_id" in line)})


def reverse(batch_id: str, data: Values, key: RequestKey | None = None) -> RecordedBatch:
    """Reverse every row of a batch with a batch of contra rows, all or none.

    Contra rows that add stock come first, so that none is refused for stock that another one returns. Raises
    TransactionNotFound, NotReversible, AlreadyReversed and BatchRejected.
    """
    if kind_of(batch_id) == "reversal":
        raise errors.NotReversible
    rows = [row for row in queries.of_batch(batch_id) if row.delta]
    if not rows:
        raise errors.NotReversible
    lock(row.product_id for row in rows)
    refuse_reversed(rows)
    contra_id = new_id()
    write(contra_id, "reversal", key)
    additions_first = sorted(enumerate(rows), key=lambda numbered: (numbered[1].delta > 0, -numbered[0]))
    contra = all_or_none(additions_first, lambda row: record_contra(row, data, batch_id=contra_id))
    return RecordedBatch(contra_id, contra)


def get(batch_id: str) -> RecordedBatch:
    """A batch with its rows in the order in which they were applied. Raises TransactionNotFound."""
    kind_of(batch_id)
    return RecordedBatch(batch_id, queries.of_batch(batch_id))


def kind_of(batch_id: str) -> str:
    kind = db.session.scalar(select(Batch.kind).where(Batch.id == batch_id))
    if kind is None:
        raise errors.TransactionNotFound("Batch not found.")
    return kind


def new_id() -> str:
    return str(uuid4())


def write(batch_id: str, kind: str, key: RequestKey | None, **counts: int) -> None:
    """Insert the batch that movements refer to. ``counts`` are for imports."""
    db.session.execute(insert(Batch).values(id=batch_id, kind=kind, **counts, **(key.columns() if key else {})))


def all_or_none(lines: Sequence[tuple[int, Line]], record_line: Callable[[Line], LedgerRow]) -> list[LedgerRow]:
    """Record numbered lines. If any is refused, raise BatchRejected with all that are."""
    recorded, refused = [], []
    for number, line in lines:
        try:
            recorded.append(record_line(line))
        except errors.ServiceError as error:
            values = {"line": number, "error": error.slug, "message": error.message}
            refused.append(values | dict(error.details or {}))
    if refused:
        raise errors.BatchRejected(
            f"Nothing was recorded: {len(refused)} of {len(lines)} lines {'was' if len(refused) == 1 else 'were'}"
            " rejected.",
            {"error_count": len(refused), "errors": sorted(refused, key=itemgetter("line"))},
        )
    return recorded
