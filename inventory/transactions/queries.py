"""Queries of the ledger: lists, the history of a product, its stock at a point in time, and the feed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, and_, bindparam, func, select

from inventory import errors
from inventory.database.base import fetch_all, fetch_one, fetch_value
from inventory.database.feed import Entry, Feed
from inventory.database.keyset import Listing, filtered
from inventory.database.query import Query
from inventory.database.types import Folded
from inventory.models.product import Product
from inventory.models.transaction import Transaction
from inventory.transactions.rows import COLUMNS, LedgerRow, StockAt

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Select

    from inventory.database.keyset import Page, PageRequest
    from inventory.fields import Values

SORTABLE = {"id": Transaction.id, "created_at": Transaction.created_at}
FEED = Feed("feed", Transaction, select(*COLUMNS, Transaction.crossed))
NEWEST_FIRST = (Transaction.created_at.desc(), Transaction.id.desc())
# Most rows have no reason; a plain comparison with NULL would exclude them too.
IS_OPENING_BALANCE = and_(Transaction.seq == 1, Transaction.reason.is_not_distinct_from("opening"))

ROWS = select(*COLUMNS)
OF_SKUS = select(Product.id).where(Product.sku_folded.in_(bindparam("sku", type_=Folded, expanding=True)))
OF_SKU = select(Product.id).where(Product.sku_folded == bindparam("only_sku", type_=Folded))
FILTERS: dict[str, ColumnElement[bool]] = {
    "id": Transaction.id.in_(bindparam("id", expanding=True)),
    "product_id": Transaction.product_id == bindparam("product_id"),
    # The current SKU. With =, PostgreSQL reads a product's rows from the index in list order; with IN it sorts.
    "only_sku": Transaction.product_id == OF_SKU.scalar_subquery(),
    "sku": Transaction.product_id.in_(OF_SKUS),
    "transaction_type": Transaction.transaction_type == bindparam("transaction_type"),
    "reason": Transaction.reason == bindparam("reason"),
    "reference": Transaction.reference == bindparam("reference"),
    "batch_id": Transaction.batch_id == bindparam("batch_id", type_=Folded),
    "created_from": Transaction.created_at >= bindparam("created_from"),
    "created_to": Transaction.created_at <= bindparam("created_to"),
}
LEDGER = Listing(ROWS, LedgerRow, SORTABLE, FILTERS)
# A product's movements. The opening balance is not one, and is included on request only.
MOVEMENTS = Listing(ROWS.where(~IS_OPENING_BALANCE), LedgerRow, SORTABLE, FILTERS)
EXISTS = Query(select(Product.id).where(Product.id == bindparam("product_id")))
BY_ID = Query(ROWS.where(Transaction.id == bindparam("transaction_id")))
OF_BATCH = Query(ROWS.where(FILTERS["batch_id"]).order_by(Transaction.id))
UNTIL_SEQ = and_(FILTERS["product_id"], Transaction.seq <= bindparam("last_seq"))


def latest_of(listing: Listing[LedgerRow]) -> Query:
    rows = listing.statement.where(UNTIL_SEQ).order_by(Transaction.seq.desc()).limit(bindparam("count", type_=Integer))
    return Query(rows)


LATEST, LATEST_MOVEMENTS = latest_of(LEDGER), latest_of(MOVEMENTS)


def filters_of(query: Values) -> Values:
    """The filters for TransactionFilters."""
    filters = dict(query)
    if len(filters.get("sku", ())) == 1:
        filters["only_sku"] = filters.pop("sku")[0]
    return filters


def select_rows(query: Values) -> Select[Any]:
    """Rows of the ledger that match TransactionFilters."""
    filters = filters_of(query)
    return filtered(LEDGER, tuple(filters)).params(filters)


def find(query: Values, page: PageRequest) -> Page[LedgerRow]:
    return LEDGER.page(page, filters_of(query))


def get(transaction_id: int) -> LedgerRow:
    """One row of the ledger. Raises TransactionNotFound."""
    row = fetch_one(BY_ID, {"transaction_id": transaction_id})
    if row is None:
        raise errors.TransactionNotFound
    return LedgerRow(*row)


def of_batch(batch_id: str) -> list[LedgerRow]:
    """A batch's rows in the order in which they were applied."""
    return [LedgerRow(*row) for row in fetch_all(OF_BATCH, {"batch_id": batch_id})]


def history(product_id: int, page: PageRequest, *, include_opening: bool) -> Page[LedgerRow]:
    """A page of a product's movements. Raises ProductNotFound."""
    if fetch_one(EXISTS, {"product_id": product_id}) is None:
        raise errors.ProductNotFound
    return (LEDGER if include_opening else MOVEMENTS).page(page, {"product_id": product_id})


def latest(product_id: int, last_seq: int, count: int, *, include_opening: bool) -> list[LedgerRow]:
    """A product's newest movements until ``last_seq``, at most ``count``."""
    statement = LATEST if include_opening else LATEST_MOVEMENTS
    parameters = {"product_id": product_id, "last_seq": last_seq, "count": count}
    return [LedgerRow(*row) for row in fetch_all(statement, parameters)]


def stock_at(product_id: int, time: datetime | None) -> StockAt:
    """A product's stock at a point in time, by default now: the balance of the last row until then, by one index seek.

    Now is never before the product's last row, even if the clock was set back. Raises ProductNotFound, and
    InvalidFields for a time in the future or before the product was created.
    """
    now = func.greatest(Product.updated_at, func.clock_timestamp(), type_=Product.updated_at.type)
    product = fetch_one(
        select(Product.id, Product.sku, Product.created_at, now.label("now")).where(Product.id == product_id)
    )
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
    return fetch_value(until_then.order_by(*NEWEST_FIRST).limit(1)) or 0


def balances_between(product_id: int, start: datetime, end: datetime) -> list[int]:
    """The stock after each row written in that time, oldest first."""
    written = select(Transaction.balance_after).where(
        Transaction.product_id == product_id, Transaction.created_at.between(start, end)
    )
    return [row.balance_after for row in fetch_all(written.order_by(Transaction.created_at, Transaction.id))]


def feed(after: str | None, limit: int) -> tuple[list[dict[str, object]], str | None]:
    """Rows after a cursor in commit order, and the cursor to continue with. Raises InvalidCursor."""
    entries, cursor = FEED.read(after, limit)
    return [feed_row(entry) for entry in entries], cursor


def feed_row(entry: Entry) -> dict[str, object]:
    """A row as FeedOut shows it, with the crossing of the reorder point."""
    *columns, crossed = entry.columns
    return LedgerRow(*columns)._asdict() | {"crossed": crossed, "cursor": entry.cursor}
