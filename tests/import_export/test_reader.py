"""How a product file may be written, and what is wrong with one that is not: the part that needs no database."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import pytest

from inventory import errors
from inventory.import_export.reader import Problems, ProductFile
from tests.import_export.files import COLUMNS, NEW


def product_file(file: str | bytes) -> ProductFile:
    return ProductFile(io.BytesIO(file.encode() if isinstance(file, str) else file))


def read(file: str | bytes) -> list[dict[str, Any]]:
    """What a sound file says, row by row."""
    problems = Problems()
    with product_file(file) as source:
        rows = [row.values for row in source.rows(problems)]
    assert problems.first == []
    return rows


def check(file: str | bytes) -> None:
    problems = Problems()
    with product_file(file) as source:
        source.check(problems)
    problems.refuse_any()


def refusal(file: str | bytes) -> dict[str, Any]:
    """The details with which a file that is not sound is refused."""
    with pytest.raises(errors.ImportInvalid) as refused:
        check(file)
    assert refused.value.details is not None
    return dict(refused.value.details)


def places(file: str | bytes) -> list[tuple[int, str | None]]:
    """Row and column of each problem, in the order reported."""
    return [(problem["row"], problem["column"]) for problem in refusal(file)["errors"]]


def message(file: str | bytes) -> str:
    (problem,) = refusal(file)["errors"]
    text: str = problem["message"]
    return text


# Notation


@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", "Bolt; small"), (";", "Bolt, small"), ("\t", "Bolt, small; cheap")]
)
def test_cells_are_separated_by_comma_semicolon_or_tab(delimiter: str, name: str) -> None:
    file = delimiter.join(["sku", "name"]) + "\n" + delimiter.join(["A", name]) + "\n"
    assert read(file) == [{"sku": "A", "name": name}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system(end: str) -> None:
    assert read(f"sku,name{end}A,Bolt{end}B,Nut{end}") == [{"sku": "A", "name": "Bolt"}, {"sku": "B", "name": "Nut"}]


def test_the_last_line_needs_no_end() -> None:
    assert read("sku\nA") == [{"sku": "A"}]


def test_a_byte_order_mark_is_no_part_of_the_header() -> None:
    assert read("\ufeffsku\nA\n") == [{"sku": "A"}]


def test_a_file_can_be_read_more_than_once() -> None:
    with product_file("\ufeffsku\nA\n") as file:
        assert [row.values for _time in range(2) for row in file.rows(Problems())] == [{"sku": "A"}, {"sku": "A"}]


def test_columns_may_stand_in_any_order_and_case() -> None:
    assert read('Category, PRICE ,"SKU",nAmE\nC,1.5,A,Bolt\n') == [
        {"category": "C", "price": Decimal("1.5"), "sku": "A", "name": "Bolt"}
    ]


def test_every_column_is_read_as_what_it_is() -> None:
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
def test_a_flag_is_read_in_the_words_that_spreadsheets_write(cell: str, active: bool) -> None:
    assert read(f"sku,is_active\nA,{cell}\n") == [{"sku": "A", "is_active": active}]


def test_blanks_around_a_cell_do_not_count() -> None:
    assert read("sku,name,price\n  A , Bolt M6 ,\u00a01.5 \n") == [
        {"sku": "A", "name": "Bolt M6", "price": Decimal("1.5")}
    ]


def test_a_cell_may_hold_quotes_delimiters_and_line_breaks() -> None:
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
def test_an_apostrophe_before_a_formula_is_taken_off_and_no_other(cell: str, text: str) -> None:
    assert read(f"sku,name\n{cell},{cell}\n") == [{"sku": text, "name": text}]


def test_blank_lines_are_passed_over_and_still_count_in_row_numbers() -> None:
    assert read("sku,name\n\nA,Bolt\n , \n,\n\n") == [{"sku": "A", "name": "Bolt"}]
    assert places("sku,price\n\n,\nB,x\n") == [(4, "price")]


def test_rows_are_numbered_as_a_spreadsheet_does_whatever_lines_they_take() -> None:
    assert places('sku,description,price\nA,"one\ntwo\nthree",1\nB,"four\nfive",x\n') == [(3, "price")]


def test_an_empty_cell_is_null_where_null_is_allowed() -> None:
    assert read("sku,description,cost,location\nA,, ,\n") == [
        {"sku": "A", "description": None, "cost": None, "location": None}
    ]


@pytest.mark.parametrize(
    "column", ["sku", "name", "price", "quantity_on_hand", "reorder_point", "category", "is_active"]
)
def test_an_empty_cell_is_refused_where_null_is_not_allowed(column: str) -> None:
    cells = {"sku": "A", "description": "not blank"} | {column: ""}
    file = f"{','.join(cells)}\n{','.join(cells.values())}\n"
    assert places(file) == [(2, column)]
    assert message(file) == "May not be empty."


# Cells that are refused

CONTROL = "Holds a control character or half of a surrogate pair."
NOT_A_PRICE = "Not a number: text. Write it with a point and up to 4 decimals, such as 13.75."
PRICE_BOUNDS = "Must be greater than 0 and less than or equal to 9999999999.9999."
COST_BOUNDS = "Must be greater than or equal to 0 and less than or equal to 9999999999.9999."
STOCK_BOUNDS = "Must be greater than or equal to 0 and less than or equal to 1000000000000."
REORDER_BOUNDS = "Must be greater than or equal to 0 and less than or equal to 1000000000."


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("sku", "x" * 51, "Length must be between 1 and 50."),
        ("sku", "a\0b", CONTROL),
        ("name", "x" * 201, "Length must be between 1 and 200."),
        ("name", '"two\nlines"', CONTROL),
        ("description", "x" * 1001, "Longer than maximum length 1000."),
        ("description", "bell\a", CONTROL),
        ("location", "x" * 51, "Longer than maximum length 50."),
        ("category", "x" * 101, "Length must be between 1 and 100."),
        ("price", "0", PRICE_BOUNDS),
        ("price", "-1", PRICE_BOUNDS),
        ("price", "10000000000", PRICE_BOUNDS),
        ("price", "1.00001", "More than 4 decimals."),
        ("cost", "-0.01", COST_BOUNDS),
        ("quantity_on_hand", "-1", STOCK_BOUNDS),
        ("quantity_on_hand", "1000000000001", STOCK_BOUNDS),
        ("reorder_point", "1000000001", REORDER_BOUNDS),
        ("is_active", "perhaps", "Not a valid boolean."),
    ],
)
def test_a_bad_cell_is_refused_and_says_why(column: str, cell: str, said: str) -> None:
    cells = {"sku": "A", "name": "Bolt"} | {column: cell}
    file = f"{','.join(cells)}\n{','.join(cells.values())}\n"
    assert places(file) == [(2, column)]
    assert message(file) == said


@pytest.mark.parametrize("cell", ["1.5", "1.0", "1e3", "1_000", "+1", "0x1", "٣", "9" * 50, "many"])
def test_only_plain_digits_are_a_whole_number(cell: str) -> None:
    assert message(f"sku,quantity_on_hand\nA,{cell}\n") == "Not a whole number."


@pytest.mark.parametrize(
    "cell", ["1e3", "1_000", "+5", "NaN", "inf", "0x10", ".5", "5.", "£5", "1 000", "٣", "--1", "9" * 50]
)
def test_only_digits_and_a_point_are_a_price(cell: str) -> None:
    assert message(f"sku,price\nA,{cell}\n") == NOT_A_PRICE


@pytest.mark.parametrize("cell", ["13,75", "1.013,75", "-3,5", ",5"])
def test_a_price_with_a_comma_is_refused_and_never_read_as_another_number(cell: str) -> None:
    assert message(f"sku;price\nA;{cell}\n").startswith("Not a number: a number with a comma.")


def test_a_rejected_cell_or_column_is_never_repeated() -> None:
    assert "secret" not in str(refusal("sku,price,is_active\nA,secret,secret\n"))
    assert "secret" not in str(refusal("sku,secret\nA,1\n"))


def test_a_sku_that_stands_twice_is_refused_also_in_other_case() -> None:
    assert refusal("sku\nA\nß\na\nSS\n A \n")["errors"] == [
        {"row": 4, "column": "sku", "message": "The same SKU as in row 2."},
        {"row": 5, "column": "sku", "message": "The same SKU as in row 3."},
        {"row": 6, "column": "sku", "message": "The same SKU as in row 2."},
    ]


def test_every_bad_cell_is_reported_with_its_row_and_column() -> None:
    file = f"{COLUMNS}\n,,,x,-1,1.5,,,C,maybe\nA,Bolt,,1,2,0,0,,C,yes\nB,Bolt,,1,,,0,,C,yes\nA,Bolt,,1,,0,0,,C,yes\n"
    assert places(file) == [
        *((2, name) for name in ("sku", "name", "price", "cost", "quantity_on_hand", "reorder_point", "is_active")),
        (4, "quantity_on_hand"),
        (5, "sku"),
    ]


def test_the_first_hundred_problems_are_listed_and_all_are_counted() -> None:
    details = refusal("sku,name,price\n" + "A,,x\n" * 75)
    assert details["error_count"] == 150
    listed = [(problem["row"], problem["column"]) for problem in details["errors"]]
    assert listed == [(row, column) for row in range(2, 52) for column in ("name", "price")]


def test_the_first_hundred_are_the_first_by_row_in_whatever_order_they_are_found() -> None:
    problems = Problems()
    for row in (*range(500, 700), *range(2, 52)):
        problems.add(row, None, "Wrong.")
    with pytest.raises(errors.ImportInvalid) as refused:
        problems.refuse_any()
    assert refused.value.details is not None
    assert refused.value.details["error_count"] == 250
    assert [problem["row"] for problem in refused.value.details["errors"]] == [*range(2, 52), *range(500, 550)]


# Files that are refused


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
def test_a_header_that_will_not_do_is_refused(header: str, found: list[tuple[int, str | None]]) -> None:
    assert places(f"{header}\nA,Bolt,1,C\n") == found


def test_an_unknown_column_is_named_by_its_position() -> None:
    said = message("sku,colour,name\nA,red,Bolt\n")
    assert said == f"Column 2 has an unknown name; known are {COLUMNS.replace(',', ', ')}."


@pytest.mark.parametrize("file", [b"", b"\xef\xbb\xbf", b"\n", b"\n\n"])
def test_an_empty_file_is_refused(file: bytes) -> None:
    assert places(file) == [(1, "sku")]


def test_rows_with_too_few_or_too_many_cells_are_refused() -> None:
    assert places("sku,name\nA\nB,Bolt\nC,Bolt,\n") == [(2, None), (4, None)]
    assert message("sku,name\nA\n") == "The row has 1 cells, the header has 2."


@pytest.mark.parametrize("tail", ['B,"Bolt\n', 'B,"Bolt\nC,Bolt\n', 'B,"', 'B,"Bolt"s\nC,Bolt\n', f"B,{'x' * 200_000}"])
def test_what_is_no_csv_is_refused_and_nothing_after_it_is_read(tail: str) -> None:
    file = f"sku,price\nA,x\n{tail}"
    assert places(file) == [(2, "price"), (3, None)]
    assert refusal(file)["errors"][1]["message"].startswith("Not CSV from here on:")


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
    ids=["latin-1", "utf-16", "surrogate", "overlong", "far down", "cut off"],
)
def test_a_file_that_is_not_utf_8_is_refused(file: bytes) -> None:
    with pytest.raises(errors.UnsupportedEncoding):
        check(file)
