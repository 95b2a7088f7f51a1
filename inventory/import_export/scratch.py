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
    from collections.abc import Iterable, Iterator, Sequence

    from inventory.import_export.schemas import ProductCells

CHUNK = 500
# The database is never opened again, so it needs no journal and no sync to disk.
SETUP = (
    "PRAGMA journal_mode=OFF",
    "PRAGMA synchronous=OFF",
    "BEGIN EXCLUSIVE",
    "CREATE TABLE skus (sku TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID",
    "CREATE TABLE rows (number INTEGER PRIMARY KEY, content BLOB)",
    """
    CREATE TABLE changes (
        number INTEGER, product_id INTEGER, version INTEGER, quantity_on_hand INTEGER, columns TEXT, content TEXT,
        new_category TEXT, units INTEGER, PRIMARY KEY (product_id, number)
    )
    """,
)


class Scratch:
    """A private SQLite database with the parsed rows of a file and the changes that they make.

    Rows are stored without the names of their columns, which are the same in all rows of a file.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.columns: tuple[str, ...] = ()
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

    def add_rows(self, rows: Sequence[ParsedRow]) -> None:
        if rows:
            self.columns = tuple(rows[0].cells)
        self.connection.executemany("INSERT INTO rows VALUES (?, ?)", ((row.number, pack(row)) for row in rows))

    def rows(self) -> Iterator[list[ParsedRow]]:
        """Chunks of the rows in the file's order."""
        for chunk in self.chunks("SELECT number, content FROM rows ORDER BY number"):
            yield [self.unpack(*stored) for stored in chunk]

    def row(self, number: int) -> ParsedRow:
        stored = self.connection.execute("SELECT number, content FROM rows WHERE number = ?", (number,))
        return self.unpack(*stored.fetchone())

    def unpack(self, number: int, content: bytes) -> ParsedRow:
        *values, written = orjson.loads(content)
        cells = dict(zip(self.columns, values, strict=True))
        for name in MONEY_COLUMNS:
            if cells.get(name) is not None:
                cells[name] = Decimal(cells[name])
        return ParsedRow(number, cast("ProductCells", cells), written)

    def add_changes(self, changes: Iterable[Change]) -> None:
        self.connection.executemany("INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", changes)

    def delete_changes(self) -> None:
        self.connection.execute("DELETE FROM changes")

    def changes(self) -> Iterator[list[Change]]:
        """Chunks of the changes: new products in the file's order, then known ones by id."""
        # NULL, the product_id of new products, sorts first.
        for chunk in self.chunks("SELECT * FROM changes ORDER BY product_id, number"):
            yield [Change._make(stored) for stored in chunk]

    def new_categories(self) -> Iterator[list[str]]:
        """Chunks of the names of categories that have to be created, in the file's order."""
        named = "SELECT new_category FROM changes WHERE new_category IS NOT NULL"
        for chunk in self.chunks(f"{named} GROUP BY new_category ORDER BY min(number)"):
            yield [name for (name,) in chunk]

    def chunks(self, statement: str) -> Iterator[list[Any]]:
        cursor = self.connection.execute(statement)
        while chunk := cursor.fetchmany(CHUNK):
            yield chunk


def pack(row: ParsedRow) -> bytes:
    """JSON, in which amounts are text and so stay exact."""
    return orjson.dumps([*row.cells.values(), row.written], default=str)
