"""Pagination by offset or keyset, over a total order.

``skip`` is an offset. A cursor contains the sort values of the last row, so it is not affected by rows that are added
or removed (https://use-the-index-luke.com/no-offset).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import orjson
from sqlalchemy import Integer, and_, bindparam, or_

from inventory.database.base import count_rows, fetch_all
from inventory.database.query import Query
from inventory.errors import InvalidCursor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Select, SQLColumnExpression
    from sqlalchemy.types import TypeEngine

R = TypeVar("R")

NEXT, PREVIOUS = "next", "prev"


@dataclass(frozen=True)
class PageRequest:
    """The requested page. ``sort`` contains column names, with ``-`` for descending order."""

    sort: tuple[str, ...] = ("id",)
    skip: int = 0
    limit: int = 100
    cursor: str | None = None
    include_total: bool = False


@dataclass(frozen=True)
class Page(Generic[R]):
    """The rows of a page, and the query parameters of the next and previous page."""

    rows: Sequence[R]
    total: int | None
    links: Mapping[str, Mapping[str, str | int]]


@dataclass(frozen=True)
class Term:
    column: SQLColumnExpression[Any]
    descending: bool

    @property
    def type(self) -> TypeEngine[Any]:
        return cast("ColumnElement[Any]", self.column).type

    def beyond(self, value: object, *, backward: bool) -> ColumnElement[bool]:
        past: ColumnElement[bool] = self.column < value if self.descending != backward else self.column > value
        return past

    def not_before(self, value: object, *, backward: bool) -> ColumnElement[bool]:
        reached: ColumnElement[bool] = self.column <= value if self.descending != backward else self.column >= value
        return reached

    def ordering(self, *, backward: bool) -> ColumnElement[Any]:
        return self.column.desc() if self.descending != backward else self.column.asc()


@dataclass(frozen=True, eq=False)
class Listing(Generic[R]):
    """A list that can be filtered, sorted and paginated.

    ``make`` is called with the columns of each row of ``statement``. ``columns`` maps the names allowed in ``sort``,
    and ``id``, to columns that are never null. ``filters`` are conditions with one parameter each, of the same name.

    Statements are built once for each combination of filters and order, because that takes longer than to execute them.
    """

    statement: Select[Any]
    make: Callable[..., R]
    columns: Mapping[str, SQLColumnExpression[Any]]
    filters: Mapping[str, ColumnElement[bool]] = field(default_factory=dict)

    def page(self, request: PageRequest, filters: Mapping[str, object] | None = None) -> Page[R]:
        """One page of the rows that match all filters. A filter that is None is ignored.

        Raises InvalidCursor if the cursor is for another list or order.
        """
        values = {name: value for name, value in (filters or {}).items() if value is not None}
        order = self.order(request.sort)
        total = count_rows(filtered(self, tuple(values)), values) if request.include_total else None
        terms = [self.term(name) for name in order]
        cursor_order = [str(self.columns["id"]), *order]
        backward, position = (
            (False, None) if request.cursor is None else decode_cursor(request.cursor, cursor_order, terms)
        )
        statement = page_statement(self, tuple(values), order, starts=position is None, backward=backward)
        parameters = values | {"page_skip": request.skip, "page_limit": request.limit + 1}
        parameters |= {f"position_{index}": value for index, value in enumerate(position or ())}
        found = fetch_all(statement, parameters)
        more, rows = len(found) > request.limit, found[: request.limit]
        if backward:
            rows = rows[::-1]
        made = [self.make(*row[: -len(order)]) for row in rows]
        return Page(made, total, links(request, rows, cursor_order, more=more, backward=backward))

    def order(self, sort: tuple[str, ...]) -> tuple[str, ...]:
        """The columns to sort by. Ties are broken by id."""
        return sort if "id" in {name.removeprefix("-") for name in sort} else (*sort, "id")

    def term(self, name: str) -> Term:
        return Term(self.columns[name.removeprefix("-")], name.startswith("-"))


@lru_cache(maxsize=500)
def filtered(listing: Listing[Any], filters: tuple[str, ...]) -> Select[Any]:
    return listing.statement.where(*(listing.filters[name] for name in filters))


@lru_cache(maxsize=500)
def page_statement(
    listing: Listing[Any], filters: tuple[str, ...], order: tuple[str, ...], *, starts: bool, backward: bool
) -> Query:
    """A page from the start of the list, or else after a position."""
    terms = [listing.term(name) for name in order]
    labelled: Iterable[ColumnElement[Any]] = (term.column.label(f"sort_{index}") for index, term in enumerate(terms))
    page = filtered(listing, filters).add_columns(*labelled)
    if not starts:
        page = page.where(after(terms, backward=backward))
    page = page.order_by(*(term.ordering(backward=backward) for term in terms))
    return Query(page.offset(bindparam("page_skip", type_=Integer)).limit(bindparam("page_limit", type_=Integer)))


def after(terms: Sequence[Term], *, backward: bool) -> ColumnElement[bool]:
    """Rows after a position: greater in the first column, or equal there and greater in the next, and so on.

    The condition on the first column alone is redundant, but lets the database start at that point of an index.
    """
    position = [bindparam(f"position_{index}", type_=term.type) for index, term in enumerate(terms)]
    alternatives = []
    for index, term in enumerate(terms):
        level = [earlier.column == value for earlier, value in zip(terms[:index], position[:index], strict=True)]
        alternatives.append(and_(*level, term.beyond(position[index], backward=backward)))
    return and_(terms[0].not_before(position[0], backward=backward), or_(*alternatives))


def links(
    request: PageRequest, rows: Sequence[Sequence[Any]], order: Sequence[str], *, more: bool, backward: bool
) -> dict[str, dict[str, str | int]]:
    """``next`` if rows follow, ``prev`` if rows precede. On a page fetched backward ``more`` refers to ``prev``."""
    found: dict[str, dict[str, str | int]] = {}
    if rows and (more or backward):
        found[NEXT] = {"cursor": encode_cursor(order, rows[-1], backward=False)}
    if request.cursor is None and request.skip:
        # Near the start the previous page is shorter.
        found[PREVIOUS] = {
            "skip": max(0, request.skip - request.limit),
            "limit": min(request.skip, request.limit),
        }
    elif request.cursor is not None and rows and (more or not backward):
        found[PREVIOUS] = {"cursor": encode_cursor(order, rows[0], backward=True)}
    return found


def encode_cursor(order: Sequence[str], row: Sequence[Any], *, backward: bool) -> str:
    """The position of a row in a list. ``order`` identifies the list and its sort columns, the last ones of the row."""
    return pack([list(order), backward, row[1 - len(order) :]])


def pack(position: list[Any]) -> str:
    """Encode a position as opaque text."""
    return base64.urlsafe_b64encode(orjson.dumps(position, default=str)).rstrip(b"=").decode()


def unpack(cursor: str) -> Any:
    """Decode the result of ``pack``. Raises InvalidCursor."""
    try:
        return orjson.loads(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
    except ValueError:
        raise InvalidCursor from None


def decode_cursor(cursor: str, order: Sequence[str], terms: Sequence[Term]) -> tuple[bool, list[Any]]:
    try:
        cursor_order, backward, values = unpack(cursor)
        if cursor_order != list(order) or not isinstance(backward, bool):
            raise InvalidCursor
        position = [restore(term, value) for term, value in zip(terms, values, strict=True)]
    except (ValueError, TypeError, ArithmeticError):
        raise InvalidCursor from None
    return backward, position


def restore(term: Term, value: Any) -> object:
    """Convert a sort value to the type of its column. Raises ValueError, TypeError or ArithmeticError."""
    python_type = term.type.python_type
    if python_type is datetime:
        timestamp = datetime.fromisoformat(value)
        if timestamp.utcoffset() != timedelta(0):
            raise ValueError
        return timestamp
    if python_type is Decimal:
        amount = Decimal(value)
        # More digits than the column has would raise an error in PostgreSQL.
        if amount.as_tuple().exponent not in range(-4, 1) or abs(amount) > 10**10:
            raise ValueError
        return amount
    if (
        type(value) is not python_type
        or (python_type is int and abs(value) >= 2**63)
        or (python_type is str and "\0" in value)
    ):
        raise TypeError
    return value
