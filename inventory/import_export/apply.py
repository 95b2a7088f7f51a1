"""Writes the planned changes of an import, in one transaction."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import BigInteger, String, bindparam, cast, func, insert, select, update

from inventory.categories import service as categories
from inventory.categories.service import CATEGORIES
from inventory.database.base import execute, fetch_all, fetch_one, unit_of_work_connection
from inventory.database.engines import prefer_indexes, require_room
from inventory.database.functions import STATEMENT_TIME, json_elements, json_item
from inventory.database.unit_of_work import unit_of_work
from inventory.import_export.outcome import Outcome
from inventory.import_export.plan import CATEGORY, compare
from inventory.import_export.problems import Problems
from inventory.models.transaction import Batch, Transaction
from inventory.transactions import batches
from inventory.transactions import service as ledger
from inventory.transactions.statements import PRODUCTS
from inventory.web.idempotency import once

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Insert, Update

    from inventory.import_export.plan import Change
    from inventory.import_export.reader import ParsedRow
    from inventory.import_export.scratch import Scratch
    from inventory.web.idempotency import Earlier, RequestKey

# Changes as one JSON parameter. The first item of each is the product's id, the others are its new columns.
CHANGES = json_elements(bindparam("changes", type_=String)).table_valued("value", name="changes")
CHANGED_ID = cast(json_item(CHANGES.c.value, 0), BigInteger)
LOCK = (
    select(PRODUCTS.c.id, PRODUCTS.c.version, PRODUCTS.c.quantity_on_hand)
    .where(PRODUCTS.c.id == CHANGED_ID)
    .order_by(PRODUCTS.c.id)
    .with_for_update(key_share=True, of=PRODUCTS)
)
MOVED = select(func.count()).where(Transaction.batch_id == Batch.id).scalar_subquery()
COUNTS = select(Batch.rows, Batch.created, Batch.updated, Batch.unchanged, MOVED.label("stock_transactions")).where(
    Batch.id == bindparam("batch_id")
)


@unit_of_work
def apply_changes(scratch: Scratch, rows: int, mode: str, key: RequestKey | None) -> Outcome:
    """Write the planned changes and the batch of the import. ``rows`` is the number of rows in the file.

    Raises ImportInvalid if a row is no longer valid because other writers changed the catalogue, StorageFull, and what
    ``once`` raises.
    """
    return once(key, partial(write_changes, scratch, rows, mode, key), outcome_of)


def outcome_of(earlier: Earlier) -> Outcome:
    """The outcome of an earlier import, from its batch and its rows in the ledger."""
    return Outcome(**fetch_one(COUNTS, {"batch_id": earlier.batch_id})._asdict())


def write_changes(scratch: Scratch, rows: int, mode: str, key: RequestKey | None) -> Outcome:
    prefer_indexes(unit_of_work_connection())
    batch_id, done = batches.new_id(), Outcome(rows=rows, unchanged=rows)
    # First, so that an import that waits for a category of another one has no product locked.
    for names in scratch.new_categories():
        categories.create_missing(names)
    for planned in scratch.changes():
        changes = recheck(planned, scratch, mode)
        write(changes, batch_id)
        done = done.plus(changes)
    counts = {"rows": rows, "created": done.created, "updated": done.updated, "unchanged": done.unchanged}
    batches.write(batch_id, "import", key, **counts)
    require_room(unit_of_work_connection())
    return done


def recheck(planned: Sequence[Change], scratch: Scratch, mode: str) -> list[Change]:
    """The changes to write: a row whose product has changed since it was planned is compared again.

    Raises ImportInvalid if such a row is no longer valid.
    """
    versions = lock(planned)
    current: list[Change] = []
    outdated: list[ParsedRow] = []
    for change in planned:
        compared_with = (change.version, change.quantity_on_hand)
        if change.product_id is None or versions.get(change.product_id) == compared_with:
            current.append(change)
        else:
            outdated.append(scratch.row(change.number))
    return current + compare_again(outdated, mode) if outdated else current


def lock(planned: Sequence[Change]) -> dict[int, tuple[int, int]]:
    """Lock the products that the changes update. Returns their versions and stocks by id.

    Planned changes come in id order, the order of all locks.
    """
    known = [change for change in planned if change.product_id]
    found = fetch_all(LOCK, {"changes": in_json(known)}) if known else ()
    return {product_id: (version, quantity_on_hand) for product_id, version, quantity_on_hand in found}


def compare_again(rows: Sequence[ParsedRow], mode: str) -> list[Change]:
    """Compare rows under the lock. They may match other products now, so those are locked before the comparison."""
    ledger.lock(change.product_id for change in compare(rows, mode).changes if change.product_id)
    changes, problems = compare(rows, mode)
    Problems().plus(problems).raise_if_any()
    categories.create_missing(change.new_category for change in changes if change.new_category)
    return changes


def write(changes: Sequence[Change], batch_id: str) -> None:
    """Write changes with few statements. New products get their ids in the order of the changes."""
    create_products([change for change in changes if change.product_id is None], batch_id)
    update_products([change for change in changes if change.product_id is not None], batch_id)


def create_products(changes: Sequence[Change], batch_id: str) -> None:
    units: dict[int, int] = {}
    for columns, group in by_columns(changes):
        # RETURNING, because PostgreSQL plans a SELECT without statistics of the rows that this transaction inserts.
        created = fetch_all(insertion(columns), {"changes": in_json(group)})
        ids = {product.sku_folded: product.id for product in created}
        position = item_of("sku_folded", columns)
        units |= {ids[orjson.loads(change.content)[position]]: change.units for change in group if change.units}
    if units:
        ledger.record_adjustments(units, "opening", batch_id)


def update_products(changes: Sequence[Change], batch_id: str) -> None:
    for columns, group in by_columns(changes):
        if columns:
            execute(change_of_columns(columns), {"changes": in_json(group)})
    units = {change.product_id: change.units for change in changes if change.product_id and change.units}
    if units:
        ledger.record_adjustments(units, "count", batch_id)


def by_columns(changes: Sequence[Change]) -> Iterable[tuple[str, list[Change]]]:
    """Changes grouped by the columns that they set: each group is one statement."""
    groups: defaultdict[str, list[Change]] = defaultdict(list)
    for change in changes:
        groups[change.columns].append(change)
    return groups.items()


def in_json(changes: Sequence[Change]) -> str:
    return f"[{','.join([change.content for change in changes])}]"


@lru_cache(maxsize=500)
def insertion(columns: str) -> Insert:
    values = values_of(columns) | {"created_at": STATEMENT_TIME, "updated_at": STATEMENT_TIME}
    created = insert(PRODUCTS).from_select([*values], select(*values.values()).select_from(CHANGES))
    return created.returning(PRODUCTS.c.id, PRODUCTS.c.sku_folded)


@lru_cache(maxsize=500)
def change_of_columns(columns: str) -> Update:
    changed = update(PRODUCTS).where(PRODUCTS.c.id == CHANGED_ID)
    return changed.values({**values_of(columns), "version": PRODUCTS.c.version + 1})


def values_of(columns: str) -> dict[str, Any]:
    """The columns to write, with expressions for their values."""
    values: dict[str, Any] = {}
    for name in columns.split(","):
        item = json_item(CHANGES.c.value, item_of(name, columns))
        if name == CATEGORY:
            # No category with this name: it was deleted since the snapshot. NULL then violates a constraint.
            found = select(CATEGORIES.c.id).where(CATEGORIES.c.name_folded == item)
            values["category_id"] = found.correlate(CHANGES).scalar_subquery()
        else:
            column = PRODUCTS.c[name]
            values[name] = item if isinstance(column.type, String) else cast(item, column.type)
    return values


def item_of(name: str, columns: str) -> int:
    """The position of a column in the content of a change. The first item is the product's id."""
    return columns.split(",").index(name) + 1
