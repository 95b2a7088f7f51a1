"""Writes the planned changes of an import, in one transaction."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, func, insert, select, update

from inventory.categories import service as categories
from inventory.database.base import db
from inventory.database.types import fold
from inventory.database.unit_of_work import unit_of_work
from inventory.import_export.outcome import Outcome
from inventory.import_export.plan import compare
from inventory.import_export.problems import Problems
from inventory.models.transaction import Batch, Transaction
from inventory.transactions import batches
from inventory.transactions import service as ledger
from inventory.transactions.service import PRODUCTS
from inventory.web.idempotency import once

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inventory.import_export.plan import Change
    from inventory.import_export.reader import ParsedRow
    from inventory.import_export.scratch import Scratch
    from inventory.web.idempotency import Earlier, RequestKey

UPDATE_PRODUCT = update(PRODUCTS).where(PRODUCTS.c.id == bindparam("changed_id")).values(version=PRODUCTS.c.version + 1)
CREATE_PRODUCT = insert(PRODUCTS).returning(PRODUCTS.c.id, PRODUCTS.c.sku_folded)
VERSIONS = select(PRODUCTS.c.id, PRODUCTS.c.version, PRODUCTS.c.quantity_on_hand)


@unit_of_work
def apply_changes(scratch: Scratch, rows: int, mode: str, key: RequestKey | None) -> Outcome:
    """Write the planned changes and the batch of the import. ``rows`` is the number of rows in the file.

    Raises ImportInvalid if a row is no longer valid because other writers changed the catalogue, and what ``once``
    raises.
    """
    return once(key, partial(write_changes, scratch, rows, mode, key), outcome_of)


def outcome_of(earlier: Earlier) -> Outcome:
    """The outcome of an earlier import, from its batch and its rows in the ledger."""
    batch = db.session.get_one(Batch, earlier.batch_id)
    moved = db.session.scalar(select(func.count()).where(Transaction.batch_id == batch.id)) or 0
    return Outcome(batch.rows or 0, batch.created or 0, batch.updated or 0, batch.unchanged or 0, moved)


def write_changes(scratch: Scratch, rows: int, mode: str, key: RequestKey | None) -> Outcome:
    # Lock all products first, in id order like all other locks.
    ledger.lock(scratch.product_ids())
    writer, done = Writer(), Outcome(rows=rows, unchanged=rows)
    for planned in scratch.changes():
        changes = recheck(planned, scratch, mode)
        writer.write(changes)
        done = done.plus(changes)
    counts = {"rows": rows, "created": done.created, "updated": done.updated, "unchanged": done.unchanged}
    batches.write(writer.batch_id, "import", key, **counts)
    return done


def recheck(planned: Sequence[Change], scratch: Scratch, mode: str) -> list[Change]:
    """The changes to write: a row whose product has changed since it was planned is compared again.

    Raises ImportInvalid if such a row is no longer valid.
    """
    versions = current_versions(planned)
    current: list[Change] = []
    outdated: list[ParsedRow] = []
    for change in planned:
        compared_with = (change.version, change.quantity_on_hand)
        if change.product_id is None or versions.get(change.product_id) == compared_with:
            current.append(change)
        else:
            outdated.append(scratch.row(change.number))
    return current + compare_again(outdated, mode) if outdated else current


def current_versions(changes: Sequence[Change]) -> dict[int, tuple[int, int]]:
    """Version and stock of the products that the changes update, by id."""
    ids = [change.product_id for change in changes if change.product_id]
    found = db.session.execute(VERSIONS.where(PRODUCTS.c.id.in_(ids)))
    return {product.id: (product.version, product.quantity_on_hand) for product in found}


def compare_again(rows: Sequence[ParsedRow], mode: str) -> list[Change]:
    """Compare rows under the lock. They may match other products now, so those are locked before the comparison."""
    ledger.lock(change.product_id for change in compare(rows, mode).changes if change.product_id)
    changes, problems = compare(rows, mode)
    Problems().plus(problems).raise_if_any()
    return changes


@dataclass
class Writer:
    """Writes changes as one batch, with few statements per chunk. Caches category ids."""

    batch_id: str = field(default_factory=batches.new_id)
    category_ids: dict[str, int] = field(default_factory=dict)

    def write(self, changes: Sequence[Change]) -> None:
        self.create([change for change in changes if change.product_id is None])
        self.update([change for change in changes if change.product_id is not None])

    def create(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        # RETURNING, because PostgreSQL plans a SELECT without statistics of the rows that this transaction inserts.
        created = db.session.execute(CREATE_PRODUCT, [self.columns(change) for change in changes]).all()
        opening = {change.columns["sku_folded"]: change.units for change in changes if change.units}
        units = {product.id: opening[product.sku_folded] for product in created if product.sku_folded in opening}
        if units:
            ledger.record_adjustments(units, "opening", self.batch_id)

    def update(self, changes: Sequence[Change]) -> None:
        for rows in self.grouped(changes):
            db.session.execute(UPDATE_PRODUCT, rows)
        units = {change.product_id: change.units for change in changes if change.product_id and change.units}
        if units:
            ledger.record_adjustments(units, "count", self.batch_id)

    def grouped(self, changes: Sequence[Change]) -> Iterable[list[dict[str, object]]]:
        """Parameters of the updates, grouped by the columns that they set: each group is one statement."""
        groups: defaultdict[tuple[str, ...], list[dict[str, object]]] = defaultdict(list)
        for change in changes:
            if columns := self.columns(change):
                groups[tuple(columns)].append({"changed_id": change.product_id, **columns})
        return groups.values()

    def columns(self, change: Change) -> dict[str, object]:
        """The columns to write. A category that does not exist is created."""
        if change.new_category is None:
            return change.columns
        return change.columns | {"category_id": self.category_id(change.new_category)}

    def category_id(self, name: str) -> int:
        folded = fold(name)
        if folded not in self.category_ids:
            found = categories.find_by_name(name) or categories.create({"name": name})
            self.category_ids[folded] = found.id
        return self.category_ids[folded]
