"""Use cases of the ledger. ``record`` and ``record_all`` are the only ways to change stock."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import orjson
from sqlalchemy import bindparam, select

from inventory import activity, errors
from inventory.caller import require
from inventory.database.base import db, execute, fetch_all, fetch_one, fetch_value, require_unit_of_work
from inventory.database.query import Query
from inventory.database.types import Folded
from inventory.fields import MAX_QUANTITY, MAX_STOCK
from inventory.transactions.rows import COLUMNS, LedgerRow
from inventory.transactions.statements import (
    LEDGER,
    PRODUCTS,
    SET_COUNT_TIME,
    record_many,
    record_one,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement

    from inventory.fields import Values
    from inventory.web.idempotency import RequestKey

T = TypeVar("T")

TOO_LARGE = f"The stock can change by at most {MAX_QUANTITY} units at once."
# Default limits: 32,766 (SQLite) and 65,535 (PostgreSQL).
MAX_PARAMETERS = 10_000
MAX_ATTEMPTS = 100
VERBS = {"sale": "sell", "adjustment": "remove"}
STOCK = select(PRODUCTS.c.quantity_on_hand, PRODUCTS.c.is_active)
STOCK_OF = Query(STOCK.where(PRODUCTS.c.id == bindparam("product_id")))
LOCK = (
    STOCK.add_columns(PRODUCTS.c.id)
    .where(PRODUCTS.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(PRODUCTS.c.id)
    .with_for_update(key_share=True)
)
ID_OF_SKU = Query(select(PRODUCTS.c.id).where(PRODUCTS.c.sku_folded == bindparam("sku", type_=Folded)))
NO_KEY = {"client": "", "idempotency_key": None, "fingerprint": None}


class Stock(NamedTuple):
    """What decides whether a movement of a product is possible."""

    quantity_on_hand: int
    is_active: bool


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
    """Move a product's stock and write the ledger row. The statement itself decides whether the stock allows it.

    Raises UnknownProduct, ProductInactive, StaleQuantity, InsufficientStock, or InvalidFields if the stock would exceed
    MAX_STOCK, and InsufficientScope. Nothing is changed then. Raises DatabaseBusy if the stock changes back and forth
    for too long.
    """
    actor = require("stock").actor
    statements = record_one(
        db.engine.dialect.name,
        only_active=movement.transaction_type != "adjustment",
        expecting=movement.expected_quantity is not None,
    )
    values = vars(movement) | {"product_id": product_id, "delta": movement.delta, "batch_id": batch_id, "actor": actor}
    values |= key.columns() if key else NO_KEY
    parameters = {f"new_{name}": value for name, value in values.items()}
    for _attempt in range(MAX_ATTEMPTS):
        if rows := execute_in_turn(statements, parameters, 1):
            break
        stock_after(movement, stock_of(product_id))  # raises the reason, unless the stock has changed since
    else:
        raise errors.DatabaseBusy
    if movement.reason == "count":
        execute(SET_COUNT_TIME, {"counted_id": product_id})
    row = LedgerRow(*rows[0])
    note(row)
    return row


def note(row: LedgerRow) -> None:
    """Note a movement for the log. It has no text that a client sent."""
    shown = {
        "id": row.id,
        "product_id": row.product_id,
        "delta": row.delta,
        "balance_after": row.balance_after,
        "batch_id": row.batch_id,
    }
    activity.note_move(activity.Moved(row.transaction_type, 1, abs(row.delta), shown))


def execute_in_turn(
    statements: Sequence[Query], parameters: Mapping[str, object], movements: int
) -> Sequence[tuple[Any, ...]]:
    """Execute statements until one returns fewer rows than ``movements``, because the stock does not allow them all.

    Otherwise the rows are those of the ledger.
    """
    if len(statements) > 1:
        require_unit_of_work()
    rows: Sequence[tuple[Any, ...]] = ()
    for statement in statements:
        rows = fetch_all(statement, parameters)
        if len(rows) < movements:
            break
    return rows


def record_all(movements: Sequence[tuple[int, Movement]], *, batch_id: str) -> list[LedgerRow]:
    """Record movements of locked products in the given order, with few statements.

    Raises what ``record`` raises. The transaction must be rolled back then.
    """
    rows = [LedgerRow(*row) for row in write_all(movements, batch_id, COLUMNS)]
    for row in rows:
        note(row)
    return rows


def write_all(
    movements: Sequence[tuple[int, Movement]], batch_id: str, columns: Sequence[ColumnElement[Any]]
) -> Iterator[tuple[Any, ...]]:
    """Write the rows of movements. Yields the given columns of each, the id first, in the order of the movements."""
    require_unit_of_work()
    actor = require("stock").actor
    for part in parts_without_repetition(movements):
        parameters = {"lines": in_json(part), "new_batch_id": batch_id, "new_actor": actor}
        written = execute_in_turn(record_many(db.engine.dialect.name, *columns), parameters, len(part))
        refuse_others(part, {row[1] for row in written})
        yield from sorted(written, key=itemgetter(0))


def refuse_others(movements: Sequence[tuple[int, Movement]], moved: Collection[int]) -> None:
    """Raise why a movement was not possible, if a product has not moved."""
    for product_id, movement in movements:
        if product_id not in moved:
            stock_after(movement, stock_of(product_id))
    if len(moved) < len(movements):  # the product was not locked, and its stock has changed since
        raise errors.DatabaseBusy


def parts_without_repetition(movements: Sequence[tuple[int, Movement]]) -> Iterator[list[tuple[int, Movement]]]:
    """Split movements where a product comes again, because a statement changes each product once."""
    part: dict[int, Movement] = {}
    for product_id, movement in movements:
        if product_id in part:
            yield list(part.items())
            part = {}
        part[product_id] = movement
    yield list(part.items())


def in_json(movements: Sequence[tuple[int, Movement]]) -> str:
    """The parameter ``lines`` of the statements: each has the values that IN_LINE names."""
    lines = [
        (
            number,
            product_id,
            movement.quantity,
            movement.delta,
            movement.reverses_id,
            movement.transaction_type,
            movement.reason,
            movement.reference,
            movement.notes,
        )
        for number, (product_id, movement) in enumerate(movements)
    ]
    return orjson.dumps(lines).decode()


def stock_of(product_id: int) -> Stock | None:
    row = fetch_one(STOCK_OF, {"product_id": product_id})
    return None if row is None else Stock(*row)


def stock_after(movement: Movement, stock: Stock | None) -> Stock:
    """The stock after a movement. Raises UnknownProduct if there is none, and what ``record`` raises."""
    if stock is None:
        raise errors.UnknownProduct
    if not stock.is_active and movement.transaction_type != "adjustment":
        raise errors.ProductInactive
    available = stock.quantity_on_hand
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
    return stock._replace(quantity_on_hand=available + movement.delta)


def check_expectation(expected: int | None, available: int) -> None:
    if expected not in {None, available}:
        raise errors.StaleQuantity(
            f"Expected a stock of {expected}, found {available}. Fetch the product again and retry.",
            {"expected": expected, "quantity_on_hand": available},
        )


def create(data: Values, key: RequestKey | None = None) -> LedgerRow:
    """Record a movement from TransactionIn. Raises what ``record`` raises."""
    return record(product_of(data), movement_of(data), key=key)


def movement_of(data: Values) -> Movement:
    return Movement(**{name: value for name, value in data.items() if name not in {"product_id", "sku"}})


def product_of(data: Values) -> int:
    """The id of the product that TransactionIn names by its id or SKU. Raises UnknownProduct."""
    sku, product_id = data.get("sku"), data.get("product_id")
    if product_id is None:
        product_id = fetch_value(ID_OF_SKU, {"sku": sku})
    if product_id is None:
        raise errors.UnknownProduct
    return int(product_id)


def count(product_id: int, data: Values, key: RequestKey | None = None) -> LedgerRow:
    """Set the stock to the counted quantity. A count that equals the stock is recorded too, as evidence.

    Raises ProductNotFound and StaleQuantity.
    """
    values = dict(data)
    stock = lock([product_id]).get(product_id)
    if stock is None:
        raise errors.ProductNotFound
    units = difference(values.pop("counted_quantity"), stock.quantity_on_hand, field="counted_quantity")
    return record(product_id, Movement("adjustment", units, reason="count", **values), key=key)


def difference(wanted: int, available: int, *, field: str) -> int:
    """The movement from ``available`` to ``wanted``. Raises InvalidFields if it is too large for one ledger row."""
    units = wanted - available
    if abs(units) > MAX_QUANTITY:
        raise errors.InvalidFields({field: [TOO_LARGE]})
    return units


def lock(product_ids: Iterable[int]) -> dict[int, Stock]:
    """Lock products until the transaction ends, in id order, so that concurrent calls cannot deadlock.

    Returns the stock of those that exist, by id.
    """
    locked: dict[int, Stock] = {}
    for ids in chunked(sorted(set(product_ids))):
        locked |= {row.id: Stock(row.quantity_on_hand, row.is_active) for row in fetch_all(LOCK, {"ids": ids})}
    return locked


def record_adjustments(units: Mapping[int, int], reason: str, batch_id: str) -> None:
    """Record an adjustment of each product, by id. The products must be locked. Raises what ``record`` raises."""
    adjustments = [(product_id, Movement("adjustment", delta, reason=reason)) for product_id, delta in units.items()]
    for _row in write_all(adjustments, batch_id, (LEDGER.c.id, LEDGER.c.product_id)):
        pass
    activity.note_import(batch_id, len(units), sum(map(abs, units.values())))


def chunked(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split values into chunks within the parameter limit of a statement."""
    for start in range(0, len(values), MAX_PARAMETERS):
        yield values[start : start + MAX_PARAMETERS]
