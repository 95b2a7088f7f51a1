"""Use cases of the ledger, and the one statement that changes stock."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import orjson
from sqlalchemy import BigInteger, String, bindparam, cast, insert, literal, select, update

from inventory import errors
from inventory.database.base import db
from inventory.database.functions import json_elements, json_item, write_position
from inventory.database.types import fold
from inventory.fields import MAX_QUANTITY, MAX_STOCK
from inventory.models.product import Product
from inventory.models.transaction import Transaction
from inventory.transactions.rows import COLUMNS, LedgerRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Executable, Table, Update
    from sqlalchemy.sql import ColumnElement

    from inventory.fields import Values
    from inventory.web.idempotency import RequestKey

T = TypeVar("T")

PRODUCTS = typing.cast("Table", Product.__table__)
LEDGER = typing.cast("Table", Transaction.__table__)
# Movements as one JSON parameter: product id, delta and, for the insert, the crossing.
MOVEMENTS = json_elements(bindparam("movements", type_=String)).table_valued("value", name="movements")
MOVED_ID, MOVED_DELTA = (cast(json_item(MOVEMENTS.c.value, position), BigInteger) for position in (0, 1))
WRITE_ROW = insert(LEDGER).values(xid=write_position()).returning(*COLUMNS)
TOO_LARGE = f"The stock can change by at most {MAX_QUANTITY} units at once."
# Default limits: 32,766 (SQLite) and 65,535 (PostgreSQL).
MAX_PARAMETERS = 10_000
VERBS = {"sale": "sell", "adjustment": "remove"}


class Moved(NamedTuple):
    """The state of a product after a movement."""

    id: int
    quantity_on_hand: int
    last_seq: int
    reorder_point: int
    sku: str
    updated_at: datetime


MOVED = tuple(PRODUCTS.c[name] for name in Moved._fields)


@dataclass(frozen=True)
class Movement:
    """A movement to record. ``quantity`` is signed for adjustments only."""

    transaction_type: str
    quantity: int
    reason: str | None = None
    reference: str | None = None
    notes: str | None = None
    expected_quantity: int | None = None
    reverses_id: int | None = None

    @property
    def delta(self) -> int:
        return -self.quantity if self.transaction_type == "sale" else self.quantity


def record(
    product_id: int, movement: Movement, *, key: RequestKey | None = None, batch_id: str | None = None
) -> LedgerRow:
    """Move a product's stock and write the ledger row.

    Raises UnknownProduct, ProductInactive, StaleQuantity, InsufficientStock, or InvalidFields if the stock would exceed
    MAX_STOCK. Nothing is changed then.
    """
    moved = move_stock(product_id, movement)
    if moved is None:
        explain_refusal(product_id, movement)
        # The stock changed between the two statements, and the movement is possible now. The row is locked.
        moved = move_stock(product_id, movement)
        assert moved is not None  # noqa: S101
    if movement.reason == "count":
        db.session.execute(SET_COUNT_TIME, {"counted_id": product_id})
    values = {
        "product_id": product_id,
        "sku": moved.sku,
        "transaction_type": movement.transaction_type,
        "quantity": movement.quantity,
        "delta": movement.delta,
        "balance_after": moved.quantity_on_hand,
        "seq": moved.last_seq,
        "reason": movement.reason,
        "reference": movement.reference,
        "notes": movement.notes,
        "reverses_id": movement.reverses_id,
        "batch_id": batch_id,
        "crossed": crossing(movement.delta, movement.reason, moved),
        "created_at": moved.updated_at,
    }
    return LedgerRow(*db.session.execute(WRITE_ROW, values | (key.columns() if key else {})).one())


def record_adjustments(units: Mapping[int, int], reason: str, batch_id: str) -> None:
    """Record one adjustment for each product id, with few statements. Raises what ``record`` raises."""
    found = db.session.execute(ADJUST_ALL, {"movements": in_json([*units.items()])})
    moved = [Moved(*row) for row in found]
    for product_id in units.keys() - {row.id for row in moved}:
        record(product_id, Movement("adjustment", units[product_id], reason=reason), batch_id=batch_id)
    movements = in_json([(row.id, units[row.id], crossing(units[row.id], reason, row)) for row in moved])
    if reason == "count":
        db.session.execute(SET_COUNT_TIMES, {"movements": movements})
    db.session.execute(WRITE_ADJUSTMENTS, {"movements": movements, "reason": reason, "batch_id": batch_id})


def in_json(movements: Sequence[Sequence[Any]]) -> str:
    return orjson.dumps(movements).decode()


def move_stock(product_id: int, movement: Movement) -> Moved | None:
    """Check and change the stock in one statement, so that concurrent sales cannot oversell. None if the check failed.

    The column's ``onupdate`` sets ``updated_at`` while the row is locked, and never decreases it. The ledger row gets
    the same time as ``created_at``.
    """
    statement = guarded_update(
        only_active=movement.transaction_type != "adjustment",
        expecting=movement.expected_quantity is not None,
    )
    values = {"moved_id": product_id, "delta": movement.delta, "expected_quantity": movement.expected_quantity}
    row = db.session.execute(statement, values).one_or_none()
    return None if row is None else Moved(*row)


@cache
def guarded_update(*, only_active: bool, expecting: bool) -> Executable:
    """The statement for a kind of movement. Cached, because building it takes longer than executing it."""
    guards: list[ColumnElement[bool]] = [PRODUCTS.c.is_active] if only_active else []
    if expecting:
        guards.append(PRODUCTS.c.quantity_on_hand == bindparam("expected_quantity"))
    guarded = stock_update(bindparam("moved_id"), bindparam("delta", type_=BigInteger), *guards)
    return guarded.returning(*MOVED)


def stock_update(product_id: ColumnElement[int], delta: ColumnElement[int], *guards: ColumnElement[bool]) -> Update:
    """The only place where ``quantity_on_hand`` changes. Guards may use columns of the same row only."""
    after = PRODUCTS.c.quantity_on_hand + delta
    guarded = update(PRODUCTS).where(PRODUCTS.c.id == product_id, after >= 0, after <= MAX_STOCK, *guards)
    return guarded.values(quantity_on_hand=after, last_seq=PRODUCTS.c.last_seq + 1)


def count_time_update(counted: ColumnElement[bool]) -> Update:
    """Set ``last_counted_at`` to the time of the count's ledger row."""
    time = PRODUCTS.c.updated_at
    return update(PRODUCTS).where(counted).values(last_counted_at=time, updated_at=time)


ADJUST_ALL = stock_update(MOVED_ID, MOVED_DELTA).returning(*MOVED)
SET_COUNT_TIME = count_time_update(PRODUCTS.c.id == bindparam("counted_id"))
SET_COUNT_TIMES = count_time_update(PRODUCTS.c.id == MOVED_ID)
ADJUSTMENTS = {
    "product_id": PRODUCTS.c.id,
    "sku": PRODUCTS.c.sku,
    "transaction_type": literal("adjustment"),
    "quantity": MOVED_DELTA,
    "delta": MOVED_DELTA,
    "balance_after": PRODUCTS.c.quantity_on_hand,
    "seq": PRODUCTS.c.last_seq,
    "reason": bindparam("reason", type_=String),
    "batch_id": bindparam("batch_id", type_=String),
    "crossed": json_item(MOVEMENTS.c.value, 2),
    "client": literal(""),
    "created_at": PRODUCTS.c.updated_at,
    "xid": write_position(),
}
WRITE_ADJUSTMENTS = insert(LEDGER).from_select(
    [*ADJUSTMENTS], select(*ADJUSTMENTS.values()).where(PRODUCTS.c.id == MOVED_ID).order_by(PRODUCTS.c.id)
)


def explain_refusal(product_id: int, movement: Movement) -> None:
    """Lock the product and raise the reason why the movement is refused, if it still is."""
    product = lock_one(product_id)
    if product is None:
        raise errors.UnknownProduct
    if not product.is_active and movement.transaction_type != "adjustment":
        raise errors.ProductInactive
    available = product.quantity_on_hand
    check_expectation(movement.expected_quantity, available)
    if available + movement.delta < 0:
        requested = -movement.delta
        raise errors.InsufficientStock(
            f"Cannot {VERBS[movement.transaction_type]} {requested} unit{'' if requested == 1 else 's'}: "
            f"only {available} available",
            {"available": available, "requested": requested},
        )
    if available + movement.delta > MAX_STOCK:
        raise errors.InvalidFields({"quantity": [f"The stock must not exceed {MAX_STOCK}."]})


def check_expectation(expected: int | None, available: int) -> None:
    if expected not in {None, available}:
        raise errors.StaleQuantity(
            f"Expected a stock of {expected}, found {available}. Fetch the product again and retry.",
            {"expected": expected, "quantity_on_hand": available},
        )


def crossing(delta: int, reason: str | None, moved: Moved) -> str | None:
    """Whether a movement took the stock to zero, to the reorder point or below, or back above it.

    An opening balance crosses nothing.
    """
    after, reorder_point = moved.quantity_on_hand, moved.reorder_point
    before = after - delta
    if reason == "opening":
        return None
    if before > after == 0:
        return "out"
    if before > reorder_point >= after:
        return "low"
    if before <= reorder_point < after:
        return "recovered"
    return None


def create(data: Values, key: RequestKey | None = None, *, batch_id: str | None = None) -> LedgerRow:
    """Record a movement from TransactionIn. Raises what ``record`` raises."""
    values = dict(data)
    return record(product_of(values), Movement(**values), key=key, batch_id=batch_id)


def product_of(values: Values) -> int:
    """Remove ``product_id`` and ``sku`` from the values and return the product's id. Raises UnknownProduct."""
    sku, product_id = values.pop("sku", None), values.pop("product_id", None)
    if product_id is None:
        product_id = db.session.scalar(select(Product.id).where(Product.sku_folded == fold(sku)))
    if product_id is None:
        raise errors.UnknownProduct
    return int(product_id)


def count(product_id: int, data: Values, key: RequestKey | None = None) -> LedgerRow:
    """Set the stock to the counted quantity. A count that equals the stock is recorded too, as evidence.

    Raises ProductNotFound and StaleQuantity.
    """
    values = dict(data)
    product = lock_one(product_id)
    if product is None:
        raise errors.ProductNotFound
    units = difference(values.pop("counted_quantity"), product.quantity_on_hand, field="counted_quantity")
    return record(product_id, Movement("adjustment", units, reason="count", **values), key=key)


def difference(wanted: int, available: int, *, field: str) -> int:
    """The movement from ``available`` to ``wanted``. Raises InvalidFields if it is too large for one ledger row."""
    units = wanted - available
    if abs(units) > MAX_QUANTITY:
        raise errors.InvalidFields({field: [TOO_LARGE]})
    return units


def lock(product_ids: Iterable[int]) -> None:
    """Lock products until the transaction ends, in id order, so that concurrent calls cannot deadlock."""
    statement = select(Product.id).order_by(Product.id).with_for_update(key_share=True)
    for ids in chunked(sorted(set(product_ids))):
        db.session.execute(statement.where(Product.id.in_(ids)))


class Locked(NamedTuple):
    quantity_on_hand: int
    is_active: bool


def lock_one(product_id: int) -> Locked | None:
    """Lock a product until the transaction ends. None if it does not exist."""
    statement = select(PRODUCTS.c.quantity_on_hand, PRODUCTS.c.is_active).where(PRODUCTS.c.id == product_id)
    row = db.session.execute(statement.with_for_update(key_share=True)).one_or_none()
    return None if row is None else Locked(*row)


def chunked(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split values into chunks within the parameter limit of a statement."""
    for start in range(0, len(values), MAX_PARAMETERS):
        yield values[start : start + MAX_PARAMETERS]
