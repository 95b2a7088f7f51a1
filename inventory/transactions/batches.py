"""Batches: movements recorded together, all or none."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import bindparam, insert, select

from inventory import errors
from inventory.database.base import execute, fetch_all, fetch_value, unit_of_work_connection
from inventory.database.engines import prefer_indexes
from inventory.database.query import Query
from inventory.database.types import fold
from inventory.models.product import Product
from inventory.models.transaction import Batch
from inventory.transactions import queries
from inventory.transactions.reversals import contra, refuse_reversed
from inventory.transactions.rows import RecordedBatch
from inventory.transactions.service import Movement, lock, movement_of, record_all, stock_after

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inventory.fields import Values
    from inventory.transactions.service import Stock
    from inventory.web.idempotency import RequestKey

# A line's number in the request, and the movement of a product.
Line = tuple[int, tuple[int, Movement]]

NO_PRODUCT = 0
KIND = Query(select(Batch.kind).where(Batch.id == bindparam("batch_id")))


def create(lines: Sequence[Values], key: RequestKey | None = None) -> RecordedBatch:
    """Record lines in the order given, all or none. Raises BatchRejected."""
    ids = ids_by_sku(lines)
    named = [(line.get("product_id") or ids.get(fold(line.get("sku", "")), NO_PRODUCT), line) for line in lines]
    return record_batch("batch", list(enumerate((id_, movement_of(line)) for id_, line in named)), key)


def ids_by_sku(lines: Sequence[Values]) -> dict[str, int]:
    """Ids of the products that lines name by their SKU, by folded SKU."""
    skus = {fold(line["sku"]) for line in lines if "sku" in line}
    found = select(Product.sku_folded, Product.id).where(Product.sku_folded.in_(skus))
    return {row.sku_folded: row.id for row in fetch_all(found)} if skus else {}


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
    additions_first = sorted(enumerate(rows), key=lambda numbered: (numbered[1].delta > 0, -numbered[0]))
    lines = [(number, (row.product_id, contra(row, data))) for number, row in additions_first]
    return record_batch("reversal", lines, key)


def get(batch_id: str) -> RecordedBatch:
    """A batch with its rows in the order in which they were applied. Raises TransactionNotFound."""
    kind_of(batch_id)
    return RecordedBatch(batch_id, queries.of_batch(batch_id))


def kind_of(batch_id: str) -> str:
    kind = fetch_value(KIND, {"batch_id": batch_id})
    if kind is None:
        raise errors.TransactionNotFound("Batch not found.")
    return str(kind)


def new_id() -> str:
    return str(uuid4())


def write(batch_id: str, kind: str, key: RequestKey | None, **counts: int) -> None:
    """Insert the batch that movements refer to. ``counts`` are for imports."""
    execute(insert(Batch).values(id=batch_id, kind=kind, **counts, **(key.columns() if key else {})))


def record_batch(kind: str, lines: Sequence[Line], key: RequestKey | None) -> RecordedBatch:
    """Record numbered lines as a batch, each after the ones before it. Raises BatchRejected if any is not possible."""
    prefer_indexes(unit_of_work_connection())
    movements = [line for _number, line in lines]
    refuse_impossible(lines, lock(product_id for product_id, _movement in movements))
    batch_id = new_id()
    write(batch_id, kind, key)
    return RecordedBatch(batch_id, record_all(movements, batch_id=batch_id))


def refuse_impossible(lines: Sequence[Line], stock: Mapping[int, Stock]) -> None:
    """Raise BatchRejected with all lines that the stock left by the lines before them does not allow."""
    refused = []
    left = dict(stock)
    for number, (product_id, movement) in lines:
        try:
            left[product_id] = stock_after(movement, left.get(product_id))
        except errors.ServiceError as error:
            values = {"line": number, "error": error.slug, "message": error.message}
            refused.append(values | dict(error.details or {}))
    if refused:
        raise errors.BatchRejected(
            f"Nothing was recorded: {len(refused)} of {len(lines)} lines {'was' if len(refused) == 1 else 'were'}"
            " rejected.",
            {"error_count": len(refused), "errors": sorted(refused, key=itemgetter("line"))},
        )
