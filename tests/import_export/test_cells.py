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

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# Zero-width space and joiner, directional marks, word joiner, byte order mark, soft hyphen, variation selector.
INVISIBLE = ("\u200b", "\u200d", "\u200e", "\u200f", "\u2060", "\ufeff", "\u00ad", "\ufe0f")
starts = st.lists(st.sampled_from(["'", *FORMULA_STARTS, *INVISIBLE]), max_size=4).map("".join)
difficult_text = st.builds(str.__add__, starts, st.text(st.characters(exclude_categories=["Cs"]), max_size=8))


@given(difficult_text)
@example("'")
@example("'=")
@example("''-1")
def test_unquote_reverses_quote(text: str) -> None:
    assert cells.unquote(cells.quote(text)) == text


@given(difficult_text)
def test_quoted_text_never_starts_a_formula(text: str) -> None:
    assert not cells.quote(text).lstrip("".join(INVISIBLE)).startswith(FORMULA_STARTS)


@pytest.mark.parametrize("start", FORMULA_STARTS)
def test_quote_prefixes_formula_with_one_apostrophe(start: str) -> None:
    assert cells.quote(f"{start}1+1") == f"'{start}1+1"


@pytest.mark.parametrize("invisible", INVISIBLE)
def test_quote_detects_formula_after_invisible_characters(invisible: str) -> None:
    assert cells.quote(f"{invisible}=1+1") == f"'{invisible}=1+1"
    assert cells.quote(f"{invisible}{invisible}\uff1d1+1") == f"'{invisible}{invisible}\uff1d1+1"
    assert cells.quote(f"{invisible}plain") == f"{invisible}plain"


@pytest.mark.parametrize("text", ["", "plain", "'", "''", "'plain'", "a=b", "1-2", "x@y.z", " =1", "Ærø", "😀"])
def test_quote_leaves_other_text_unchanged(text: str) -> None:
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
        (2.5, "2.50"),
        (0.125, "0.125"),
        (0.0001, "0.0001"),
        (9999999999.9999, "9999999999.9999"),
        (0.1 + 0.2, "0.30000000000000004"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02T03:04:05.000006+00:00"),
        ("-5", "'-5"),
        ("", ""),
    ],
)
def test_render_formats_value_by_type(value: Any, cell: str) -> None:
    assert cells.render(value) == cell


@given(st.lists(st.lists(difficult_text, min_size=2, max_size=4), max_size=4))
def test_lines_round_trip_through_csv_reader(rows: list[list[str]]) -> None:
    text = cells.lines(rows).decode()
    read = [[cells.unquote(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""), strict=True)]
    assert read == rows


def test_lines_end_with_crlf_as_in_rfc_4180() -> None:
    assert cells.lines([["a", 'b"c'], ["d,e", "f\ng"]]) == b'a,"b""c"\r\n"d,e","f\ng"\r\n'
