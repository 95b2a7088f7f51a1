"""Databases on a real PostgreSQL server: the one that TEST_DATABASE_URL names, or one on loopback."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from inventory.database.base import Base

if TYPE_CHECKING:
    from collections.abc import Iterator

CANDIDATES = ("postgresql://127.0.0.1:5432/postgres", "postgresql://postgres@127.0.0.1:5432/postgres")


@dataclass(frozen=True)
class Server:
    address: str

    def url(self, database: str) -> str:
        return make_url(self.address).set(database=database).render_as_string(hide_password=False)

    def run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.address, autocommit=True) as connection:
            connection.execute(statement)


def find_server() -> Server | None:
    given = os.environ.get("TEST_DATABASE_URL")
    for address in [given] if given else CANDIDATES:
        try:
            psycopg.connect(address, connect_timeout=3).close()
        except psycopg.OperationalError:
            continue
        return Server(address)
    return None


@contextmanager
def new_database(server: Server, template: str | None = None, *, locale: str | None = None) -> Iterator[str]:
    """A database for one test, dropped afterwards with whatever is still connected to it.

    ``locale`` makes it sort as ICU does for that language.
    """
    name = f"inventory_test_{uuid4().hex}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
        sql.Identifier(name), sql.Identifier(template or ("template0" if locale else "template1"))
    )
    if locale:
        create += sql.SQL(" LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(locale))
    server.run(create)
    try:
        yield name
    finally:
        server.run(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def await_blocked(observer: psycopg.Connection[Any], count: int) -> None:
    """Return once ``count`` sessions on the observer's database wait for a lock."""
    deadline = time.monotonic() + 30
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while observer.execute(blocked).fetchone() != (count,):
        assert time.monotonic() < deadline, f"{count} sessions never waited for a lock"


# Everything that a test could have altered and that emptying the tables does not undo.
STRUCTURE = """
SELECT md5(string_agg(part, ' ' ORDER BY part)) FROM (
    SELECT concat(tgrelid::regclass, tgname, tgenabled) AS part FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT concat(conrelid::regclass, conname) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT concat(relname, relkind, relnatts) FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat(proname, prosrc) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT version_num FROM alembic_version
    UNION ALL SELECT setconfig::text FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
        WHERE datname = current_database()
) AS parts
"""


class Databases:
    """Migrated, empty databases, each for one test at a time.

    Making one takes a quarter of a second, ten times as long as most tests, and emptying one a tenth of that. So a
    database is emptied and used again, unless a test has altered more than rows: then it is dropped.
    """

    def __init__(self, server: Server, template: str) -> None:
        self.server = server
        self.template = template
        self.spare = ExitStack()
        self.free: list[str] = []
        with psycopg.connect(server.url(template)) as connection:
            self.structure = connection.execute(STRUCTURE).fetchone()

    @contextmanager
    def one(self) -> Iterator[str]:
        name = self.free.pop() if self.free else self.spare.enter_context(new_database(self.server, self.template))
        yield name
        with psycopg.connect(self.server.url(name)) as connection:
            disconnect_others(connection)
            if connection.execute(STRUCTURE).fetchone() == self.structure:
                empty(connection)
                self.free.append(name)


def disconnect_others(connection: psycopg.Connection[Any]) -> None:
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def empty(connection: psycopg.Connection[Any]) -> None:
    """Delete all rows and begin ids at 1 again; the ledger's triggers stand aside for this one transaction."""
    tables = [sql.Identifier(table) for table in Base.metadata.tables]
    for table in tables:
        connection.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(table))
    connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(sql.SQL(", ").join(tables)))
    for table in tables:
        connection.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(table))
