"""The declarative base, the setup of an application's engine, and transactions and statements in its requests."""

from __future__ import annotations

import re
from contextlib import contextmanager, nullcontext, suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

from flask import g
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session as BoundSession
from sqlalchemy import MetaData, func, make_url, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase

from inventory import activity
from inventory.database import engines
from inventory.database.query import Query
from inventory.errors import ConfigError, DatabaseDamaged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flask import Flask
    from sqlalchemy import URL, Connection, Engine, Executable, Select

    Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Base(DeclarativeBase):
    """Constraint names follow a convention: errors.py maps violated constraints to errors by name."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )


class Session(BoundSession):
    """The ORM's session. It takes part in the transaction that has begun, or else is in AUTOCOMMIT mode."""

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        return transaction() or super().get_bind(*args, **options)


db = SQLAlchemy(model_class=Base, session_options={"class_": Session, "expire_on_commit": False})


def init_app(app: Flask) -> None:
    """Set up the engine. Raises ConfigError for invalid URL options, or if the directory cannot be created."""
    refuse_invalid_options(make_url(app.config["SQLALCHEMY_DATABASE_URI"]))
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engines.options(app.config)
    try:
        db.init_app(app)
    except OSError as error:
        raise ConfigError(f"inventory: cannot start: cannot create the directory of the SQLite file: {error}") from None
    engines.configure(
        engine_of(app),
        busy_timeout_ms=app.config["INVENTORY_BUSY_TIMEOUT_MS"],
        read_timeout_ms=app.config["INVENTORY_STATEMENT_TIMEOUT_MS"],
    )


def refuse_invalid_options(url: URL) -> None:
    invalid = "inventory: cannot start: invalid setting: DATABASE_URL"
    if unknown := engines.unknown_options(url):
        raise ConfigError(f"{invalid}: Unknown option: {', '.join(map(option_name, unknown))}.")
    try:
        url.get_dialect()().create_connect_args(url)
    except ValueError:
        raise ConfigError(f"{invalid}: An option has an invalid value.") from None


def option_name(name: str) -> str:
    """The option for a message. Anything but a plain word may be part of a password with an unescaped ? or &."""
    return name if re.fullmatch("[A-Za-z_]{1,40}", name) else "(not shown)"


def engine_of(app: Flask) -> Engine:
    with app.app_context():
        return db.engine


def check_file(app: Flask) -> None:
    """Check the SQLite file before the service starts. Leaves no connection open. Raises ConfigError if corrupt."""
    try:
        engines.check_file(engine_of(app))
    except DatabaseDamaged as error:
        raise ConfigError(f"inventory: cannot start: {error.message}") from None


def open_first_connection(app: Flask) -> None:
    """Open the first connection. Called once by every worker at start."""
    engines.open_first_connection(engine_of(app))


def refuse_transaction() -> None:
    """Raise RuntimeError if a transaction has begun."""
    if transaction() is not None:
        raise RuntimeError("a transaction has begun already")


@contextmanager
def begin(kind: Mapping[str, object]) -> Iterator[Connection]:
    """Begin a transaction, ``WRITE`` or ``SNAPSHOT``, of which all statements of the block are part.

    It is rolled back at the end of the block, unless it has been committed. Raises RuntimeError within another one.
    """
    refuse_transaction()
    db.session.remove()  # if it was used before, it has a connection of its own
    with db.engine.connect() as connection:
        connection.execution_options(**kind)
        connection.begin()
        g.transaction = connection
        try:
            yield connection
        finally:
            del g.transaction
            db.session.remove()
            # After a COMMIT that failed, SQLAlchemy keeps the ended transaction, and the pool would then not roll back.
            # If the connection is lost, there is nothing to roll back.
            with suppress(DBAPIError):
                connection.rollback()


def transaction() -> Connection | None:
    """The connection of the unit of work or the snapshot, if one has begun.

    Raises RuntimeError if it has been rolled back, as the ORM's session does when a statement fails: what follows would
    be committed without what came before.
    """
    connection: Connection | None = g.get("transaction")
    if connection is not None and not connection.in_transaction():
        raise RuntimeError("the transaction has been rolled back")
    return connection


def unit_of_work_connection() -> Connection:
    """The connection of the unit of work. Raises RuntimeError if none has begun."""
    connection = transaction()
    if connection is None or connection.get_execution_options()[engines.TRANSACTION] != "write":
        raise RuntimeError("this needs a unit of work")
    return connection


def require_unit_of_work() -> None:
    """Raise RuntimeError outside a unit of work, where each of several statements would be committed by itself."""
    unit_of_work_connection()


def execute(statement: Executable, parameters: Parameters | None = None) -> None:
    """Execute a statement that returns no rows, in the unit of work. Raises RuntimeError outside one."""
    unit_of_work_connection().execute(statement, parameters)


def fetch_all(statement: Query | Executable, parameters: Mapping[str, object] | None = None) -> Sequence[Any]:
    """Execute a statement, and return its rows.

    In a unit of work or a snapshot it is part of that transaction. Otherwise it is a transaction by itself.
    """
    within = transaction()
    if isinstance(statement, Query) and (plan := statement.plan(db.engine.dialect)):
        return plan.execute(db.engine, parameters or {}, within)
    with nullcontext(within) if within is not None else db.engine.connect() as connection:
        if within is None:
            engines.begin_read(db.engine, connection.info)
        result = connection.execute(plain(statement), parameters)
        started = perf_counter()
        rows = result.all()
    activity.note_rows(len(rows), perf_counter() - started)
    return rows


def plain(statement: Query | Executable) -> Executable:
    return statement.statement if isinstance(statement, Query) else statement


def fetch_one(statement: Query | Executable, parameters: Mapping[str, object] | None = None) -> Any:
    """The only row of a statement, or None."""
    rows = fetch_all(statement, parameters)
    return rows[0] if rows else None


def fetch_value(statement: Query | Executable, parameters: Mapping[str, object] | None = None) -> Any:
    """The first column of the only row, or None."""
    row = fetch_one(statement, parameters)
    return None if row is None else row[0]


def count_rows(statement: Select[Any], parameters: Mapping[str, object] | None = None) -> int:
    count = select(func.count()).select_from(statement.order_by(None).subquery())
    return int(fetch_value(count, parameters))
