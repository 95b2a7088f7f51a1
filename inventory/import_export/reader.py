"""Reads a product file: its notation, its header, its rows, and everything that is wrong with them."""

from __future__ import annotations

import csv
import heapq
import io
import sqlite3
from dataclasses import dataclass, field
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Self

from marshmallow import ValidationError

from inventory import errors
from inventory.database.base import fold
from inventory.import_export import cells
from inventory.import_export.schemas import PRODUCT_COLUMNS, ProductRow

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

DELIMITERS = ",;\t"
REPORTED = 100
# Far longer than any sound row, so that a file without line breaks is not read into memory whole.
MAX_LINE = 1_000_000


@dataclass
class Problems:
    """Counts every problem and keeps the first by row."""

    count: int = 0
    first: list[tuple[int, int, str | None, str]] = field(default_factory=list)

    def add(self, row: int, column: str | None, message: str) -> None:
        # A heap with its largest row on top, so that whatever comes earlier in the file takes its place.
        self.count += 1
        entry = (-row, -self.count, column, message)
        if len(self.first) < REPORTED:
            heapq.heappush(self.first, entry)
        else:
            heapq.heappushpop(self.first, entry)

    def refuse_any(self) -> None:
        """Raise ImportInvalid if there is a problem."""
        if not self.count:
            return
        listed = [
            {"row": -row, "column": column, "message": message}
            for row, _number, column, message in sorted(self.first, key=lambda entry: (-entry[0], -entry[1]))
        ]
        plural = "1 error" if self.count == 1 else f"{self.count} errors"
        raise errors.ImportInvalid(
            f"Nothing was imported: the file has {plural}.", {"error_count": self.count, "errors": listed}
        )


@dataclass(frozen=True)
class ParsedRow:
    """A row without problems of its own. ``number`` counts as a spreadsheet does: the header is row 1."""

    number: int
    values: dict[str, Any]


class ProductFile:
    """A file of products in UTF-8, with or without BOM, its columns in any order.

    Raises UnsupportedEncoding for anything but UTF-8 and ImportInvalid for a header that will not do.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.schema = ProductRow()
        # An empty name makes a private database on disk: SKUs seen so far take no memory, however many.
        self.seen = sqlite3.connect("")
        self.seen.execute("CREATE TABLE skus (sku TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.seen.close()

    def rows(self, problems: Problems) -> Generator[ParsedRow]:
        """Every row that is sound by itself; what is wrong with the others goes to ``problems``."""
        self.file.seek(0)
        text = io.TextIOWrapper(self.file, encoding="utf-8-sig", newline="")
        try:
            yield from self.parse(text, problems)
        except UnicodeDecodeError:
            raise errors.UnsupportedEncoding("The file is not text in UTF-8.") from None
        finally:
            text.detach()

    def parse(self, text: io.TextIOWrapper, problems: Problems) -> Iterator[ParsedRow]:
        records = numbered_records(text, delimiter_of(text), problems)
        header = read_header(next(records, (1, []))[1], problems)
        for number, record in records:
            if len(record) != len(header):
                problems.add(number, None, f"The row has {len(record)} cells, the header has {len(header)}.")
                continue
            given = {name: cells.unquote(cell.strip()) or None for name, cell in zip(header, record, strict=True)}
            try:
                yield ParsedRow(number, self.schema.load(given))
            except ValidationError as error:
                for column, messages in error.messages_dict.items():
                    for message in messages:
                        problems.add(number, column, cell_message(message))

    def check(self, problems: Problems) -> int:
        """Look for problems in the whole file without touching the database. Returns the number of sound rows."""
        count = 0
        for row in self.rows(problems):
            count += 1
            key = fold(row.values["sku"])
            if self.seen.execute("INSERT OR IGNORE INTO skus VALUES (?, ?)", (key, row.number)).rowcount == 0:
                (first,) = self.seen.execute("SELECT row FROM skus WHERE sku = ?", (key,)).fetchone()
                problems.add(row.number, "sku", f"The same SKU as in row {first}.")
        return count

    def skus(self) -> Iterator[str]:
        """The folded SKUs of a file that was checked, in no order of the file's."""
        return (sku for (sku,) in self.seen.execute("SELECT sku FROM skus"))


def cell_message(message: str) -> str:
    return "May not be empty." if message == "Field may not be null." else message


def delimiter_of(text: io.TextIOWrapper) -> str:
    """The delimiter that the header line has most of; the text is at its start again afterwards."""
    header = text.readline(MAX_LINE)
    text.seek(0)
    return max(DELIMITERS, key=header.count)


def numbered_records(text: io.TextIOWrapper, delimiter: str, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Records that are not blank, with their numbers; ends at a place that is no CSV, since no row after it is sure."""
    reader = csv.reader(iter(partial(text.readline, MAX_LINE), ""), delimiter=delimiter, strict=True)
    number = 0
    try:
        for number, record in enumerate(reader, start=1):
            if number == 1 or any(cell.strip() for cell in record):
                yield number, record
    except csv.Error as error:
        problems.add(number + 1, None, f"Not CSV from here on: {error}.")


def read_header(record: list[str], problems: Problems) -> list[str]:
    """Column names in the file's order. Raises ImportInvalid for an unknown, doubled or missing one."""
    problems.refuse_any()
    header = [name.strip().lower() for name in record]
    seen: set[str] = set()
    for position, name in enumerate(header, start=1):
        if name not in PRODUCT_COLUMNS:
            problems.add(1, None, f"Column {position} has an unknown name; known are {', '.join(PRODUCT_COLUMNS)}.")
        elif name in seen:
            problems.add(1, name, "The column stands twice.")
        seen.add(name)
    if "sku" not in seen:
        problems.add(1, "sku", "The column is missing.")
    problems.refuse_any()
    return header
