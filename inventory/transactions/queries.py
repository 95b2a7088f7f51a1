"""Queries of the ledger: lists, the history of a product, its stock at a point in time, and the feed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, select

from inventory import errors
from inventory.database.base import db
from inventory.database.feed import Entry, Feed
from inventory.database.keyset import Page, PageRequest, paginate
from inventory.database.types import fold
from inventory.models.product import Product
from inventory.models.transaction import Transaction
from inventory.transactions.rows import COLUMNS, LedgerRow, StockAt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Select

    from inventory.fields import Values

SORTABLE = {"id": Transaction.id, "created_at": Transaction.created_at}
FEED = Feed("feed", Transaction)
NEWEST_FIRST = (Transaction.created_at.desc(), Transaction.id.desc())
# Most rows have no reason; a plain comparison with NULL would exclude them too.
IS_OPENING_BALANCE = and_(Transaction.seq == 1, Transaction.reason.is_not_distinct_from("opening"))


def is_of_products(skus: Sequence[str]) -> ColumnElement[bool]:
    """Rows of products whose current SKU is one of these."""
    wanted = select(Product.id).where(Product.sku_folded.in_([fold(sku) for sku in skus]))
    # With =, PostgreSQL reads a product's rows from the index in list order; with IN it sorts.
    return Transaction.product_id == wanted.scalar_subquery() if len(skus) == 1 else Transaction.product_id.in_(wanted)


FILTERS: dict[str, Callable[[Any], ColumnElement[bool]]] = {
    "id": Transaction.id.in_,
    "product_id": lambda value: Transaction.product_id == value,
    "sku": is_of_products,
    "transaction_type": lambda value: Transaction.transaction_type == value,
    "reason": lambda value: Transaction.reason == value,
    "reference": lambda value: Transaction.reference == value,
    "batch_id": lambda value: Transaction.batch_id == value.lower(),
    "created_from": lambda value: Transaction.created_at >= value,
    "created_to": lambda value: Transaction.created_at <= value,
}


def select_rows(filters: Values) -> Select[Any]:
    """Rows of the ledger that match TransactionFilters."""
    return select(*COLUMNS).where(*(FILTERS[name](value) for name, value in filters.items()))


def find(filters: Values, page: PageRequest) -> Page[LedgerRow]:
    return paginate(select_rows(filters), SORTABLE, page, LedgerRow)


def ledger_rows(statement: Select[Any]) -> list[LedgerRow]:
    return [LedgerRow(*row) for row in db.session.execute(statement)]


def get(transaction_id: int) -> LedgerRow:
    """One row of the ledger. Raises TransactionNotFound."""
    row = db.session.execute(select_rows({}).where(Transaction.id == transaction_id)).one_or_none()
    if row is None:
        raise errors.TransactionNotFound
    return LedgerRow(*row)


def of_batch(batch_id: str) -> list[LedgerRow]:
    """A batch's rows in the order in which they were applied."""
    return ledger_rows(select_rows({"batch_id": batch_id}).order_by(Transaction.id))


def select_history(product_id: int, *, include_opening: bool) -> Select[object]:
    """A product's movements. The opening balance is not one, and is included on request only."""
    rows = select_rows({"product_id": product_id})
    return rows if include_opening else rows.where(~IS_OPENING_BALANCE)


def history(product_id: int, page: PageRequest, *, include_opening: bool) -> Page[LedgerRow]:
    """A page of a product's movements. Raises ProductNotFound."""
    if db.session.scalar(select(Product.id).where(Product.id == product_id)) is None:
        raise errors.ProductNotFound
    return paginate(select_history(product_id, include_opening=include_opening), SORTABLE, page, LedgerRow)


def latest(product_id: int, count: int, *, include_opening: bool) -> list[LedgerRow]:
    """A product's newest movements, at most ``count``."""
    rows = select_history(product_id, include_opening=include_opening)
    return ledger_rows(rows.order_by(*NEWEST_FIRST).limit(count))


def stock_at(product_id: int, time: datetime | None) -> StockAt:
    """A product's stock at a point in time, by default now: the balance of the last row until then, by one index seek.

    Now is never before the product's last row, even if the clock was set back. Raises ProductNotFound, and
    InvalidFields for a time in the future or before the product was created.
    """
    now = func.greatest(Product.updated_at, func.clock_timestamp(), type_=Product.updated_at.type)
    product = db.session.execute(
        select(Product.id, Product.sku, Product.created_at, now.label("now")).where(Product.id == product_id)
    ).one_or_none()
    if product is None:
        raise errors.ProductNotFound
    time = time or product.now
    if time > product.now:
        raise errors.InvalidFields({"as_of": ["Must not be in the future."]})
    if time < product.created_at:
        raise errors.InvalidFields({"as_of": ["Must not be before the product was created."]})
    return StockAt(product.id, product.sku, time, balance_at(product_id, time))


def balance_at(product_id: int, time: datetime) -> int:
    """The stock after the last row written until then."""
    until_then = select(Transaction.balance_after).where(
        Transaction.product_id == product_id, Transaction.created_at <= time
    )
    return db.session.scalar(until_then.order_by(*NEWEST_FIRST).limit(1)) or 0


def balances_between(product_id: int, start: datetime, end: datetime) -> list[int]:
    """The stock after each row written in that time, oldest first."""
    written = select(Transaction.balance_after).where(
        Transaction.product_id == product_id, Transaction.created_at.between(start, end)
    )
    return list(db.session.scalars(written.order_by(Transaction.created_at, Transaction.id)))


def feed(after: str | None, limit: int) -> tuple[list[dict[str, object]], str | None]:
    """Rows after a cursor in commit order, and the cursor to continue with. Raises InvalidCursor."""
    entries, cursor = FEED.read(select(*COLUMNS, Transaction.crossed), after, limit)
    return [feed_row(entry) for entry in entries], cursor


def feed_row(entry: Entry) -> dict[str, object]:
    """A row as FeedOut shows it, with the crossing of the reorder point."""
    *columns, crossed = entry.columns
    return LedgerRow(*columns)._asdict() | {"crossed": crossed, "cursor": entry.cursor}
