from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inventory.import_export import cells

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
starts = st.lists(st.sampled_from(["'", *FORMULA_STARTS]), max_size=4).map("".join)
nasty = st.builds(str.__add__, starts, st.text(st.characters(exclude_categories=["Cs"]), max_size=8))


@given(nasty)
@example("'")
@example("'=")
@example("''-1")
def test_a_quoted_text_reads_as_it_was(text: str) -> None:
    assert cells.unquote(cells.quote(text)) == text


@given(nasty)
def test_no_quoted_text_begins_a_formula(text: str) -> None:
    assert not cells.quote(text).startswith(FORMULA_STARTS)


@pytest.mark.parametrize("start", FORMULA_STARTS)
def test_text_that_begins_a_formula_gets_one_apostrophe(start: str) -> None:
    assert cells.quote(f"{start}1+1") == f"'{start}1+1"


@pytest.mark.parametrize("text", ["", "plain", "'", "''", "'plain'", "a=b", "1-2", "x@y.z", " =1", "Ærø", "😀"])
def test_any_other_text_is_left_alone(text: str) -> None:
    assert cells.quote(text) == text
    assert cells.unquote(text) == text


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-5, "-5"),
        (10**12, "1000000000000"),
        (Decimal(1), "1.00"),
        (Decimal("2.5"), "2.50"),
        (Decimal("2.5000"), "2.50"),
        (Decimal("0.125"), "0.125"),
        (Decimal("0.0001"), "0.0001"),
        (Decimal(1000), "1000.00"),
        (Decimal("9999999999.9999"), "9999999999.9999"),
        (Decimal(0), "0.00"),
        (Decimal("-1.5"), "-1.50"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02T03:04:05.000006+00:00"),
        ("-5", "'-5"),
        ("", ""),
    ],
)
def test_a_value_is_rendered_as(value: Any, cell: str) -> None:
    assert cells.render(value) == cell


@given(st.lists(st.lists(nasty, min_size=2, max_size=4), max_size=4))
def test_lines_read_as_csv_are_the_rows_that_were_written(rows: list[list[str]]) -> None:
    text = cells.lines(rows).decode()
    read = [[cells.unquote(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""), strict=True)]
    assert read == rows


def test_lines_end_as_rfc_4180_says() -> None:
    assert cells.lines([["a", 'b"c'], ["d,e", "f\ng"]]) == b'a,"b""c"\r\n"d,e","f\ng"\r\n'
