"""Imports products from a file: all of it or nothing."""

from __future__ import annotations

from array import array
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from inventory.categories import service as categories
from inventory.database.base import db, fold, unit_of_work
from inventory.database.engines import begin_snapshot
from inventory.fields import MAX_QUANTITY
from inventory.import_export.reader import ParsedRow, Problems, ProductFile
from inventory.models.product import Product
from inventory.models.transaction import Batch, Transaction
from inventory.transactions import batches
from inventory.transactions import service as ledger
from inventory.transactions.idempotency import claim
from inventory.transactions.service import Movement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inventory.web.idempotency import RequestKey

T = TypeVar("T")

CHUNK = 500
ATTEMPTS = 3
REQUIRED_WHEN_NEW = ("name", "price", "category")


@dataclass
class Outcome:
    rows: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    stock_transactions: int = 0
    dry_run: bool = False


def nothing(_rows: int) -> None:
    pass


def import_products(
    file: IO[bytes],
    *,
    mode: str = "upsert",
    dry_run: bool = False,
    key: RequestKey | None = None,
    progress: Callable[[int], None] = nothing,
) -> Outcome:
    """Create and update products from a CSV file in one transaction.

    The whole file is checked before the database is locked. ``progress`` is called with the number of rows done
    since its last call. Raises ImportInvalid, which lists the first problems, and UnsupportedEncoding.
    """
    problems = Problems()
    with ProductFile(file) as source:
        source.check(problems)
        for _attempt in range(ATTEMPTS - 1):
            try:
                return apply(source, problems, mode=mode, dry_run=dry_run, key=key, progress=progress)
            except IntegrityError:
                # The rows themselves are sound, so another writer just created the same SKU or category, or deleted
                # the category; this time it is seen before it is in the way.
                continue
        return apply(source, problems, mode=mode, dry_run=dry_run, key=key, progress=progress)


@unit_of_work
def apply(
    source: ProductFile,
    found: Problems,
    *,
    mode: str,
    dry_run: bool,
    key: RequestKey | None,
    progress: Callable[[int], None],
) -> Outcome:
    """Write the rows, or once a problem is known only look for more of them; then commit, or refuse."""
    earlier = claim(key)
    if earlier is not None:
        return as_imported(earlier.batch_id)
    problems = Problems(found.count, list(found.first))
    importer = Importer(problems, mode)
    if not problems.count:
        lock_known(source)
    with closing(source.rows(Problems())) as rows:
        importer.read(chunked(rows), progress)
    problems.refuse_any()
    if dry_run:
        db.session.rollback()
    else:
        importer.write_batch(key)
    importer.outcome.dry_run = dry_run
    return importer.outcome


def lock_known(source: ProductFile) -> None:
    """Lock every product that the file names before the first one changes, in the one order of all such locks.

    The file's own order would lead into deadlocks with batches and other imports. Takes some 40 bytes for each.
    """
    known = array("q")
    for skus in chunked(source.skus()):
        known.extend(db.session.scalars(select(Product.id).where(Product.sku_folded.in_(skus))))
    ledger.lock(known)


def as_imported(batch_id: str) -> Outcome:
    """What an earlier import was answered, from its batch and its rows in the ledger."""
    batch = db.session.get_one(Batch, batch_id)
    moved = db.session.scalar(select(func.count()).where(Transaction.batch_id == batch_id)) or 0
    return Outcome(batch.rows or 0, batch.created or 0, batch.updated or 0, batch.unchanged or 0, moved)


def chunked(items: Iterator[T]) -> Iterator[list[T]]:
    while chunk := list(islice(items, CHUNK)):
        yield chunk


@dataclass
class Importer:
    problems: Problems
    mode: str
    outcome: Outcome = field(default_factory=Outcome)
    category_ids: dict[str, int] = field(default_factory=dict)
    batch_id: str = field(default_factory=batches.new_id)

    def read(self, chunks: Iterator[list[ParsedRow]], progress: Callable[[int], None]) -> None:
        """Take chunks of rows as long as all is well, then only look for more problems."""
        while not self.problems.count and (rows := next(chunks, [])):
            self.take(rows)
            progress(len(rows))
        if self.problems.count:
            # To look takes no lock that others would have to wait for.
            begin_snapshot(db.session())
            for rows in chunks:
                self.examine(rows)
                progress(len(rows))

    def take(self, rows: list[ParsedRow]) -> None:
        """Bring a chunk of rows into the database and forget it again."""
        existing = find_existing(rows, lock=True)
        pending: list[tuple[Product, int, str]] = []
        for row in rows:
            self.outcome.rows += 1
            product = existing.get(fold(row.values["sku"]))
            if self.is_sound(row, product) and not self.problems.count:
                pending += self.bring_in(row.values, product)
        db.session.flush()
        for product, quantity, reason in pending:
            ledger.record(product.id, Movement("adjustment", quantity, reason=reason), batch_id=self.batch_id)
        self.outcome.stock_transactions += len(pending)
        db.session.expunge_all()

    def examine(self, rows: list[ParsedRow]) -> None:
        """Only look for problems in a chunk of rows."""
        existing = find_existing(rows)
        for row in rows:
            self.is_sound(row, existing.get(fold(row.values["sku"])))
        db.session.expunge_all()

    def write_batch(self, key: RequestKey | None) -> None:
        """Write down the import itself, now that its counts are known."""
        done = self.outcome
        counts = {"rows": done.rows, "created": done.created, "updated": done.updated, "unchanged": done.unchanged}
        batches.write(self.batch_id, "import", key, **counts)

    def is_sound(self, row: ParsedRow, product: Product | None) -> bool:
        """Whether the row can be brought in; what cannot be known without the database goes to ``problems``."""
        before = self.problems.count
        if product is None:
            for column in REQUIRED_WHEN_NEW:
                if column not in row.values:
                    self.problems.add(row.number, column, "A new product needs it.")
        elif self.mode == "create":
            self.problems.add(row.number, "sku", "A product with this SKU exists already.")
        price = row.values.get("price", product.price if product else None)
        cost = row.values.get("cost", product.cost if product else None)
        if price is not None and cost is not None and price < cost:
            column = "price" if "price" in row.values else "cost"
            self.problems.add(row.number, column, "The price may not be below the cost.")
        if abs(difference(row.values, product)) > MAX_QUANTITY:
            self.problems.add(row.number, "quantity_on_hand", ledger.TOO_FAR)
        return self.problems.count == before

    def bring_in(self, values: dict[str, Any], product: Product | None) -> list[tuple[Product, int, str]]:
        """Create or change the product. Returns the movement of stock it still needs: product, quantity, reason."""
        facts = dict(values)
        facts.pop("quantity_on_hand", None)
        units = difference(values, product)
        if "category" in facts:
            facts["category_id"] = self.category_id(facts.pop("category"))
        if product is None:
            product = Product(**facts)
            db.session.add(product)
            self.outcome.created += 1
            return [(product, units, "opening")] if units else []
        for name, value in facts.items():
            setattr(product, name, value)
        if units or db.session.is_modified(product):
            self.outcome.updated += 1
        else:
            self.outcome.unchanged += 1
        return [(product, units, "count")] if units else []

    def category_id(self, name: str) -> int:
        """Id of the category of this name, which is created if there is none."""
        key = fold(name)
        if key not in self.category_ids:
            category = categories.find_by_name(name) or categories.create({"name": name})
            self.category_ids[key] = category.id
            db.session.expunge(category)
        return self.category_ids[key]


def find_existing(rows: list[ParsedRow], *, lock: bool = False) -> dict[str, Product]:
    """The products that the rows name, by folded SKU; to lock them goes by the order of their ids."""
    keys = [fold(row.values["sku"]) for row in rows]
    statement = select(Product).where(Product.sku_folded.in_(keys)).order_by(Product.id)
    found = db.session.scalars(statement.with_for_update(key_share=True) if lock else statement)
    return {product.sku_folded: product for product in found}


def difference(values: dict[str, Any], product: Product | None) -> int:
    """Units by which the row changes the stock."""
    present = product.quantity_on_hand if product else 0
    wanted: int = values.get("quantity_on_hand", present)
    return wanted - present
