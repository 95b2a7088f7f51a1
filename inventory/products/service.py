"""Use cases and queries of products. Stock changes only through ``record`` of the ledger."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from inventory import errors
from inventory.database.base import db
from inventory.database.engines import begin_snapshot
from inventory.database.errors import is_foreign_key_violation
from inventory.database.feed import Entry, Feed
from inventory.database.functions import contains
from inventory.database.keyset import Page, PageRequest, paginate
from inventory.database.types import fold
from inventory.models.product import Product, ProductChange
from inventory.products.rows import COLUMNS, ProductRow
from inventory.transactions import queries
from inventory.transactions import service as ledger
from inventory.transactions.service import Movement
from inventory.web.conditional import UNCONDITIONAL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal

    from sqlalchemy import Select
    from sqlalchemy.sql import ColumnElement

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
FEED = Feed("products", ProductChange)
IS_LOW = Product.quantity_on_hand <= Product.reorder_point
SHOWN_MOVEMENTS = 50
# Sorted by the number of units below the reorder point, largest first.
URGENCY = {"id": Product.id, "surplus": Product.quantity_on_hand - Product.reorder_point}

FILTERS: dict[str, Callable[[Any], ColumnElement[bool]]] = {
    "category_id": lambda value: Product.category_id == value,
    "is_active": Product.is_active.is_,
    "search": lambda value: contains(Product.name_folded, value) | contains(Product.sku_folded, value),
    "id": Product.id.in_,
    "sku": lambda skus: Product.sku_folded.in_([fold(sku) for sku in skus]),
    "low_stock": lambda value: IS_LOW if value else ~IS_LOW,
    "min_price": lambda value: Product.price >= value,
    "max_price": lambda value: Product.price <= value,
    "min_quantity": lambda value: Product.quantity_on_hand >= value,
    "max_quantity": lambda value: Product.quantity_on_hand <= value,
    "updated_since": lambda value: Product.updated_at >= value,
}


def select_rows(filters: Mapping[str, object]) -> Select[Any]:
    """Products that match ProductFilters. A filter that is None is ignored."""
    conditions = [FILTERS[name](value) for name, value in filters.items() if value is not None]
    return select(*COLUMNS).where(*conditions)


def find(filters: Mapping[str, object], page: PageRequest) -> Page[ProductRow]:
    return paginate(select_rows(filters), SORTABLE, page, ProductRow)


def find_low_stock(filters: Mapping[str, object], page: PageRequest) -> Page[ProductRow]:
    """Active products at or below their reorder point, most urgent first."""
    low = select_rows({"is_active": True, "low_stock": True, **filters})
    return paginate(low, URGENCY, replace(page, sort=("surplus",)), ProductRow)


def get(product_id: int) -> ProductRow:
    """The product's row. Raises ProductNotFound."""
    row = db.session.execute(select(*COLUMNS).where(Product.id == product_id)).one_or_none()
    if row is None:
        raise errors.ProductNotFound
    return ProductRow(*row)


def feed(after: str | None, limit: int) -> tuple[list[dict[str, object]], str | None]:
    """The current state of products changed after a cursor, and the cursor to continue with. Raises InvalidCursor.

    A product appears at its latest change only; a deleted one has no row to join. Product and position come from one
    statement, so a product is never shown in a state older than its change.
    """
    latest = (
        select(*COLUMNS, ProductChange.product_id, ProductChange.sku.label("last_sku"))
        .select_from(ProductChange)
        .outerjoin(Product, Product.id == ProductChange.product_id)
        .where(ProductChange.is_latest)
    )
    entries, cursor = FEED.read(latest, after, limit)
    return [change_of(entry) for entry in entries], cursor


def change_of(entry: Entry) -> dict[str, object]:
    """The current state of a product, or the tombstone of a deleted one."""
    *columns, product_id, last_sku = entry.columns
    if columns[0] is None:  # deleted: the outer join found no product
        return {"id": product_id, "sku": last_sku, "deleted": True}
    return ProductRow(*columns)._asdict()


def get_by_sku(sku: str) -> ProductRow:
    """The product's row. Raises ProductNotFound."""
    row = db.session.execute(select(*COLUMNS).where(Product.sku_folded == fold(sku))).one_or_none()
    if row is None:
        raise errors.ProductNotFound("No product has this SKU.")
    return ProductRow(*row)


def tag_of(product: ProductRow | Product) -> str:
    """The entity tag of a product: the version of its catalogue fields and the number of its last movement."""
    return f"{product.version}-{product.last_seq}"


def with_transactions(find: Callable[[], ProductRow], *, include_opening: bool) -> tuple[ProductRow, list[LedgerRow]]:
    """The product that ``find`` returns, with its latest movements from the same snapshot."""
    begin_snapshot(db.session())
    product = find()
    return product, queries.latest(product.id, SHOWN_MOVEMENTS, include_opening=include_opening)


def of_category(category_id: int, count: int) -> tuple[int, list[ProductRow]]:
    """The number of products in a category, and the first ``count`` of them by id."""
    total = db.session.scalar(select(func.count()).where(Product.category_id == category_id)) or 0
    members = select_rows({"category_id": category_id}).order_by(Product.id).limit(count)
    return total, [ProductRow(*row) for row in db.session.execute(members)]


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
    created_at = db.session.scalar(select(Product.created_at).where(Product.id == opening.product_id))
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
    other = db.session.scalar(select(Product.id).where(Product.sku_folded == fold(sku)))
    if other is not None and other != other_than:
        raise errors.DuplicateSku


def check_price_covers_cost(price: Decimal, cost: Decimal | None, *, field: str) -> None:
    """Raise InvalidFields, named ``field``, if the price is below the cost."""
    if cost is not None and price < cost:
        raise errors.InvalidFields({field: ["The price must not be below the cost."]})
