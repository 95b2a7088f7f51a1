"""Parsing and validation of product files, without a database."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import pytest

from inventory import errors
from inventory.import_export.importer import no_progress, validate_rows
from inventory.import_export.problems import Problem, Problems
from inventory.import_export.reader import read_rows
from inventory.import_export.schemas import PRODUCT_COLUMNS, ProductCells
from inventory.import_export.scratch import Scratch
from tests.import_export.files import COLUMNS, EXPORTED, NEW


def read(file: str | bytes) -> list[dict[str, Any]]:
    """The cells of a valid file, row by row."""
    rows = list(read_rows(stream(file)))
    assert [row.problems for row in rows if row.problems] == []
    return [dict(row.cells) for row in rows]


def stream(file: str | bytes) -> io.BytesIO:
    return io.BytesIO(file.encode() if isinstance(file, str) else file)


def check(file: str | bytes) -> None:
    with Scratch() as scratch:
        validate_rows(stream(file), scratch, no_progress).raise_if_any()


def error_details(file: str | bytes) -> dict[str, Any]:
    """The error details for an invalid file."""
    with pytest.raises(errors.ImportInvalid) as raised:
        check(file)
    assert raised.value.details is not None
    return dict(raised.value.details)


def places(file: str | bytes) -> list[tuple[int, str | None]]:
    """Row and column of each error, in the order reported."""
    return [(problem["row"], problem["column"]) for problem in error_details(file)["errors"]]


def message(file: str | bytes) -> str:
    (problem,) = error_details(file)["errors"]
    text: str = problem["message"]
    return text


# File format


@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", "Bolt; small"), (";", "Bolt, small"), ("\t", "Bolt, small; cheap")]
)
def test_delimiter_may_be_comma_semicolon_or_tab(delimiter: str, name: str) -> None:
    file = delimiter.join(["sku", "name"]) + "\n" + delimiter.join(["A", name]) + "\n"
    assert read(file) == [{"sku": "A", "name": name}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_endings_of_every_platform_are_accepted(end: str) -> None:
    assert read(f"sku,name{end}A,Bolt{end}B,Nut{end}") == [{"sku": "A", "name": "Bolt"}, {"sku": "B", "name": "Nut"}]


def test_last_line_ending_is_optional() -> None:
    assert read("sku\nA") == [{"sku": "A"}]


def test_byte_order_mark_is_ignored() -> None:
    assert read("\ufeffsku\nA\n") == [{"sku": "A"}]


def test_file_can_be_read_twice() -> None:
    file = stream("\ufeffsku\nA\n")
    assert [row.cells for _pass in range(2) for row in read_rows(file)] == [{"sku": "A"}, {"sku": "A"}]


def test_columns_accept_any_order_and_case() -> None:
    assert read('Category, PRICE ,"SKU",nAmE\nC,1.5,A,Bolt\n') == [
        {"category": "C", "price": Decimal("1.5"), "sku": "A", "name": "Bolt"}
    ]


def test_columns_are_parsed_by_type() -> None:
    assert read(f"{COLUMNS}\nA,Bolt,Long,13.75,0,7,0,B-1,C,no\n") == [
        {
            "sku": "A",
            "name": "Bolt",
            "description": "Long",
            "price": Decimal("13.75"),
            "cost": Decimal(0),
            "quantity_on_hand": 7,
            "reorder_point": 0,
            "location": "B-1",
            "category": "C",
            "is_active": False,
        }
    ]


def test_product_cells_type_matches_product_columns() -> None:
    assert tuple(ProductCells.__annotations__) == PRODUCT_COLUMNS


@pytest.mark.parametrize(
    ("cell", "active"),
    [
        ("true", True),
        ("TRUE", True),
        ("1", True),
        ("yes", True),
        ("false", False),
        ("False", False),
        ("0", False),
        ("NO", False),
    ],
)
def test_boolean_accepts_spreadsheet_spellings(cell: str, active: bool) -> None:
    assert read(f"sku,is_active\nA,{cell}\n") == [{"sku": "A", "is_active": active}]


def test_whitespace_around_cells_is_stripped() -> None:
    assert read("sku,name,price\n  A , Bolt M6 ,\u00a01.5 \n") == [
        {"sku": "A", "name": "Bolt M6", "price": Decimal("1.5")}
    ]


def test_quoted_cell_may_contain_quotes_delimiters_and_newlines() -> None:
    text = "First, \"second\"; 'third'\r\nfourth\tfifth\nsixth"
    quoted = text.replace('"', '""')
    assert read(f'sku,description\nA,"{quoted}"\n') == [{"sku": "A", "description": text}]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("'=1+1", "=1+1"),
        ("''=1+1", "'=1+1"),
        ("'plain", "'plain"),
        ("'", "'"),
        ("=1+1", "=1+1"),
        ("-x", "-x"),
        ("'@x", "@x"),
    ],
)
def test_apostrophe_is_removed_only_before_formula(cell: str, text: str) -> None:
    assert read(f"sku,name\n{cell},{cell}\n") == [{"sku": text, "name": text}]


def test_blank_lines_are_skipped_but_counted_in_row_numbers() -> None:
    assert read("sku,name\n\nA,Bolt\n , \n,\n\n") == [{"sku": "A", "name": "Bolt"}]
    assert places("sku,price\n\n,\nB,x\n") == [(4, "price")]


def test_row_numbers_count_multiline_rows_once() -> None:
    assert places('sku,description,price\nA,"one\ntwo\nthree",1\nB,"four\nfive",x\n') == [(3, "price")]


def test_empty_cell_is_null_in_nullable_column() -> None:
    assert read("sku,description,cost,location\nA,, ,\n") == [
        {"sku": "A", "description": None, "cost": None, "location": None}
    ]


@pytest.mark.parametrize(
    "column", ["sku", "name", "price", "quantity_on_hand", "reorder_point", "category", "is_active"]
)
def test_empty_cell_is_rejected_in_non_nullable_column(column: str) -> None:
    cells = {"sku": "A", "description": "not blank"} | {column: ""}
    file = f"{','.join(cells)}\n{','.join(cells.values())}\n"
    assert places(file) == [(2, column)]
    assert message(file) == "Must not be empty."


# Invalid cells

CONTROL = "Contains a control character or an unpaired surrogate."
NOT_A_PRICE = "Not a valid number: text. Use a decimal point and up to 4 decimal places, such as 13.75."
PRICE_BOUNDS = "Must be greater than 0 and less than or equal to 9999999999.9999."
COST_BOUNDS = "Must be greater than or equal to 0 and less than or equal to 9999999999.9999."
STOCK_BOUNDS = "Must be greater than or equal to 0 and less than or equal to 1000000000000."
REORDER_BOUNDS = "Must be greater than or equal to 0 and less than or equal to 1000000000."


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("sku", "x" * 51, "Length must be between 1 and 50."),
        ("sku", "a\0b", CONTROL),
        ("name", "x" * 201, "Length must be between 1 and 200."),
        ("name", "bell\a", CONTROL),
        ("location", "unit\x1fseparator", CONTROL),
        ("description", "x" * 1001, "Longer than maximum length 1000."),
        ("description", "bell\a", CONTROL),
        ("location", "x" * 51, "Longer than maximum length 50."),
        ("category", "x" * 101, "Length must be between 1 and 100."),
        ("price", "0", PRICE_BOUNDS),
        ("price", "-1", PRICE_BOUNDS),
        ("price", "10000000000", PRICE_BOUNDS),
        ("price", "1.00001", "Must have at most 4 decimal places."),
        ("cost", "-0.01", COST_BOUNDS),
        ("quantity_on_hand", "-1", STOCK_BOUNDS),
        ("quantity_on_hand", "1000000000001", STOCK_BOUNDS),
        ("reorder_point", "1000000001", REORDER_BOUNDS),
        ("is_active", "WAHR", "Must be true or false, or 1, 0, yes or no."),
    ],
)
def test_invalid_cell_is_reported_with_reason(column: str, cell: str, expected: str) -> None:
    cells = {"sku": "A", "name": "Bolt"} | {column: cell}
    file = f"{','.join(cells)}\n{','.join(cells.values())}\n"
    assert places(file) == [(2, column)]
    assert message(file) == expected


@pytest.mark.parametrize("cell", ["1.5", "1.0", "1e3", "1_000", "+1", "0x1", "٣", "9" * 50, "many"])
def test_integer_accepts_only_plain_digits(cell: str) -> None:
    assert message(f"sku,quantity_on_hand\nA,{cell}\n") == "Not a valid integer."


@pytest.mark.parametrize(
    "cell", ["1e3", "1_000", "+5", "NaN", "inf", "0x10", ".5", "5.", "£5", "1 000", "٣", "--1", "9" * 50]
)
def test_price_accepts_only_digits_and_decimal_point(cell: str) -> None:
    assert message(f"sku,price\nA,{cell}\n") == NOT_A_PRICE


@pytest.mark.parametrize("cell", ["13,75", "1.013,75", "-3,5", ",5"])
def test_price_with_comma_is_rejected(cell: str) -> None:
    assert message(f"sku;price\nA;{cell}\n").startswith("Not a valid number: contains a comma.")


def test_errors_do_not_repeat_rejected_cells() -> None:
    assert "secret" not in str(error_details("sku,price,is_active\nA,secret,secret\n"))


def test_duplicate_sku_is_rejected_case_insensitively() -> None:
    assert error_details("sku\nA\nß\na\nSS\n A \n")["errors"] == [
        {"row": 4, "column": "sku", "message": "Duplicate SKU, also in row 2."},
        {"row": 5, "column": "sku", "message": "Duplicate SKU, also in row 3."},
        {"row": 6, "column": "sku", "message": "Duplicate SKU, also in row 2."},
    ]


def test_every_invalid_cell_is_reported_with_row_and_column() -> None:
    file = f"{COLUMNS}\n,,,x,-1,1.5,,,C,maybe\nA,Bolt,,1,2,0,0,,C,yes\nB,Bolt,,1,,,0,,C,yes\nA,Bolt,,1,,0,0,,C,yes\n"
    assert places(file) == [
        *((2, name) for name in ("sku", "name", "price", "cost", "quantity_on_hand", "reorder_point", "is_active")),
        (4, "quantity_on_hand"),
        (5, "sku"),
    ]


def test_first_100_errors_are_listed_and_all_counted() -> None:
    details = error_details("sku,name,price\n" + "".join(f"A{number},,x\n" for number in range(75)))
    assert details["error_count"] == 150
    listed = [(problem["row"], problem["column"]) for problem in details["errors"]]
    assert listed == [(row, column) for row in range(2, 52) for column in ("name", "price")]


def test_first_100_errors_are_chosen_by_row() -> None:
    problems = Problems()
    for rows in (range(500, 700), range(2, 52)):
        problems = problems.plus(Problem(row, None, "Wrong.") for row in rows)
    with pytest.raises(errors.ImportInvalid) as raised:
        problems.raise_if_any()
    assert raised.value.details is not None
    assert raised.value.details["error_count"] == 250
    assert [problem["row"] for problem in raised.value.details["errors"]] == [*range(2, 52), *range(500, 550)]


# Invalid files


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("sku,name,colour", [(1, None)]),
        ("sku,,name", [(1, None)]),
        ("sku,name,", [(1, None)]),
        ("sku,name,price,NAME", [(1, "name")]),
        ("sku,SKU", [(1, "sku")]),
        ("name,price", [(1, "sku")]),
        ("", [(1, "sku")]),
        ("id,sku,sku", [(1, None), (1, "sku")]),
        ("sku|name|price", [(1, None), (1, "sku")]),
        ('"sku,name', [(1, None)]),
    ],
)
def test_invalid_header_is_rejected(header: str, found: list[tuple[int, str | None]]) -> None:
    assert places(f"{header}\nA,Bolt,1,C\n") == found


@pytest.mark.parametrize(
    ("heading", "named"),
    [
        ("Colour", ' "Colour"'),
        (" two  words\t", ' "two words"'),
        ("Price £ / unit", ' "Price £ / unit"'),
        ("x" * 26, f' "{"x" * 25}…"'),
        ("x" * 100_000, f' "{"x" * 25}…"'),
        ("bell\a\u202e\u200b", ' "bell"'),
        ("", ""),
        ("\0", ""),
    ],
)
def test_unknown_column_error_quotes_shortened_printable_heading(heading: str, named: str) -> None:
    known = EXPORTED.replace(",", ", ")
    assert message(f"sku,{heading},name\nA,red,Bolt\n") == f"Unknown column 2{named}. Known columns: {known}."


@pytest.mark.parametrize("file", [b"", b"\xef\xbb\xbf", b"\n", b"\n\n"])
def test_empty_file_is_rejected(file: bytes) -> None:
    assert places(file) == [(1, "sku")]


def test_rows_with_wrong_number_of_cells_are_rejected() -> None:
    assert places("sku,name\nA\nB,Bolt\nC,Bolt,\n") == [(2, None), (4, None)]
    assert message("sku,name\nA\n") == ("The row has a different number of cells than the header: 1, not 2.")


@pytest.mark.parametrize("tail", ['B,"Bolt\n', 'B,"Bolt\nC,Bolt\n', 'B,"', 'B,"Bolt"s\nC,Bolt\n', f"B,{'x' * 200_000}"])
def test_invalid_csv_is_rejected_and_ends_reading(tail: str) -> None:
    file = f"sku,price\nA,x\n{tail}"
    assert places(file) == [(2, "price"), (3, None)]
    assert error_details(file)["errors"][1]["message"].startswith("Invalid CSV:")


@pytest.mark.parametrize(
    "file",
    [
        f"{NEW}A,Café,1,C\n".encode("latin-1"),
        f"{NEW}A,Café,1,C\n".encode("utf-16"),
        f"{NEW}A,\ud800,1,C\n".encode("utf-8", "surrogatepass"),
        f"{NEW}A,".encode() + b"\xc0\xaf,1,C\n",
        (NEW + "A,Bolt,1,C\n" * 10_000).encode() + b"\xff",
        f"{NEW}A,Bolt,1,Café".encode()[:-1],
    ],
    ids=["latin-1", "utf-16", "surrogate", "overlong", "late in the file", "truncated"],
)
def test_non_utf8_file_is_rejected(file: bytes) -> None:
    with pytest.raises(errors.UnsupportedEncoding):
        check(file)
