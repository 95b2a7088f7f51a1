"""SQL functions with a different syntax on each engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, String, and_, bindparam, func, literal_column, select, tuple_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from inventory.database.types import Containing, JsonNumber, Money

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, SQLColumnExpression


# The time of a statement, for statements that write many rows. It is taken once, also if several columns get it: on
# SQLite each call of the function takes a microsecond.
STATEMENT_TIME = select(
    select(func.clock_timestamp().label("now")).cte("clock").prefix_with("MATERIALIZED").c.now
).scalar_subquery()


def contains(column: SQLColumnExpression[str], parameter: str) -> ColumnElement[bool]:
    """Whether a case-folded column contains the text given as a parameter."""
    return column.like(bindparam(parameter, type_=Containing()), escape="/")


class json_number(FunctionElement[float]):  # noqa: N801 - named like an SQL function
    """An amount as the number that JSON shows: the nearest binary float, as ``float`` of the exact amount."""

    type = JsonNumber()
    inherit_cache = True


@compiles(json_number, "sqlite")
def _sqlite_json_number(element: json_number, compiler: Any, **kwargs: object) -> str:
    return f"({compiler.process(element.clauses, **kwargs)} / {Money.SCALE}.0)"


@compiles(json_number, "postgresql")
def _postgresql_json_number(element: json_number, compiler: Any, **kwargs: object) -> str:
    return f"CAST({compiler.process(element.clauses, **kwargs)} AS double precision)"


class write_position(FunctionElement[int]):  # noqa: N801 - named like an SQL function
    """Position of a row in the order of writing; 0 on SQLite, which has one writer at a time.

    On PostgreSQL it is the ID of the current transaction, or of the latest ended transaction if that one started later.
    A transaction that waited for a product is therefore ordered after the one that it waited for.
    """

    type = BigInteger()
    inherit_cache = True


class settled_before(FunctionElement[int]):  # noqa: N801
    """The position below which all transactions have ended, so that no lower row can still appear.

    Ids are assigned before COMMIT and become visible out of order. This is PostgreSQL's snapshot xmin
    (https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT).
    """

    type = BigInteger()
    inherit_cache = True


@compiles(write_position, "sqlite")
def _sqlite_write_position(_element: write_position, _compiler: object, **_kwargs: object) -> str:
    return "0"


@compiles(write_position, "postgresql")
def _postgresql_write_position(_element: write_position, _compiler: object, **_kwargs: object) -> str:
    return "write_position()"  # created by migration 0007


@compiles(settled_before, "sqlite")
def _sqlite_settled_before(_element: settled_before, _compiler: object, **_kwargs: object) -> str:
    return "1"


@compiles(settled_before, "postgresql")
def _postgresql_settled_before(_element: settled_before, _compiler: object, **_kwargs: object) -> str:
    return "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


class is_after(FunctionElement[bool]):  # noqa: N801
    """Whether a position, an xid and an id, comes after another one. Arguments: xid, id, the other xid, the other id.

    On SQLite every xid is 0, and an index cannot seek to a row value that contains the primary key. It has no type,
    because SQLAlchemy would compare a boolean with 1 there, which an index cannot seek either.
    """

    inherit_cache = True


@compiles(is_after, "sqlite")
def _sqlite_is_after(element: is_after, compiler: Any, **kwargs: object) -> str:
    xid, row_id, other_xid, other_id = element.clauses
    return str(compiler.process(and_(xid == other_xid, row_id > other_id), **kwargs))


@compiles(is_after, "postgresql")
def _postgresql_is_after(element: is_after, compiler: Any, **kwargs: object) -> str:
    xid, row_id, other_xid, other_id = element.clauses
    return str(compiler.process(tuple_(xid, row_id) > tuple_(other_xid, other_id), **kwargs))


class json_elements(FunctionElement[object]):  # noqa: N801
    """The elements of a JSON array as rows with one column, ``value``. Passes many values in one parameter."""

    inherit_cache = True


@compiles(json_elements, "sqlite")
def _sqlite_json_elements(element: json_elements, compiler: Any, **kwargs: object) -> str:
    return f"json_each({compiler.process(element.clauses, **kwargs)})"


@compiles(json_elements, "postgresql")
def _postgresql_json_elements(element: json_elements, compiler: Any, **kwargs: object) -> str:
    return f"jsonb_array_elements(CAST({compiler.process(element.clauses, **kwargs)} AS jsonb))"


def json_item(array: ColumnElement[object], position: int) -> ColumnElement[str]:
    """An element of a JSON array, as text."""
    return array.op("->>", return_type=String())(literal_column(str(position)))
