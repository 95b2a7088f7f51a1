"""Use cases and queries of products. Stock changes only by way of the ledger's ``record``."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from inventory import errors
from inventory.categories import service as categories
from inventory.database.base import check_tag, contains, db, fold
from inventory.database.engines import begin_snapshot
from inventory.database.keyset import Page, PageRequest, paginate
from inventory.models.product import Product
from inventory.transactions import queries
from inventory.transactions import service as ledger
from inventory.transactions.idempotency import claim
from inventory.transactions.service import Movement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from decimal import Decimal

    from sqlalchemy import Row, Select
    from sqlalchemy.sql import ColumnElement

    from inventory.web.idempotency import RequestKey

COLUMNS = tuple(column for column in Product.__table__.columns if column.name not in {"sku_folded", "name_folded"})
SORTABLE: dict[str, Any] = {
    "id": Product.id,
    "sku": Product.sku_folded,
    "name": Product.name_folded,
    "price": Product.price,
    "quantity_on_hand": Product.quantity_on_hand,
    "reorder_point": Product.reorder_point,
    "created_at": Product.created_at,
    "updated_at": Product.updated_at,
}
IS_LOW = Product.quantity_on_hand <= Product.reorder_point
# Most urgent first: the more units below the reorder point, the earlier.
URGENCY = {"id": Product.id, "surplus": Product.quantity_on_hand - Product.reorder_point}

FILTERS: dict[str, Callable[[Any], ColumnElement[bool]]] = {
    "category_id": lambda value: Product.category_id == value,
    "is_active": Product.is_active.is_,
    "search": lambda value: contains(Product.name_folded, value) | contains(Product.sku_folded, value),
    "sku": lambda value: Product.sku_folded == fold(value),
    "low_stock": lambda value: IS_LOW if value else ~IS_LOW,
    "min_price": lambda value: Product.price >= value,
    "max_price": lambda value: Product.price <= value,
    "min_quantity": lambda value: Product.quantity_on_hand >= value,
    "max_quantity": lambda value: Product.quantity_on_hand <= value,
    "updated_since": lambda value: Product.updated_at >= value,
}


def select_rows(filters: Mapping[str, Any]) -> Select[Any]:
    """Products narrowed by ProductFilters; a filter that is None does not narrow."""
    conditions = [FILTERS[name](value) for name, value in filters.items() if value is not None]
    return select(*COLUMNS).where(*conditions)


def find(filters: Mapping[str, Any], page: PageRequest) -> Page:
    return paginate(select_rows(filters), SORTABLE, page)


def find_low_stock(filters: Mapping[str, Any], page: PageRequest) -> Page:
    """Active products at or below their reorder point, most urgent first."""
    low = select_rows({"is_active": True, "low_stock": True, **filters})
    return paginate(low, URGENCY, replace(page, sort=("surplus",)))


def get(product_id: int) -> Row[Any]:
    """The product's row. Raises ProductNotFound."""
    row = db.session.execute(select_rows({}).where(Product.id == product_id)).one_or_none()
    if row is None:
        raise errors.ProductNotFound
    return row


def tag_of(product: Row[Any] | Product | SimpleNamespace) -> str:
    """Names a state of a product: the version of its catalogue facts and its last movement."""
    return f"{product.version}-{product.last_seq}"


def get_with_transactions(product_id: int, count: int = 50) -> tuple[Row[Any], Sequence[Row[Any]]]:
    """The product and its newest movements, from one snapshot. Raises ProductNotFound."""
    begin_snapshot(db.session())
    return get(product_id), queries.latest(product_id, count)


def of_category(category_id: int, count: int) -> tuple[int, Sequence[Row[Any]]]:
    """How many products a category has, and the first of them by id."""
    total = db.session.scalar(select(func.count()).where(Product.category_id == category_id)) or 0
    members = select_rows({"category_id": category_id}).order_by(Product.id).limit(count)
    return total, db.session.execute(members).all()


def create(data: Mapping[str, Any], key: RequestKey | None = None) -> Row[Any] | SimpleNamespace:
    """Create a product; stock it comes with becomes the ledger's opening row, which holds the key.

    Raises UnknownCategory, DuplicateSku, ValidationFailed for a price below cost, and what ``claim`` raises.
    """
    earlier = claim(key)
    if earlier is not None:
        return as_created(data, queries.get(earlier.transaction_id))
    facts = dict(data)
    quantity = facts.pop("quantity_on_hand", 0)
    check_price_covers_cost(facts["price"], facts.get("cost"), field="price")
    categories.hold(facts["category_id"])
    refuse_duplicate(facts["sku"])
    product = Product(**facts)
    db.session.add(product)
    db.session.flush()
    units = ledger.difference(quantity, 0, field="quantity_on_hand")
    if units:
        ledger.record(product.id, Movement("adjustment", units, reason="opening"), key=key)
    return get(product.id)


def as_created(data: Mapping[str, Any], opening: Row[Any]) -> SimpleNamespace:
    """The product as it was at its creation, from what was sent and what never changes since."""
    created_at = db.session.scalar(select(Product.created_at).where(Product.id == opening.product_id))
    return SimpleNamespace(
        **data,
        id=opening.product_id,
        version=1,
        last_seq=opening.seq,
        last_counted_at=None,
        created_at=created_at,
        updated_at=opening.created_at,
    )


def update(product_id: int, changes: Mapping[str, Any], tags: frozenset[str] | None = None) -> Row[Any]:
    """Change the fields given; a stock other than the present one becomes a count row of the ledger.

    Raises ProductNotFound, UnknownCategory, DuplicateSku, ValidationFailed for a price below cost, and
    PreconditionFailed if the product is in none of the states that ``tags`` name.
    """
    facts = dict(changes)
    product = get_for_update(product_id, tags)
    quantity = facts.pop("quantity_on_hand", product.quantity_on_hand)
    field = "price" if "price" in facts else "cost"
    check_price_covers_cost(facts.get("price", product.price), facts.get("cost", product.cost), field=field)
    if "category_id" in facts:
        categories.hold(facts["category_id"])
    if "sku" in facts:
        refuse_duplicate(facts["sku"], other_than=product_id)
    for name, value in facts.items():
        setattr(product, name, value)
    db.session.flush()
    units = ledger.difference(quantity, product.quantity_on_hand, field="quantity_on_hand")
    if units:
        ledger.record(product_id, Movement("adjustment", units, reason="count"))
    return get(product_id)


def delete(product_id: int, tags: frozenset[str] | None = None) -> None:
    """Delete a product that never moved. Raises ProductNotFound, PreconditionFailed, ProductHasHistory."""
    product = get_for_update(product_id, tags)
    if product.last_seq:
        raise errors.ProductHasHistory
    db.session.delete(product)
    db.session.flush()


def get_for_update(product_id: int, tags: frozenset[str] | None = None) -> Product:
    """The product, locked until this transaction ends. Raises ProductNotFound, PreconditionFailed."""
    product = db.session.get(Product, product_id, with_for_update={"key_share": True}, populate_existing=True)
    if product is None:
        raise errors.ProductNotFound
    check_tag(tags, tag_of(product))
    return product


def refuse_duplicate(sku: str, other_than: int | None = None) -> None:
    """The unique constraint decides; this look beforehand only spares the common case a failed statement."""
    twin = db.session.scalar(select(Product.id).where(Product.sku_folded == fold(sku)))
    if twin is not None and twin != other_than:
        raise errors.DuplicateSku


def check_price_covers_cost(price: Decimal, cost: Decimal | None, *, field: str) -> None:
    """Raise ValidationFailed for a price below the cost; ``field`` is the one of the two that was sent."""
    if cost is not None and price < cost:
        raise errors.ValidationFailed(details={"json": {field: ["The price may not be below the cost."]}})
