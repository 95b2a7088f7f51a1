"""Movements recorded together, all of them or none."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from sqlalchemy import insert, select

from inventory import errors
from inventory.database.base import db, fold
from inventory.models.product import Product
from inventory.models.transaction import Batch
from inventory.transactions import queries
from inventory.transactions.idempotency import claim
from inventory.transactions.service import Movement, lock, product_of, record, record_contra, refuse_reversed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Row

    from inventory.web.idempotency import RequestKey

Line = TypeVar("Line")


@dataclass(frozen=True)
class RecordedBatch:
    batch_id: str
    transactions: Sequence[Row[Any]]


def create(lines: Sequence[Mapping[str, Any]], key: RequestKey | None = None) -> RecordedBatch:
    """Record lines in the order given, all or none. Raises BatchRejected, and what ``claim`` raises."""
    earlier = claim(key)
    if earlier is not None:
        return RecordedBatch(earlier.batch_id, queries.of_batch(earlier.batch_id))
    lock_lines(lines)
    batch_id = new_id()
    write(batch_id, "batch", key)

    def record_line(line: Mapping[str, Any]) -> Row[Any]:
        facts = dict(line)
        return record(product_of(facts), Movement(**facts), batch_id=batch_id)

    return RecordedBatch(batch_id, all_or_none(list(enumerate(lines)), record_line))


def lock_lines(lines: Sequence[Mapping[str, Any]]) -> None:
    skus = {fold(line["sku"]) for line in lines if "sku" in line}
    by_sku = db.session.scalars(select(Product.id).where(Product.sku_folded.in_(skus)))
    lock({*by_sku, *(line["product_id"] for line in lines if "product_id" in line)})


def reverse(batch_id: str, data: Mapping[str, Any], key: RequestKey | None = None) -> RecordedBatch:
    """Undo every row of a batch by a batch of contra rows, all or none.

    Rows that give stock back come first, so that none is refused for want of what another one returns. Raises
    TransactionNotFound, NotReversible, AlreadyReversed, BatchRejected, and what ``claim`` raises.
    """
    earlier = claim(key)
    if earlier is not None:
        return RecordedBatch(earlier.batch_id, queries.of_batch(earlier.batch_id))
    kind = db.session.scalar(select(Batch.kind).where(Batch.id == batch_id))
    if kind is None:
        raise errors.TransactionNotFound("There is no batch with this id.")
    if kind == "reversal":
        raise errors.NotReversible
    rows = [row for row in queries.of_batch(batch_id) if row.delta]
    if not rows:
        raise errors.NotReversible
    lock(row.product_id for row in rows)
    refuse_reversed(rows)
    contra_id = new_id()
    write(contra_id, "reversal", key)
    giving_back_first = sorted(enumerate(rows), key=lambda numbered: (numbered[1].delta > 0, -numbered[0]))
    contra = all_or_none(giving_back_first, lambda row: record_contra(row, data, batch_id=contra_id))
    return RecordedBatch(contra_id, contra)


def new_id() -> str:
    return str(uuid4())


def write(batch_id: str, kind: str, key: RequestKey | None, **counts: int) -> None:
    """Write the row that a batch's movements belong to; ``counts`` are an import's."""
    db.session.execute(insert(Batch).values(id=batch_id, kind=kind, **counts, **(key.columns() if key else {})))


def all_or_none(lines: Sequence[tuple[int, Line]], record_line: Callable[[Line], Row[Any]]) -> list[Row[Any]]:
    """Record every line, each with its number; if any is refused, raise BatchRejected with all that are."""
    recorded, refused = [], []
    for number, line in lines:
        try:
            recorded.append(record_line(line))
        except errors.ServiceError as error:
            facts = {"line": number, "error": error.slug, "message": error.message}
            refused.append(facts | dict(error.details or {}))
    if refused:
        raise errors.BatchRejected(
            f"Nothing was recorded: {len(refused)} of {len(lines)} lines cannot be.",
            {"error_count": len(refused), "errors": sorted(refused, key=itemgetter("line"))},
        )
    return recorded
