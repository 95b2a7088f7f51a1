"""Parses a product file: its encoding, its header, its rows, and the problems of each row."""

from __future__ import annotations

import csv
import io
import re
from functools import partial
from typing import IO, TYPE_CHECKING, NamedTuple, cast

from marshmallow import ValidationError

from inventory import errors
from inventory.import_export import cells
from inventory.import_export.problems import Problem, Problems
from inventory.import_export.schemas import ONE_LINE_COLUMNS, PRODUCT_COLUMNS, FileRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inventory.import_export.schemas import ProductCells

DELIMITERS = ",;\t"
# Limits memory for a file without line breaks; valid rows are much shorter.
MAX_LINE = 1_000_000
# Headings of the price list that differ from the column's name in more than case and spaces.
SYNONYMS = {"quantity": "quantity_on_hand"}
MAX_HEADING = 25
EMPTY_CELL = "Must not be empty."


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
        raise errors.UnsupportedEncoding("The file is not text in UTF-8.") from None
    finally:
        text.detach()


def parse(text: io.TextIOWrapper) -> Iterator[ParsedRow]:
    delimiter = detect_delimiter(text)
    records = csv.reader(iter(partial(text.readline, MAX_LINE), ""), delimiter=delimiter, strict=True)
    header, schema, number = read_header(records), FileRow(), 1
    try:
        for number, record in enumerate(records, start=2):
            if any(cell.strip() for cell in record):
                yield parse_row(number, record, header, schema)
    except csv.Error as error:
        # Where the next row begins is unknown, so the rest of the file is not read.
        yield ParsedRow(number + 1, {}, {}, (not_csv(number + 1, error),))


def detect_delimiter(text: io.TextIOWrapper) -> str:
    """The delimiter that occurs most often in the header line. Rewinds ``text``."""
    header = text.readline(MAX_LINE)
    text.seek(0)
    return max(DELIMITERS, key=header.count)


def parse_row(number: int, record: list[str], header: list[str], schema: FileRow) -> ParsedRow:
    if len(record) != len(header):
        problem = Problem(
            number, None, f"The row has a different number of cells than the header: {len(record)}, not {len(header)}."
        )
        return ParsedRow(number, sku_alone(record, header.index("sku"), schema), {}, (problem,))
    given = {name: cells.unquote(cell.strip()) or None for name, cell in zip(header, record, strict=True)}
    try:
        loaded = cast("ProductCells", schema.load(given))
    except ValidationError as error:
        return ParsedRow(number, cast("ProductCells", error.valid_data), {}, cell_problems(number, error))
    written = {name: text for name in ONE_LINE_COLUMNS if (text := given.get(name)) and text != loaded.get(name)}
    return ParsedRow(number, loaded, written)


def sku_alone(record: list[str], column: int, schema: FileRow) -> ProductCells:
    """The SKU of a row with too many or too few cells, so that a duplicate in a later row is still found."""
    if column >= len(record):
        return {}
    try:
        return cast("ProductCells", schema.load({"sku": cells.unquote(record[column].strip())}, partial=True))
    except ValidationError:
        return {}


def cell_problems(number: int, error: ValidationError) -> tuple[Problem, ...]:
    return tuple(
        Problem(number, column, EMPTY_CELL if message == "Field may not be null." else message)
        for column, messages in error.messages_dict.items()
        for message in messages
    )


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
