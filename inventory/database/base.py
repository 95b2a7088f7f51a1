"""The database: declarative base, column types, sessions, and the unit of work that every write runs in."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from decimal import Decimal
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import BigInteger, DateTime, Integer, MetaData, Numeric, String, func, select, types
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.functions import FunctionElement

from inventory.config import ConfigError
from inventory.database import engines
from inventory.errors import PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from sqlalchemy import ColumnElement, Select, SQLColumnExpression
    from sqlalchemy.engine import Dialect

P = ParamSpec("P")
R = TypeVar("R")

ATTEMPTS = 5
# 40001 serialization_failure and 40P01 deadlock_detected: the database asks for the whole transaction again.
REPEATABLE_SQLSTATES = frozenset({"40001", "40P01"})


class Base(DeclarativeBase):
    """Every constraint has a name made by rule: database_errors.py finds the answer to a violation by its name."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )


class Money(types.TypeDecorator[Decimal]):
    """An exact amount with 4 decimals: NUMERIC(14, 4) on PostgreSQL, whole ten-thousandths on SQLite.

    SQLite has no exact decimal type, but its integers compare, sort and sum exactly.
    """

    impl = Numeric(14, 4)
    cache_ok = True
    SCALE = 10_000

    @property
    def python_type(self) -> type[Decimal]:
        return Decimal

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[Any]:
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else Numeric(14, 4))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return int(value * self.SCALE)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        exact: Decimal | None = Decimal(value) / self.SCALE if dialect.name == "sqlite" and value is not None else value
        return exact


class UtcDateTime(types.TypeDecorator[datetime]):
    """A moment in UTC with microseconds; SQLite stores it as text of fixed width, which sorts as it should."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        return datetime

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# Ids: SQLite numbers rows by itself only in a column that is literally INTEGER.
BigId = BigInteger().with_variant(Integer(), "sqlite")


def folded(length: int) -> types.TypeEngine[str]:
    """Case-folded text, which may be up to three times as long; compared by code point on both engines."""
    return (
        String(3 * length)
        .with_variant(postgresql.VARCHAR(3 * length, collation="C"), "postgresql")
        .with_variant(sqlite.VARCHAR(3 * length), "sqlite")
    )


def fold(text: str) -> str:
    """The form in which texts that differ only in case are the same: Unicode case folding (Unicode §3.13, D144)."""
    return text.casefold()


def contains(column: SQLColumnExpression[str], text: str) -> ColumnElement[bool]:
    """Whether ``text`` stands anywhere in a case-folded column; ``%`` and ``_`` mean themselves."""
    return column.contains(fold(text), autoescape=True)


class write_position(FunctionElement[int]):  # noqa: N801 - it stands for an SQL function
    """A row's place in the order of writing; 0 on SQLite, which writes one at a time.

    On PostgreSQL it is the number of the running transaction, or of the latest that has ended if that one began later:
    a transaction that had to wait for a product stands behind the one that it waited for.
    """

    type = BigInteger()
    inherit_cache = True


class settled_before(FunctionElement[int]):  # noqa: N801
    """The position below which every transaction has ended, so that no row with a lower one can still appear.

    Ids are drawn before COMMIT and become visible out of order; this is PostgreSQL's own measure of what is settled
    (https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT).
    """

    type = BigInteger()
    inherit_cache = True


@compiles(write_position, "sqlite")
def _sqlite_write_position(_element: write_position, _compiler: Any, **_kwargs: Any) -> str:
    return "0"


@compiles(write_position, "postgresql")
def _postgresql_write_position(_element: write_position, _compiler: Any, **_kwargs: Any) -> str:
    return "greatest(pg_current_xact_id()::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1)"


@compiles(settled_before, "sqlite")
def _sqlite_settled_before(_element: settled_before, _compiler: Any, **_kwargs: Any) -> str:
    return "1"


@compiles(settled_before, "postgresql")
def _postgresql_settled_before(_element: settled_before, _compiler: Any, **_kwargs: Any) -> str:
    return "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})


def init_app(app: Flask) -> None:
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engines.options(app.config)
    try:
        db.init_app(app)
    except OSError as error:
        raise ConfigError(f"inventory: cannot start, no folder for the SQLite file: {error}") from None
    with app.app_context():
        engines.configure(db.engine, busy_timeout_ms=app.config["INVENTORY_BUSY_TIMEOUT_MS"])
    # The one registered last runs first: it leaves Flask-SQLAlchemy nothing to undo.
    app.teardown_appcontext(end_transaction)


def end_transaction(_error: BaseException | None) -> None:
    """Undo what is not committed when a request ends; if its connection has died meanwhile, that is done already.

    The answer is made by then, and an error raised here would take its place, outside of every handler.
    """
    try:
        if db.session.registry.has():
            db.session.rollback()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise


def unit_of_work(work: Callable[P, R]) -> Callable[P, R]:
    """Run a function in one write transaction: commit what it did, or undo all of it if it raises.

    A transaction that the database could not serialize, or chose as a deadlock's victim, is run again from its
    start, and so is one whose pooled connection turned out to be dead before COMMIT was sent. A connection lost
    during COMMIT is not repeated: only the client's own key can tell whether it landed.
    """

    @wraps(work)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in range(ATTEMPTS):
            committing = False
            try:
                engines.begin_write(db.session())
                result = work(*args, **kwargs)
                committing = True
                db.session.commit()
            except DBAPIError as error:
                db.session.rollback()
                lost_before_commit = error.connection_invalidated and not committing
                if attempt + 1 == ATTEMPTS or not (lost_before_commit or may_be_repeated(error)):
                    raise
                time.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311
            except BaseException:
                db.session.rollback()
                raise
            else:
                return result
        raise AssertionError("unreachable")

    return wrapper


def check_tag(wanted: frozenset[str] | None, current: str) -> None:
    """Raise PreconditionFailed if the caller wants certain versions only and the current one is none of them."""
    if wanted is not None and current not in wanted:
        raise PreconditionFailed


def may_be_repeated(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in REPEATABLE_SQLSTATES


def count_rows(statement: Select[Any]) -> int:
    return db.session.scalar(select(func.count()).select_from(statement.order_by(None).subquery())) or 0
