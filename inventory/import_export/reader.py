"""Parses a product file: its encoding, its header, its rows, and the problems of each row."""

from __future__ import annotations

import csv
import io
import re
from functools import lru_cache, partial
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from marshmallow import ValidationError

from inventory import errors
from inventory.import_export import cells
from inventory.import_export.problems import Problem, Problems
from inventory.import_export.schemas import PRODUCT_COLUMNS, FileRow, OneLine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from marshmallow import fields

    from inventory.import_export.schemas import ProductCells

DELIMITERS = ",;\t"
# Limits memory for a file without line breaks; valid rows are much shorter.
MAX_LINE = 1_000_000
# Headings of the price list that differ from the column's name in more than case and spaces.
SYNONYMS = {"quantity": "quantity_on_hand"}
MAX_HEADING = 25
NOT_UTF_8 = 'The file is not text in UTF-8. In a spreadsheet, save it as "CSV UTF-8".'
EMPTY_CELL = "Must not be empty."
# Most columns repeat their cells. The results of short cells are kept: up to so many per column, up to this length.
KEPT_CELLS = 2_000
SHORT = 50


class ParsedRow(NamedTuple):
    """A row of a product file. ``number`` counts as a spreadsheet does: the header is row 1.

    ``written`` holds the original text of cells whose white space was normalized. A row with problems has only the
    cells that are valid.
    """

    number: int
    cells: ProductCells
    written: Mapping[str, str]
    problems: tuple[Problem, ...] = ()


def read_rows(file: IO[bytes]) -> Iterator[ParsedRow]:
    """Parse a file in UTF-8, with or without BOM, its columns in any order.

    Raises UnsupportedEncoding for anything but UTF-8, and ImportInvalid for an invalid header.
    """
    file.seek(0)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        yield from parse(text)
    except UnicodeDecodeError:
        raise errors.UnsupportedEncoding(NOT_UTF_8) from None
    finally:
        text.detach()


class Cell(NamedTuple):
    """The value of a cell, its original text if white space was normalized, and what is wrong with it."""

    value: object = None
    written: str | None = None
    messages: tuple[str, ...] = ()


class Column:
    """A column of a file. Its cells are read by the field of FileRow with its name.

    Loading whole rows with the schema gives the same result, and takes twice as long.
    """

    def __init__(self, name: str, position: int, field: fields.Field[Any]) -> None:
        self.name, self.position, self.field = name, position, field
        self.read_short = lru_cache(KEPT_CELLS)(self.read_any)

    def read(self, text: str) -> Cell:
        return self.read_short(text) if len(text) <= SHORT else self.read_any(text)

    def read_any(self, text: str) -> Cell:
        given = cells.unquote(text.strip()) or None
        try:
            value = self.field.deserialize(given, self.name)
        except ValidationError as error:
            empty = self.field.error_messages["null"]
            return Cell(messages=tuple(EMPTY_CELL if message == empty else str(message) for message in error.messages))
        return Cell(value, given if isinstance(self.field, OneLine) and given != value else None)


def parse(text: io.TextIOWrapper) -> Iterator[ParsedRow]:
    delimiter = detect_delimiter(text)
    records = csv.reader(iter(partial(text.readline, MAX_LINE), ""), delimiter=delimiter, strict=True)
    columns, number = columns_of(read_header(records)), 1
    try:
        for number, record in enumerate(records, start=2):
            if any(cell.strip() for cell in record):
                yield parse_row(number, record, columns)
    except csv.Error as error:
        # Where the next row begins is unknown, so the rest of the file is not read.
        yield ParsedRow(number + 1, {}, {}, (not_csv(number + 1, error),))


def detect_delimiter(text: io.TextIOWrapper) -> str:
    """The delimiter that occurs most often in the header line. Rewinds ``text``."""
    header = text.readline(MAX_LINE)
    text.seek(0)
    return max(DELIMITERS, key=header.count)


def columns_of(header: list[str]) -> list[Column]:
    """The columns of a file in the order of the schema, in which problems are listed."""
    fields = FileRow().fields
    return [Column(name, header.index(name), fields[name]) for name in PRODUCT_COLUMNS if name in header]


def parse_row(number: int, record: list[str], columns: Sequence[Column]) -> ParsedRow:
    if len(record) == len(columns):
        return read_cells(number, record, columns)
    problem = Problem(
        number, None, f"The row has a different number of cells than the header: {len(record)}, not {len(columns)}."
    )
    # The SKU alone, so that a duplicate in a later row is still found.
    sku = read_cells(
        number, record, [column for column in columns if column.name == "sku" and column.position < len(record)]
    )
    return ParsedRow(number, sku.cells, {}, (problem,))


def read_cells(number: int, record: list[str], columns: Sequence[Column]) -> ParsedRow:
    loaded: dict[str, object] = {}
    written: dict[str, str] = {}
    problems: list[Problem] = []
    for column in columns:
        value, original, messages = column.read(record[column.position])
        if messages:
            problems += [Problem(number, column.name, message) for message in messages]
            continue
        loaded[column.name] = value
        if original is not None:
            written[column.name] = original
    return ParsedRow(number, cast("ProductCells", loaded), {} if problems else written, tuple(problems))


def not_csv(number: int, error: csv.Error) -> Problem:
    return Problem(number, None, f"Invalid CSV: {error}. The rest of the file was not read.")


def read_header(records: Iterator[list[str]]) -> list[str]:
    """Column names in the file's order. Raises ImportInvalid for an unknown, duplicate or missing column."""
    try:
        headings = next(records, [])
    except csv.Error as error:
        raise Problems().plus([not_csv(1, error)]).as_error() from None
    header = [column_of(heading) for heading in headings]
    Problems().plus(header_problems(header, headings)).raise_if_any()
    return header


def header_problems(header: list[str], headings: list[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    for position, (name, heading) in enumerate(zip(header, headings, strict=True), start=1):
        if name not in PRODUCT_COLUMNS:
            yield Problem(1, None, unknown_heading(position, heading))
        elif name in seen:
            yield Problem(1, name, "Duplicate column.")
        seen.add(name)
    if "sku" not in seen:
        yield Problem(1, "sku", "Missing column.")


def column_of(heading: str) -> str:
    """The column that a heading names: case does not matter, and spaces count as an underscore."""
    name = re.sub(r"[\s_]+", "_", heading.strip().lower())
    return SYNONYMS.get(name, name)


def unknown_heading(position: int, heading: str) -> str:
    """A message that quotes the heading, shortened and without unprintable characters."""
    shown = "".join(character for character in cells.one_line(heading) if character.isprintable())
    shown = f"{shown[:MAX_HEADING]}…" if len(shown) > MAX_HEADING else shown
    named = f' "{shown}"' if shown else ""
    return f"Unknown column {position}{named}. Known columns: {', '.join(PRODUCT_COLUMNS)}."
