"""Reads the ledger: lists, one product's history, its stock at a moment, and the feed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, tuple_

from inventory import errors
from inventory.database.base import db, fold, settled_before
from inventory.database.keyset import Page, PageRequest, pack, paginate, unpack
from inventory.fields import MAX_ID
from inventory.models.product import Product
from inventory.models.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Row, Select

PRIVATE = {"client", "idempotency_key", "fingerprint", "xid", "crossed"}
COLUMNS = tuple(column for column in Transaction.__table__.columns if column.name not in PRIVATE)
SORTABLE = {"id": Transaction.id, "created_at": Transaction.created_at}
NEWEST_FIRST = (Transaction.created_at.desc(), Transaction.id.desc())


def select_rows(filters: Mapping[str, Any]) -> Select[Any]:
    """The ledger's rows narrowed by TransactionFilters."""
    statement = select(*COLUMNS)
    for name in ("product_id", "transaction_type", "reason", "reference", "batch_id"):
        if name in filters:
            statement = statement.where(getattr(Transaction, name) == filters[name])
    if "sku" in filters:
        wanted = select(Product.id).where(Product.sku_folded == fold(filters["sku"])).scalar_subquery()
        statement = statement.where(Transaction.product_id == wanted)
    if "created_from" in filters:
        statement = statement.where(Transaction.created_at >= filters["created_from"])
    if "created_to" in filters:
        statement = statement.where(Transaction.created_at <= filters["created_to"])
    return statement


def find(filters: Mapping[str, Any], page: PageRequest) -> Page:
    return paginate(select_rows(filters), SORTABLE, page)


def get(transaction_id: int) -> Row[Any]:
    """One row of the ledger. Raises TransactionNotFound."""
    row = db.session.execute(select_rows({}).where(Transaction.id == transaction_id)).one_or_none()
    if row is None:
        raise errors.TransactionNotFound
    return row


def of_batch(batch_id: str) -> Sequence[Row[Any]]:
    """A batch's rows in the order in which they were applied."""
    return db.session.execute(select_rows({"batch_id": batch_id}).order_by(Transaction.id)).all()


def history(product_id: int, page: PageRequest) -> Page:
    """A product's rows, newest first. Raises ProductNotFound."""
    if db.session.scalar(select(Product.id).where(Product.id == product_id)) is None:
        raise errors.ProductNotFound
    return find({"product_id": product_id}, page)


def latest(product_id: int, count: int) -> Sequence[Row[Any]]:
    """The newest rows of a product, at most ``count``."""
    return db.session.execute(select_rows({"product_id": product_id}).order_by(*NEWEST_FIRST).limit(count)).all()


def stock_at(product_id: int, moment: datetime | None) -> dict[str, Any]:
    """A product's stock at a moment, or now: the balance of the last row until then, found by one index seek.

    Now is never before the product's last row, also where the clock was set back since. Raises ProductNotFound, and
    ValidationFailed for a moment in the future or before the product was created.
    """
    now = func.greatest(Product.updated_at, func.clock_timestamp(), type_=Product.updated_at.type)
    product = db.session.execute(
        select(Product.id, Product.sku, Product.created_at, now.label("now")).where(Product.id == product_id)
    ).one_or_none()
    if product is None:
        raise errors.ProductNotFound
    moment = moment or product.now
    if moment > product.now:
        raise errors.ValidationFailed(details={"query": {"as_of": ["Lies in the future."]}})
    if moment < product.created_at:
        raise errors.ValidationFailed(details={"query": {"as_of": ["Lies before the product was created."]}})
    until_then = select(Transaction.balance_after).where(
        Transaction.product_id == product_id, Transaction.created_at <= moment
    )
    balance = db.session.scalar(until_then.order_by(*NEWEST_FIRST).limit(1))
    return {"product_id": product.id, "sku": product.sku, "as_of": moment, "quantity_on_hand": balance or 0}


def feed(after: str | None, limit: int) -> tuple[list[dict[str, Any]], str | None]:
    """Rows past a cursor, in an order that no later commit can disturb, and the cursor to go on with.

    A position is a transaction number, no lower than the writing transaction's own, and the row's id. Only positions
    below the oldest transaction that is still running are shown, since it might yet add rows; so a row is late by the
    longest write, never lost. Raises InvalidCursor.
    """
    start = (0, 0) if after is None else feed_position(after)
    position = tuple_(Transaction.xid, Transaction.id)
    statement = select(*COLUMNS, Transaction.crossed, Transaction.xid).where(
        position > tuple_(*start), Transaction.xid < settled_before()
    )
    found = db.session.execute(statement.order_by(Transaction.xid, Transaction.id).limit(limit)).all()
    rows = [{**row._mapping, "cursor": feed_cursor(row)} for row in found]  # noqa: SLF001
    return rows, rows[-1]["cursor"] if rows else after


def feed_cursor(row: Row[*tuple[Any, ...]]) -> str:
    return pack(["feed", row.xid, row.id, row.created_at])


def feed_position(cursor: str) -> tuple[int, int]:
    """Transaction number and id of the cursor's row. Raises InvalidCursor.

    Rows stay for ever, so a cursor whose row is not there is of another ledger, or of this one before it was put back
    to an older copy. To go on from it would pass over rows that have been written since.
    """
    match unpack(cursor):
        case ["feed", _, row_id, _] if type(row_id) is int and 0 <= row_id <= MAX_ID:
            columns = (Transaction.xid, Transaction.id, Transaction.created_at)
            row = db.session.execute(select(*columns).where(Transaction.id == row_id)).one_or_none()
            if row is not None and feed_cursor(row) == cursor:
                return row.xid, row.id
    raise errors.InvalidCursor
