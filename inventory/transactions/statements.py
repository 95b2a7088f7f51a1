"""The statements that change stock and write the ledger. Only ``record`` and ``record_all`` execute them.

The stock is checked and changed by one guarded UPDATE, so that no interleaving of requests can oversell. PostgreSQL
writes the rows of the ledger in the same statement (a data-modifying WITH). SQLite does not support that; there an
INSERT follows in the same transaction, which holds the write lock.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    String,
    and_,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal_column,
    null,
    select,
    update,
)

from inventory.database.functions import STATEMENT_TIME, json_elements, json_item, write_position
from inventory.database.query import Query
from inventory.fields import MAX_STOCK
from inventory.models.product import Product
from inventory.models.transaction import Transaction
from inventory.transactions.rows import COLUMNS

if TYPE_CHECKING:
    from sqlalchemy import FromClause, Table, Update

Line = Mapping[str, ColumnElement[Any]]

PRODUCTS = typing.cast("Table", Product.__table__)
LEDGER = typing.cast("Table", Transaction.__table__)
# The columns of a product that the ledger rows depend on.
MOVED = (
    PRODUCTS.c.id.label("product_id"),
    *(PRODUCTS.c[name] for name in ("sku", "quantity_on_hand", "last_seq", "reorder_point", "updated_at")),
)

# One movement: parameters of a statement, with the names and types of the ledger's columns.
GIVEN = (
    "product_id",
    "transaction_type",
    "quantity",
    "delta",
    "reason",
    "reference",
    "notes",
    "reverses_id",
    "batch_id",
    "actor",
    "client",
    "idempotency_key",
    "fingerprint",
)
ONE: Line = {name: bindparam(f"new_{name}", type_=LEDGER.c[name].type) for name in GIVEN}
EXPECTED = bindparam("new_expected_quantity", type_=BigInteger)

# Many movements: a JSON array of arrays, in the order of their rows.
NUMBERS = ("number", "product_id", "quantity", "delta", "reverses_id")
TEXTS = ("transaction_type", "reason", "reference", "notes")
IN_LINE = NUMBERS + TEXTS
ELEMENTS = json_elements(bindparam("lines", type_=String)).table_valued("value", name="lines")


def item(element: ColumnElement[object], name: str) -> ColumnElement[Any]:
    text = json_item(element, IN_LINE.index(name))
    return text if name in TEXTS else cast(text, BigInteger)


def line_in(element: ColumnElement[object]) -> Line:
    """The movement in an element of the array."""
    given = {name: item(element, name) for name in IN_LINE if name != "number"}
    return given | {"batch_id": ONE["batch_id"], "actor": ONE["actor"], "client": literal_column("''", String)}


MANY = line_in(ELEMENTS.c.value)


@cache
def record_one(dialect: str, *, only_active: bool, expecting: bool) -> tuple[Query, ...]:
    """Record one movement. Cached, because building statements takes longer than executing them.

    The last statement returns the ledger row, unless the stock does not allow the movement.
    """
    guards: list[ColumnElement[bool]] = [PRODUCTS.c.is_active] if only_active else []
    if expecting:
        guards.append(PRODUCTS.c.quantity_on_hand == EXPECTED)
    moved = stock_update(ONE, *guards)
    if dialect == "sqlite":
        return updated(moved), inserted(select(*MOVED).subquery("moved"), ONE, COLUMNS)
    return (inserted(moved.returning(*MOVED).cte("moved"), ONE, COLUMNS),)


@cache
def record_many(dialect: str, *columns: ColumnElement[Any]) -> tuple[Query, ...]:
    """Record movements of different products, all of them locked. The last statement returns these ledger columns.

    The rows have one time. ``last_counted_at`` is set for counts.
    """
    time = func.greatest(PRODUCTS.c.updated_at, STATEMENT_TIME)
    counted = case((MANY["reason"] == literal_column("'count'"), time), else_=PRODUCTS.c.last_counted_at)
    moved = stock_update(MANY).values(updated_at=time, last_counted_at=counted)
    if dialect == "sqlite":
        products = select(*MOVED).subquery("moved")
        return updated(moved), inserted(products, MANY, columns, order=item(ELEMENTS.c.value, "number"))
    with_element = moved.returning(*MOVED, ELEMENTS.c.value).cte("moved")
    element = with_element.c.value
    return (inserted(with_element, line_in(element), columns, order=item(element, "number")),)


def stock_update(line: Line, *guards: ColumnElement[bool]) -> Update:
    """The only place where ``quantity_on_hand`` changes. Guards may use columns of the same row only.

    The column's ``onupdate`` sets ``updated_at`` while the row is locked, and never decreases it.
    """
    after = PRODUCTS.c.quantity_on_hand + line["delta"]
    possible = update(PRODUCTS).where(PRODUCTS.c.id == line["product_id"], after >= 0, after <= MAX_STOCK, *guards)
    return possible.values(quantity_on_hand=after, last_seq=PRODUCTS.c.last_seq + 1)


def updated(moved: Update) -> Query:
    """The first of two statements. Returns the product's id, in the same place as the second one."""
    return Query(moved.returning(literal_column("NULL", BigInteger), MOVED[0]))


def inserted(
    moved: FromClause,
    line: Line,
    columns: Sequence[ColumnElement[Any]],
    order: ColumnElement[Any] | None = None,
) -> Query:
    """Insert a ledger row for each movement that the stock allowed, and return these columns of it.

    The rows get the product's ``updated_at`` as their time.
    """
    after = moved.c.quantity_on_hand
    values = dict(line) | {
        "product_id": moved.c.product_id,
        "sku": moved.c.sku,
        "balance_after": after,
        "seq": moved.c.last_seq,
        "crossed": crossing(after - line["delta"], after, moved.c.reorder_point, line["reason"]),
        "created_at": moved.c.updated_at,
        "xid": write_position(),
    }
    # On PostgreSQL each product comes with its own line, on SQLite they are joined.
    rows = select(*values.values()).where(moved.c.product_id == line["product_id"]).order_by(order)
    return Query(insert(LEDGER).from_select([*values], rows).returning(*columns))


def crossing(
    before: ColumnElement[int],
    after: ColumnElement[int],
    reorder_point: ColumnElement[int],
    reason: ColumnElement[str],
) -> ColumnElement[str | None]:
    """Whether a movement took the stock to zero, to the reorder point or below, or back above it.

    An opening balance crosses nothing.
    """
    return case(
        (reason == literal_column("'opening'"), null()),
        (and_(before > 0, after == 0), literal_column("'out'")),
        (and_(before > reorder_point, after <= reorder_point), literal_column("'low'")),
        (and_(before <= reorder_point, after > reorder_point), literal_column("'recovered'")),
    )


# Sets ``last_counted_at`` to the time of the count's ledger row.
SET_COUNT_TIME = (
    update(PRODUCTS)
    .where(PRODUCTS.c.id == bindparam("counted_id"))
    .values(last_counted_at=PRODUCTS.c.updated_at, updated_at=PRODUCTS.c.updated_at)
)
