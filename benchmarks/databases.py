"""Databases of the benchmarks: created, migrated, filled and dropped here, one at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from contextlib import closing, contextmanager
from datetime import datetime
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from benchmarks.catalogue import Catalogue, Row, Size
from inventory.database import sqlite
from inventory.database.types import Money

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
ENGINES = ("postgresql", "sqlite")
POSTGRESQL_URL = os.environ.get("BENCH_POSTGRESQL_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
# From the rows that others refer to, to the rows that refer to them.
TABLES = ("categories", "products", "product_changes", "batches", "transactions", "answers")


class Database(ABC):
    """A migrated database. ``url`` is its address for the service."""

    engine: str
    url: str

    @abstractmethod
    def fill(self, size: Size) -> None:
        """Write the rows of a catalogue into the empty tables, and update the planner's statistics."""

    @abstractmethod
    def empty(self) -> None:
        """Delete all rows. Running servers keep their connections."""

    @abstractmethod
    def version(self) -> str: ...

    def environment(self, **settings: str) -> dict[str, str]:
        """The environment in which the service uses this database."""
        return os.environ | {"DATABASE_URL": self.url, "INVENTORY_AUTH": "off", **settings}

    def flask(self, *command: str, **settings: str) -> str:
        """Run a command of the service, and return what it prints. Raises RuntimeError if it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", *command],
            cwd=ROOT,
            env=self.environment(**settings),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"flask {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def migrate(self) -> None:
        self.flask("db", "upgrade")

    def verify(self) -> None:
        """Raises RuntimeError if stock and ledger differ."""
        self.flask("verify")


class PostgresqlDatabase(Database):
    engine = "postgresql"

    def __init__(self, name: str) -> None:
        self.name = name
        self.url = make_url(POSTGRESQL_URL).set(database=name).render_as_string(hide_password=False)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True)

    def fill(self, size: Size) -> None:
        with self.connect() as connection:
            with connection.transaction():
                # No trigger fires: products are written with their stock, and foreign keys are not checked.
                connection.execute("SET LOCAL session_replication_role = replica")
                for table, rows in Catalogue(size).tables().items():
                    copy(connection, table, rows)
            connection.execute("VACUUM ANALYZE")

    def empty(self) -> None:
        with self.connect() as connection, connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")
            tables = sql.SQL(", ").join(map(sql.Identifier, TABLES))
            connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(tables))

    def version(self) -> str:
        with self.connect() as connection:
            return f"PostgreSQL {connection.info.server_version // 10_000}.{connection.info.server_version % 10_000}"


def copy(connection: psycopg.Connection[Any], table: str, rows: Iterator[Row]) -> None:
    first = next(rows)
    columns = sql.SQL(", ").join(map(sql.Identifier, first))
    target = sql.Identifier(table)
    with connection.cursor().copy(sql.SQL("COPY {} ({}) FROM STDIN").format(target, columns)) as stream:
        for row in chain([first], rows):
            stream.write_row([row[name] for name in first])
    largest = sql.SQL("SELECT setval(pg_get_serial_sequence({}, 'id'), (SELECT max(id) FROM {}))")
    connection.execute(largest.format(sql.Literal(table), target))


class SqliteDatabase(Database):
    engine = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"

    def fill(self, size: Size) -> None:
        def write(connection: Any) -> None:
            for table, rows in Catalogue(size).tables().items():
                insert_many(connection, table, rows)

        self.without_triggers(write)
        with closing(sqlite.connect(self.path)) as connection:
            connection.execute("ANALYZE")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def empty(self) -> None:
        def delete(connection: Any) -> None:
            for table in reversed(TABLES):
                connection.execute(f"DELETE FROM {table}")
            connection.execute("DELETE FROM sqlite_sequence")

        self.without_triggers(delete)

    def without_triggers(self, work: Callable[[Any], None]) -> None:
        """Do ``work`` in one transaction in which the triggers do not exist."""
        with closing(sqlite.connect(self.path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for name, _definition in triggers:
                connection.execute(f"DROP TRIGGER {name}")
            work(connection)
            for _name, definition in triggers:
                connection.execute(definition)
            connection.execute("COMMIT")

    def version(self) -> str:
        return f"SQLite {sqlite.SQLITE_VERSION}"


def insert_many(connection: Any, table: str, rows: Iterator[Row]) -> None:
    first = next(rows)
    places = ", ".join("?" * len(first))
    values = ([sqlite_value(row[name]) for name in first] for row in chain([first], rows))
    connection.executemany(f"INSERT INTO {table} ({', '.join(first)}) VALUES ({places})", values)


def sqlite_value(value: Any) -> Any:
    """A value in the form in which the service stores it on SQLite."""
    match value:
        case Decimal():
            return int(value * Money.SCALE)
        case datetime():
            return value.isoformat(" ", "microseconds")[:26]
        case _:
            return value


@contextmanager
def new_database(engine: str) -> Iterator[Database]:
    """A migrated, empty database, dropped at the end."""
    with new_postgresql() if engine == "postgresql" else new_sqlite() as database:
        database.migrate()
        yield database


@contextmanager
def new_postgresql() -> Iterator[Database]:
    name = f"inventory_bench_{uuid4().hex}"
    administrate("CREATE DATABASE {}", name)
    try:
        yield PostgresqlDatabase(name)
    finally:
        administrate("DROP DATABASE {} WITH (FORCE)", name)


def administrate(command: str, database: str) -> None:
    with psycopg.connect(POSTGRESQL_URL, autocommit=True) as connection:
        connection.execute(sql.SQL(command).format(sql.Identifier(database)))


@contextmanager
def new_sqlite() -> Iterator[Database]:
    with tempfile.TemporaryDirectory(prefix="inventory-bench-") as folder:
        yield SqliteDatabase(Path(folder) / "inventory.db")
