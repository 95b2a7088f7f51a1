"""The ledger's use cases, and the one function through which stock changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import insert, select, update

from inventory import errors
from inventory.db import db, fold
from inventory.pages import Page, PageRequest, paginate
from inventory.products.models import MAX_STOCK, Product
from inventory.transactions.models import Transaction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Row, Select, Table

PRODUCTS = cast("Table", Product.__table__)
LEDGER = cast("Table", Transaction.__table__)
SORTABLE = {"id": Transaction.id, "created_at": Transaction.created_at}
VERBS = {"sale": "sell", "adjustment": "remove"}


@dataclass(frozen=True)
class Movement:
    """What is to happen to one product's stock. ``quantity`` is signed for adjustments only."""

    transaction_type: str
    quantity: int
    reason: str | None = None
    reference: str | None = None
    notes: str | None = None
    expected_quantity: int | None = None

    @property
    def delta(self) -> int:
        return -self.quantity if self.transaction_type == "sale" else self.quantity


def record(product_id: int, movement: Movement) -> dict[str, Any]:
    """Move a product's stock and write the ledger row. The only place where ``quantity_on_hand`` changes.

    Returns the row as TransactionOut shows it. Raises UnknownProduct, ProductInactive, StaleQuantity,
    InsufficientStock, or ValidationFailed when the stock would pass MAX_STOCK.
    """
    moved = move_stock(product_id, movement)
    if moved is None:
        explain_refusal(product_id, movement)
        # The stock changed between the two statements so that the movement is possible now; the row is locked.
        moved = move_stock(product_id, movement)
        assert moved is not None  # noqa: S101
    written = db.session.execute(
        insert(LEDGER)
        .values(
            product_id=product_id,
            transaction_type=movement.transaction_type,
            quantity=movement.quantity,
            delta=movement.delta,
            balance_after=moved.quantity_on_hand,
            seq=moved.last_seq,
            reason=movement.reason,
            reference=movement.reference,
            notes=movement.notes,
            created_at=moved.updated_at,
        )
        .returning(*LEDGER.columns)
    ).one()
    return {"sku": moved.sku, **written._mapping}  # noqa: SLF001


def move_stock(product_id: int, movement: Movement) -> Row[Any] | None:
    """Check and change in one statement, so that no interleaving can oversell; None if the check failed.

    The column's own ``onupdate`` moves ``updated_at`` forward, after the row's lock is held and never back, and the
    ledger row takes it as its ``created_at``.
    """
    after = PRODUCTS.c.quantity_on_hand + movement.delta
    guarded = update(PRODUCTS).where(PRODUCTS.c.id == product_id, after >= 0, after <= MAX_STOCK)
    if movement.transaction_type != "adjustment":
        guarded = guarded.where(PRODUCTS.c.is_active)
    if movement.expected_quantity is not None:
        guarded = guarded.where(PRODUCTS.c.quantity_on_hand == movement.expected_quantity)
    return db.session.execute(
        guarded.values(quantity_on_hand=after, last_seq=PRODUCTS.c.last_seq + 1).returning(
            PRODUCTS.c.sku, PRODUCTS.c.quantity_on_hand, PRODUCTS.c.last_seq, PRODUCTS.c.updated_at
        )
    ).one_or_none()


def explain_refusal(product_id: int, movement: Movement) -> None:
    """Lock the product and raise what stands in the movement's way, if anything still does."""
    product = db.session.execute(
        select(PRODUCTS.c.quantity_on_hand, PRODUCTS.c.is_active)
        .where(PRODUCTS.c.id == product_id)
        .with_for_update(key_share=True)
    ).one_or_none()
    if product is None:
        raise errors.UnknownProduct
    if not product.is_active and movement.transaction_type != "adjustment":
        raise errors.ProductInactive
    available = product.quantity_on_hand
    if movement.expected_quantity not in {None, available}:
        raise errors.StaleQuantity(
            f"Expected {movement.expected_quantity} units in stock, but there are {available}",
            {"expected": movement.expected_quantity, "quantity_on_hand": available},
        )
    if available + movement.delta < 0:
        requested = -movement.delta
        raise errors.InsufficientStock(
            f"Cannot {VERBS[movement.transaction_type]} {requested} unit{'' if requested == 1 else 's'}: "
            f"only {available} available",
            {"available": available, "requested": requested},
        )
    if available + movement.delta > MAX_STOCK:
        raise errors.ValidationFailed(details={"json": {"quantity": [f"The stock may not pass {MAX_STOCK}."]}})


def create(data: Mapping[str, Any]) -> dict[str, Any]:
    """Record what a client sent as TransactionIn. Raises what ``record`` raises."""
    facts = dict(data)
    sku, product_id = facts.pop("sku", None), facts.pop("product_id", None)
    return record(find_product_id(sku) if product_id is None else product_id, Movement(**facts))


def find_product_id(sku: str) -> int:
    product_id = db.session.scalar(select(Product.id).where(Product.sku_folded == fold(sku)))
    if product_id is None:
        raise errors.UnknownProduct
    return product_id


def select_rows(filters: Mapping[str, Any]) -> Select[Any]:
    """The ledger's rows with their product's SKU, narrowed by TransactionFilters."""
    statement = select(*LEDGER.columns, PRODUCTS.c.sku).join_from(LEDGER, PRODUCTS)
    for name in ("product_id", "transaction_type", "reason", "reference", "batch_id"):
        if name in filters:
            statement = statement.where(LEDGER.c[name] == filters[name])
    if "sku" in filters:
        wanted = select(Product.id).where(Product.sku_folded == fold(filters["sku"])).scalar_subquery()
        statement = statement.where(LEDGER.c.product_id == wanted)
    if "created_from" in filters:
        statement = statement.where(LEDGER.c.created_at >= filters["created_from"])
    if "created_to" in filters:
        statement = statement.where(LEDGER.c.created_at <= filters["created_to"])
    return statement


def find(filters: Mapping[str, Any], page: PageRequest) -> Page:
    return paginate(select_rows(filters), SORTABLE, page)


def get(transaction_id: int) -> Row[Any]:
    row = db.session.execute(select_rows({}).where(LEDGER.c.id == transaction_id)).one_or_none()
    if row is None:
        raise errors.TransactionNotFound
    return row


def history(product_id: int, page: PageRequest) -> Page:
    """A product's rows, newest first. Raises ProductNotFound."""
    if db.session.scalar(select(Product.id).where(Product.id == product_id)) is None:
        raise errors.ProductNotFound
    return find({"product_id": product_id}, page)


def latest(product_id: int, count: int) -> Sequence[Row[Any]]:
    """The newest rows of a product, at most ``count``."""
    newest_first = (LEDGER.c.created_at.desc(), LEDGER.c.id.desc())
    statement = select_rows({"product_id": product_id}).order_by(*newest_first).limit(count)
    return db.session.execute(statement).all()
