"""The scratch database of an import: its rows and its plan, on disk and not in memory."""

from __future__ import annotations

import sqlite3
import tempfile
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self, cast

import orjson

from inventory.import_export.plan import Change
from inventory.import_export.reader import ParsedRow
from inventory.import_export.schemas import MONEY_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from inventory.import_export.schemas import ProductCells

CHUNK = 500
# The database is never opened again, so it needs no journal and no sync to disk.
SETUP = (
    "PRAGMA journal_mode=OFF",
    "PRAGMA synchronous=OFF",
    "BEGIN EXCLUSIVE",
    "CREATE TABLE skus (sku TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID",
    "CREATE TABLE rows (number INTEGER PRIMARY KEY, content BLOB)",
    "CREATE TABLE changes (product_id INTEGER, number INTEGER, content BLOB, PRIMARY KEY (product_id, number))",
)
NEW = 0  # the product_id of a product that does not exist yet


class Scratch:
    """A private SQLite database with the parsed rows of a file and the changes that they make."""

    def __init__(self, folder: str | None = None) -> None:
        # Unlinked once open, so that it is removed even if the process is killed.
        with tempfile.NamedTemporaryFile(dir=folder, prefix="inventory-") as file:
            self.connection = sqlite3.connect(file.name, isolation_level=None)
            for statement in SETUP:
                self.connection.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.connection.close()

    def duplicate_of(self, sku: str, number: int) -> int | None:
        """Store the row number of a folded SKU. Returns the number of an earlier row with the same SKU, or None."""
        if self.connection.execute("INSERT OR IGNORE INTO skus VALUES (?, ?)", (sku, number)).rowcount:
            return None
        (first,) = self.connection.execute("SELECT number FROM skus WHERE sku = ?", (sku,)).fetchone()
        return int(first)

    def add_rows(self, rows: Iterable[ParsedRow]) -> None:
        packed = ((row.number, pack([row.cells, row.written])) for row in rows)
        self.connection.executemany("INSERT INTO rows VALUES (?, ?)", packed)

    def rows(self) -> Iterator[list[ParsedRow]]:
        """Chunks of the rows in the file's order."""
        for chunk in self.chunks("SELECT number, content FROM rows ORDER BY number"):
            yield [unpack_row(*stored) for stored in chunk]

    def row(self, number: int) -> ParsedRow:
        stored = self.connection.execute("SELECT number, content FROM rows WHERE number = ?", (number,))
        return unpack_row(*stored.fetchone())

    def add_changes(self, changes: Iterable[Change]) -> None:
        packed = ((change.product_id or NEW, change.number, pack(change[2:])) for change in changes)
        self.connection.executemany("INSERT INTO changes VALUES (?, ?, ?)", packed)

    def delete_changes(self) -> None:
        self.connection.execute("DELETE FROM changes")

    def changes(self) -> Iterator[list[Change]]:
        """Chunks of the changes: new products in the file's order, then known ones by id."""
        for chunk in self.chunks("SELECT product_id, number, content FROM changes ORDER BY product_id, number"):
            yield [unpack_change(*stored) for stored in chunk]

    def product_ids(self) -> Iterator[int]:
        """Ids of the known products that change, in ascending order."""
        stored = self.connection.execute("SELECT product_id FROM changes WHERE product_id <> 0 ORDER BY product_id")
        return (product_id for (product_id,) in stored)

    def chunks(self, statement: str) -> Iterator[list[Any]]:
        cursor = self.connection.execute(statement)
        while chunk := cursor.fetchmany(CHUNK):
            yield chunk


def pack(content: object) -> bytes:
    """JSON, in which amounts are text and so stay exact."""
    return orjson.dumps(content, default=str)


def unpack_row(number: int, content: bytes) -> ParsedRow:
    cells, written = orjson.loads(content)
    return ParsedRow(number, cast("ProductCells", with_money(cells)), written)


def unpack_change(product_id: int, number: int, content: bytes) -> Change:
    version, quantity_on_hand, columns, new_category, units = orjson.loads(content)
    return Change(number, product_id or None, version, quantity_on_hand, with_money(columns), new_category, units)


def with_money(columns: dict[str, object]) -> dict[str, object]:
    return columns | {name: Decimal(str(columns[name])) for name in MONEY_COLUMNS if columns.get(name) is not None}
