"""Use cases and queries of products. Stock changes only through ``record`` of the ledger."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, bindparam, func, literal_column, select, true
from sqlalchemy.exc import IntegrityError

from inventory import errors
from inventory.database.base import db, fetch_all, fetch_one, fetch_value
from inventory.database.errors import is_foreign_key_violation
from inventory.database.feed import Entry, Feed
from inventory.database.functions import contains
from inventory.database.keyset import Listing, filtered
from inventory.database.query import Query
from inventory.database.types import Folded, fold
from inventory.models.product import Product, ProductChange
from inventory.products.rows import COLUMNS, ProductRow
from inventory.transactions import queries
from inventory.transactions import service as ledger
from inventory.transactions.service import Movement
from inventory.web.conditional import UNCONDITIONAL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from sqlalchemy import Select
    from sqlalchemy.sql import ColumnElement

    from inventory.database.keyset import Page, PageRequest
    from inventory.fields import Values
    from inventory.transactions.rows import LedgerRow
    from inventory.web.conditional import Condition
    from inventory.web.idempotency import Earlier, RequestKey

SORTABLE: Values = {
    "id": Product.id,
    "sku": Product.sku_folded,
    "name": Product.name_folded,
    "price": Product.price,
    "quantity_on_hand": Product.quantity_on_hand,
    "reorder_point": Product.reorder_point,
    "created_at": Product.created_at,
    "updated_at": Product.updated_at,
}
# The outer join finds no product for a deleted one.
FEED = Feed(
    "products",
    ProductChange,
    select(*COLUMNS, ProductChange.product_id, ProductChange.sku.label("last_sku"))
    .select_from(ProductChange)
    .outerjoin(Product, Product.id == ProductChange.product_id)
    .where(ProductChange.is_latest),
)
SHOWN_MOVEMENTS = 50
# Sorted by the number of units below the reorder point, largest first.
URGENCY = {"id": Product.id, "surplus": Product.quantity_on_hand - Product.reorder_point}

# Name and SKU in one text, so that one trigram index serves both. No search can contain a line break.
SEARCHED = Product.name_folded + literal_column("'\n'") + Product.sku_folded
FILTERS: dict[str, ColumnElement[bool]] = {
    "category_id": Product.category_id == bindparam("category_id"),
    "is_active": Product.is_active == bindparam("is_active"),
    "search": contains(SEARCHED, "search"),
    "id": Product.id.in_(bindparam("id", expanding=True)),
    "sku": Product.sku_folded.in_(bindparam("sku", type_=Folded, expanding=True)),
    "low_stock": Product.is_low == bindparam("low_stock"),
    "min_price": Product.price >= bindparam("min_price"),
    "max_price": Product.price <= bindparam("max_price"),
    "min_quantity": Product.quantity_on_hand >= bindparam("min_quantity"),
    "max_quantity": Product.quantity_on_hand <= bindparam("max_quantity"),
    "updated_since": Product.updated_at >= bindparam("updated_since"),
}
ROWS = select(*COLUMNS)
CATALOGUE = Listing(ROWS, ProductRow, SORTABLE, FILTERS)
LOW_STOCK = Listing(ROWS.where(Product.is_active, Product.is_low == true()), ProductRow, URGENCY, FILTERS)
BY_ID = Query(ROWS.where(Product.id == bindparam("product_id")))
MEMBERS = Query(ROWS.where(FILTERS["category_id"]).order_by(Product.id).limit(bindparam("count", type_=Integer)))
COUNT_MEMBERS = Query(select(func.count()).where(FILTERS["category_id"]))
BY_SKU = Query(ROWS.where(Product.sku_folded == bindparam("sku", type_=Folded)))


def select_rows(filters: Mapping[str, object]) -> Select[Any]:
    """Products that match ProductFilters. A filter that is None is ignored."""
    values = {name: value for name, value in filters.items() if value is not None}
    return filtered(CATALOGUE, tuple(values)).params(values)


def find(filters: Mapping[str, object], page: PageRequest) -> Page[ProductRow]:
    return CATALOGUE.page(page, filters)


def find_low_stock(filters: Mapping[str, object], page: PageRequest) -> Page[ProductRow]:
    """Active products at or below their reorder point, most urgent first."""
    return LOW_STOCK.page(replace(page, sort=("surplus",)), filters)


def get(product_id: int) -> ProductRow:
    """The product's row. Raises ProductNotFound."""
    row = fetch_one(BY_ID, {"product_id": product_id})
    if row is None:
        raise errors.ProductNotFound
    return ProductRow(*row)


def feed(after: str | None, limit: int) -> tuple[list[dict[str, object]], str | None]:
    """The current state of products changed after a cursor, and the cursor to continue with. Raises InvalidCursor.

    A product appears at its latest change only; a deleted one has no row to join. Product and position come from one
    statement, so a product is never shown in a state older than its change.
    """
    entries, cursor = FEED.read(after, limit)
    return [change_of(entry) for entry in entries], cursor


def change_of(entry: Entry) -> dict[str, object]:
    """The current state of a product, or the tombstone of a deleted one."""
    *columns, product_id, last_sku = entry.columns
    if columns[0] is None:  # deleted: the outer join found no product
        return {"id": product_id, "sku": last_sku, "deleted": True}
    return ProductRow(*columns)._asdict()


def get_by_sku(sku: str) -> ProductRow:
    """The product's row. Raises ProductNotFound."""
    row = fetch_one(BY_SKU, {"sku": sku})
    if row is None:
        raise errors.ProductNotFound("No product has this SKU.")
    return ProductRow(*row)


def tag_of(product: ProductRow | Product) -> str:
    """The entity tag of a product: the version of its catalogue fields and the number of its last movement."""
    return f"{product.version}-{product.last_seq}"


def latest_movements(product: ProductRow, *, include_opening: bool) -> list[LedgerRow]:
    """The latest movements until the product was read.

    Rows of the ledger never change, so those until its ``last_seq`` are the same as when it was read, even if others
    were written since. No snapshot is needed for the two statements.
    """
    return queries.latest(product.id, product.last_seq, SHOWN_MOVEMENTS, include_opening=include_opening)


def of_category(category_id: int, count: int) -> tuple[int, list[ProductRow]]:
    """The number of products in a category, and the first ``count`` of them by id."""
    total = fetch_value(COUNT_MEMBERS, {"category_id": category_id})
    members = fetch_all(MEMBERS, {"category_id": category_id, "count": count})
    return total, [ProductRow(*row) for row in members]


def create(data: Values, key: RequestKey | None = None) -> ProductRow:
    """Create a product. Initial stock is recorded as the opening balance, whose row holds the key.

    Raises UnknownCategory, DuplicateSku, and InvalidFields for a price below cost.
    """
    values = dict(data)
    quantity = values.pop("quantity_on_hand", 0)
    check_price_covers_cost(values["price"], values.get("cost"), field="price")
    refuse_duplicate(values["sku"])
    product = Product(**values)
    db.session.add(product)
    save_changes()
    units = ledger.difference(quantity, 0, field="quantity_on_hand")
    if units:
        ledger.record(product.id, Movement("adjustment", units, reason="opening"), key=key)
    return get(product.id)


def as_created(data: Values, earlier: Earlier) -> ProductRow:
    """The product as an earlier request created it: from the same request body, and fields that never change."""
    opening = queries.get(earlier.transaction_id)
    created_at = fetch_value(select(Product.created_at).where(Product.id == opening.product_id))
    return ProductRow(
        **data,
        id=opening.product_id,
        version=1,
        last_seq=opening.seq,
        last_counted_at=None,
        created_at=created_at or opening.created_at,
        updated_at=opening.created_at,
    )


def save_changes() -> None:
    """Flush a product. Raises UnknownCategory, the only thing that a product refers to."""
    try:
        db.session.flush()
    except IntegrityError as error:
        if is_foreign_key_violation(error):
            raise errors.UnknownCategory from None
        raise


def delete(product_id: int, condition: Condition = UNCONDITIONAL) -> None:
    """Delete a product without movements. Raises ProductNotFound, PreconditionFailed and ProductHasHistory."""
    product = get_for_update(product_id)
    condition.check(tag_of(product))
    if product.last_seq:
        raise errors.ProductHasHistory
    db.session.delete(product)
    db.session.flush()


def get_for_update(product_id: int) -> Product:
    """The product, locked until the transaction ends. Raises ProductNotFound."""
    product = db.session.get(Product, product_id, with_for_update={"key_share": True}, populate_existing=True)
    if product is None:
        raise errors.ProductNotFound
    return product


def refuse_duplicate(sku: str, other_than: int | None = None) -> None:
    """Raise DuplicateSku. The unique constraint decides; this check usually avoids a failed statement."""
    other = fetch_value(select(Product.id).where(Product.sku_folded == fold(sku)))
    if other not in {None, other_than}:
        raise errors.DuplicateSku


def check_price_covers_cost(price: Decimal, cost: Decimal | None, *, field: str) -> None:
    """Raise InvalidFields, named ``field``, if the price is below the cost."""
    if cost is not None and price < cost:
        raise errors.InvalidFields({field: ["The price must not be below the cost."]})
