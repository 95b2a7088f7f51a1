"""CSV cells: values as text, and text that a spreadsheet must not read as a formula.

A spreadsheet reads a cell as a formula if it begins with ``= + - @`` (also in their full-width forms), TAB or CR, also
after invisible characters (OWASP, CSV Injection). An apostrophe is put before such text, and before text that already
has apostrophes there. Reading removes one apostrophe, so that every text survives a round trip. Numbers are never
changed.
"""

from __future__ import annotations

import csv
import io
import re
from datetime import datetime
from decimal import Decimal
from types import NoneType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# Not shown on a screen: zero-width characters, soft hyphens, directional marks and variation selectors.
INVISIBLE = "\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
FORMULA_START = rf"[{INVISIBLE}]*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]"
FORMULA = re.compile(f"'*{FORMULA_START}")
QUOTED_FORMULA = re.compile(f"'+{FORMULA_START}")
# Unicode's White_Space. Python's own \s also matches the control characters U+001C to U+001F.
WHITE_SPACE = re.compile("[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


def quote(text: str) -> str:
    return f"'{text}" if FORMULA.match(text) else text


def unquote(text: str) -> str:
    return text[1:] if QUOTED_FORMULA.match(text) else text


def one_line(text: str) -> str:
    """The text with each run of white space, line breaks included, replaced by one space, and none at its ends."""
    return WHITE_SPACE.sub(" ", text).strip(" ")


def money(amount: Decimal | float) -> str:
    """An amount with 2 decimals, or more if it has them."""
    rounded = f"{amount:.2f}"
    return rounded if type(amount)(rounded) == amount else f"{Decimal(str(amount)).normalize():f}"


# Looked up by type, because an export has many cells.
RENDER: dict[type, Callable[[Any], str]] = {
    NoneType: lambda _none: "",
    bool: lambda flag: "true" if flag else "false",
    int: str,
    float: money,
    Decimal: money,
    datetime: datetime.isoformat,
    str: quote,
}


def render(value: object) -> str:
    """A value as a cell. None is an empty cell."""
    return RENDER[type(value)](value)


def lines(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as CSV in UTF-8 (RFC 4180)."""
    text = io.StringIO()
    csv.writer(text).writerows([render(value) for value in row] for row in rows)
    return text.getvalue().encode()
