"""CSV cells: values as text, and text that a spreadsheet must not take for a formula.

A cell that begins with ``= + - @``, TAB or CR is a formula to a spreadsheet (OWASP, CSV Injection), so text of
that form gets an apostrophe in front, and so does text that already has one there: reading takes one off again,
and every text comes back as it was. Numbers are never touched.
"""

from __future__ import annotations

import csv
import io
import re
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FORMULA = re.compile(r"'*[=+\-@\t\r]")
QUOTED_FORMULA = re.compile(r"'+[=+\-@\t\r]")


def quote(text: str) -> str:
    return f"'{text}" if FORMULA.match(text) else text


def unquote(text: str) -> str:
    return text[1:] if QUOTED_FORMULA.match(text) else text


def render(value: Any) -> str:
    """A value as a cell. Money has at least 2 decimals; null is an empty cell."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case Decimal():
            shortest = value.normalize()
            return f"{shortest:f}" if shortest.as_tuple().exponent < -2 else f"{shortest:.2f}"  # type: ignore[operator]
        case datetime():
            return value.isoformat()
        case str():
            return quote(value)
        case _:
            return str(value)


def lines(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as CSV in UTF-8 (RFC 4180)."""
    text = io.StringIO()
    csv.writer(text).writerows([render(value) for value in row] for row in rows)
    return text.getvalue().encode()
