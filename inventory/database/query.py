"""Statements that are compiled once, and executed by the driver.

SQLAlchemy's own execution of a statement takes several times as long as the driver's, a third of the time of a request
that reads one row. A ``Query`` is written with SQLAlchemy and compiled by it, so that both engines and all types are
treated the same. What is the same for every execution is done once.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from inventory import activity
from inventory.database import engines
from inventory.database.postgresql import OUTDATED_PLAN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection, Dialect, Engine, Executable

    Processors = Mapping[Any, Callable[[Any], Any]]


@dataclass(frozen=True)
class Plan:
    """A statement compiled for a dialect."""

    text: str
    # Names in the order of a positional parameter style; None for named parameters.
    positions: Sequence[str] | None
    constants: Mapping[str, object]
    of_parameters: Processors
    of_columns: Processors

    def execute(
        self, engine: Engine, parameters: Mapping[str, object], within: Connection | None = None
    ) -> Sequence[tuple[Any, ...]]:
        """Execute within a transaction, or else in AUTOCOMMIT mode. Raises DBAPIError, as SQLAlchemy does."""
        fetched = fetch(engine, self.text, self.values(parameters), within)
        return [self.row(row) for row in fetched] if self.of_columns else fetched

    def values(self, parameters: Mapping[str, object]) -> Any:
        """The parameters as the driver takes them."""
        values = {**self.constants, **parameters}
        for name, process in self.of_parameters.items():
            values[name] = process(values[name])
        return values if self.positions is None else [values[name] for name in self.positions]

    def row(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        values = list(row)
        for index, process in self.of_columns.items():
            values[index] = process(values[index])
        return tuple(values)


class Query:
    """A statement with parameters that returns rows."""

    def __init__(self, statement: Executable) -> None:
        self.statement: Any = statement
        self.plans: dict[str, Plan | None] = {}

    def plan(self, dialect: Dialect) -> Plan | None:
        """The compiled statement. None if it has lists of values, whose number is part of its text."""
        if dialect.name not in self.plans:
            self.plans[dialect.name] = compiled(self.statement, dialect)
        return self.plans[dialect.name]


def compiled(statement: Any, dialect: Dialect) -> Plan | None:
    result = statement.compile(dialect=dialect)
    if result.post_compile_params:
        return None
    parameters = {name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in result.binds.items()}
    columns = [column.type.dialect_impl(dialect) for column in statement.exported_columns]
    results = {index: kind.result_processor(dialect, None) for index, kind in enumerate(columns)}
    return Plan(
        text=str(result),
        positions=result.positiontup,
        constants={name: bind.effective_value for name, bind in result.binds.items() if not bind.required},
        of_parameters={name: process for name, process in parameters.items() if process},
        of_columns={index: process for index, process in results.items() if process},
    )


def fetch(engine: Engine, text: str, values: Any, within: Connection | None = None) -> Sequence[tuple[Any, ...]]:
    """Execute a statement within a transaction, or alone on a connection of the pool, and return its rows.

    PostgreSQL refuses a prepared statement if a migration has changed the type of one of its columns. Then all
    connections are replaced, and a statement alone is executed again.
    """
    try:
        return fetch_once(engine, text, values, within)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != OUTDATED_PLAN:
            raise
        engine.dispose()
        if within is not None:
            raise
        return fetch_once(engine, text, values, None)


def fetch_once(engine: Engine, text: str, values: Any, within: Connection | None) -> Sequence[tuple[Any, ...]]:
    dialect, used, started = engine.dialect, None, perf_counter()
    rows: list[tuple[Any, ...]] = []
    driver: Any = dialect.loaded_dbapi
    try:
        if within is None:
            used = engine.raw_connection()
            engines.begin_read(engine, used.info)
        else:
            used = within.connection
        cursor = used.cursor()
        cursor.execute(text, values)
        rows = list(cursor.fetchall())
    except driver.Error as error:
        is_lost = dialect.is_disconnect(error, used and used.driver_connection, None)
        if is_lost and used is not None:
            (within or used).invalidate(error)
        raise DBAPIError.instance(text, None, error, driver.Error, connection_invalidated=is_lost) from error
    finally:
        if used is not None and within is None:
            used.close()
        activity.note_statement(text, started, len(rows))
    return rows
