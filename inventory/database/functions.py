"""SQL functions with a different syntax on each engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, String, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from inventory.database.types import fold

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, SQLColumnExpression


def contains(column: SQLColumnExpression[str], text: str) -> ColumnElement[bool]:
    """Whether a case-folded column contains ``text``. ``%`` and ``_`` are literal characters."""
    return column.contains(fold(text), autoescape=True)


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
    return "greatest(pg_current_xact_id()::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1)"


@compiles(settled_before, "sqlite")
def _sqlite_settled_before(_element: settled_before, _compiler: object, **_kwargs: object) -> str:
    return "1"


@compiles(settled_before, "postgresql")
def _postgresql_settled_before(_element: settled_before, _compiler: object, **_kwargs: object) -> str:
    return "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


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
