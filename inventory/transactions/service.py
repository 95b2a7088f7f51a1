"""The ledger's use cases, and the one function through which stock changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import BigInteger, bindparam, insert, select, update

from inventory import errors
from inventory.database.base import db, fold, write_position
from inventory.fields import MAX_QUANTITY
from inventory.models.product import MAX_STOCK, Product
from inventory.models.transaction import Transaction
from inventory.transactions import queries
from inventory.transactions.idempotency import claim

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import Executable, Row, Table

    from inventory.web.idempotency import RequestKey

PRODUCTS = cast("Table", Product.__table__)
LEDGER = cast("Table", Transaction.__table__)
# The moment of a count is that of its row.
NOTE_COUNT = (
    update(PRODUCTS)
    .where(PRODUCTS.c.id == bindparam("counted_id"))
    .values(last_counted_at=bindparam("moment"), updated_at=bindparam("moment"))
)
WRITE_ROW = insert(LEDGER).values(xid=write_position()).returning(*queries.COLUMNS)
TOO_FAR = f"One row of the ledger moves at most {MAX_QUANTITY} units."
# SQLite's usual bound is 32,766 and PostgreSQL's 65,535.
MAX_PARAMETERS = 10_000
MAX_NAMED = 100
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
    reverses_id: int | None = None

    @property
    def delta(self) -> int:
        return -self.quantity if self.transaction_type == "sale" else self.quantity


def record(
    product_id: int, movement: Movement, *, key: RequestKey | None = None, batch_id: str | None = None
) -> Row[Any]:
    """Move a product's stock and write the ledger row. The only place where ``quantity_on_hand`` changes.

    Returns the row as TransactionOut shows it. Raises UnknownProduct, ProductInactive, StaleQuantity,
    InsufficientStock, or ValidationFailed when the stock would pass MAX_STOCK; then nothing has changed.
    """
    moved = move_stock(product_id, movement)
    if moved is None:
        explain_refusal(product_id, movement)
        # The stock changed between the two statements so that the movement is possible now; the row is locked.
        moved = move_stock(product_id, movement)
        assert moved is not None  # noqa: S101
    if movement.reason == "count":
        moment = {"counted_id": product_id, "moment": moved.updated_at}
        db.session.execute(NOTE_COUNT, moment)
    facts = {
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
        "crossed": crossing(movement, moved),
        "created_at": moved.updated_at,
    }
    return db.session.execute(WRITE_ROW, facts | (key.columns() if key else {})).one()


def move_stock(product_id: int, movement: Movement) -> Row[Any] | None:
    """Check and change in one statement, so that no interleaving can oversell; None if the check failed.

    The column's own ``onupdate`` moves ``updated_at`` forward, after the row's lock is held and never back, and the
    ledger row takes it as its ``created_at``.
    """
    statement = guarded_update(
        only_active=movement.transaction_type != "adjustment",
        expecting=movement.expected_quantity is not None,
    )
    facts = {"moved_id": product_id, "delta": movement.delta, "expected_quantity": movement.expected_quantity}
    return db.session.execute(statement, facts).one_or_none()


@cache
def guarded_update(*, only_active: bool, expecting: bool) -> Executable:
    """Built once for each kind of movement, as building it takes several times as long as running it."""
    after = PRODUCTS.c.quantity_on_hand + bindparam("delta", type_=BigInteger)
    guarded = update(PRODUCTS).where(PRODUCTS.c.id == bindparam("moved_id"), after >= 0, after <= MAX_STOCK)
    if only_active:
        guarded = guarded.where(PRODUCTS.c.is_active)
    if expecting:
        guarded = guarded.where(PRODUCTS.c.quantity_on_hand == bindparam("expected_quantity"))
    return guarded.values(quantity_on_hand=after, last_seq=PRODUCTS.c.last_seq + 1).returning(
        PRODUCTS.c.sku,
        PRODUCTS.c.quantity_on_hand,
        PRODUCTS.c.last_seq,
        PRODUCTS.c.reorder_point,
        PRODUCTS.c.updated_at,
    )


def explain_refusal(product_id: int, movement: Movement) -> None:
    """Lock the product and raise what stands in the movement's way, if anything still does."""
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
        raise errors.ValidationFailed(details={"json": {"quantity": [f"The stock may not pass {MAX_STOCK}."]}})


def check_expectation(expected: int | None, available: int) -> None:
    if expected not in {None, available}:
        raise errors.StaleQuantity(
            f"Expected {expected} units in stock, but there are {available}",
            {"expected": expected, "quantity_on_hand": available},
        )


def crossing(movement: Movement, moved: Row[Any]) -> str | None:
    """Whether a movement took the stock to nothing, to the reorder point, or back above it.

    The stock that a product begins with crosses nothing. Only its first row is that, whatever a later one says.
    """
    after, reorder_point = moved.quantity_on_hand, moved.reorder_point
    before = after - movement.delta
    if movement.reason == "opening" and moved.last_seq == 1:
        return None
    if before > after == 0:
        return "out"
    if before > reorder_point >= after:
        return "low"
    if before <= reorder_point < after:
        return "recovered"
    return None


def create(data: Mapping[str, Any], key: RequestKey | None = None) -> Row[Any]:
    """Record what a client sent as TransactionIn. Raises what ``record`` and ``claim`` raise."""
    earlier = claim(key)
    if earlier is not None:
        return queries.get(earlier.transaction_id)
    facts = dict(data)
    return record(product_of(facts), Movement(**facts), key=key)


def product_of(facts: dict[str, Any]) -> int:
    """Take ``product_id`` or ``sku`` out of what a client sent. Returns the product's id or raises UnknownProduct."""
    sku, product_id = facts.pop("sku", None), facts.pop("product_id", None)
    if product_id is None:
        product_id = db.session.scalar(select(Product.id).where(Product.sku_folded == fold(sku)))
    if product_id is None:
        raise errors.UnknownProduct
    return int(product_id)


def count(product_id: int, data: Mapping[str, Any], key: RequestKey | None = None) -> Row[Any]:
    """Set the stock to what was counted; a count that agrees leaves a row all the same, as its proof.

    Raises ProductNotFound, StaleQuantity, and what ``claim`` raises.
    """
    earlier = claim(key)
    if earlier is not None:
        return queries.get(earlier.transaction_id)
    facts = dict(data)
    product = lock_one(product_id)
    if product is None:
        raise errors.ProductNotFound
    units = difference(facts.pop("counted_quantity"), product.quantity_on_hand, field="counted_quantity")
    return record(product_id, Movement("adjustment", units, reason="count", **facts), key=key)


def difference(wanted: int, available: int, *, field: str) -> int:
    """Units by which the stock has to move. Raises ValidationFailed if one row of the ledger cannot move as many."""
    units = wanted - available
    if abs(units) > MAX_QUANTITY:
        raise errors.ValidationFailed(details={"json": {field: [TOO_FAR]}})
    return units


def lock(product_ids: Iterable[int]) -> None:
    """Lock products until this transaction ends, in the one order that keeps two such locks from a deadlock."""
    statement = select(Product.id).order_by(Product.id).with_for_update(key_share=True)
    for ids in in_parts(sorted(set(product_ids))):
        db.session.execute(statement.where(Product.id.in_(ids)))


def lock_one(product_id: int) -> Row[*tuple[Any, ...]] | None:
    """Lock a product until this transaction ends. Returns its stock and whether it is active, or None."""
    statement = select(PRODUCTS.c.quantity_on_hand, PRODUCTS.c.is_active).where(PRODUCTS.c.id == product_id)
    return db.session.execute(statement.with_for_update(key_share=True)).one_or_none()


def in_parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """As many ids at a time as a statement takes; the rows of an import, undone together, may be more."""
    for start in range(0, len(ids), MAX_PARAMETERS):
        yield ids[start : start + MAX_PARAMETERS]


def reverse(transaction_id: int, data: Mapping[str, Any], key: RequestKey | None = None) -> Row[Any]:
    """Undo a movement by a contra row. The unique constraint on ``reverses_id`` decides that it happens once.

    Raises TransactionNotFound, NotReversible, AlreadyReversed, InsufficientStock, and what ``claim`` raises.
    """
    earlier = claim(key)
    if earlier is not None:
        return queries.get(earlier.transaction_id)
    row = queries.get(transaction_id)
    if row.reverses_id is not None or row.delta == 0:
        raise errors.NotReversible
    lock([row.product_id])
    refuse_reversed([row])
    return record_contra(row, data, key=key)


def refuse_reversed(rows: Sequence[Row[Any]]) -> None:
    """The unique constraint decides; with the products locked this look beforehand finds the same, and says which."""
    for ids in in_parts([row.id for row in rows]):
        undone = select(Transaction.reverses_id).where(Transaction.reverses_id.in_(ids))
        found = db.session.scalars(undone.order_by(Transaction.reverses_id).limit(MAX_NAMED)).all()
        if found:
            raise errors.AlreadyReversed(details={"transaction_ids": found})


def record_contra(
    row: Row[Any], data: Mapping[str, Any], *, key: RequestKey | None = None, batch_id: str | None = None
) -> Row[Any]:
    """Record the opposite of a row of the ledger."""
    contra = Movement("adjustment", -row.delta, reason="reversal", reverses_id=row.id, **data)
    return record(row.product_id, contra, key=key, batch_id=batch_id)
