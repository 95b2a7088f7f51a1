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
    """A new database, dropped at the end with all its connections.

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


# What a test could have altered and emptying the tables does not undo. Planner statistics are not compared.
STRUCTURE = """
SELECT md5(string_agg(part, ' ' ORDER BY part)) FROM (
    SELECT concat(tgrelid::regclass, tgname, tgenabled) AS part FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT concat(conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT concat(relname, relkind, relnatts) FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat(proname, prosrc) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT version_num FROM alembic_version
    UNION ALL SELECT setconfig::text FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
        WHERE datname = current_database()
) AS parts
"""


SIZE = "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
RESTART_IDS = "SELECT setval(oid, 1, false) FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace"
MAX_BYTES_DELETED = 1_000_000


class Database:
    """A copy of a migrated, empty database; see tests/environments.py."""

    def __init__(self, server: Server, template: str) -> None:
        self.server = server
        with ExitStack() as made:
            self.name = made.enter_context(new_database(server, template))
            # Kept open, because a new connection has to read the catalogue first.
            self.connection = made.enter_context(psycopg.connect(self.url, autocommit=True))
            self.structure = self.connection.execute(STRUCTURE).fetchone()
            self.made = made.pop_all()

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    def empty(self) -> bool:
        """Delete all rows, unless a test has altered the structure."""
        try:
            with self.connection.transaction():
                end_transactions(self.connection)
                if self.connection.execute(STRUCTURE).fetchone() != self.structure:
                    return False
                delete_rows(self.connection)
        except psycopg.OperationalError:  # a test has ended the connection
            return False
        return True

    def drop(self) -> None:
        self.made.close()


def end_transactions(connection: psycopg.Connection[Any]) -> None:
    """End all other transactions on the connection's database."""
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND state <> 'idle' AND backend_type = 'client backend'"
    )


def delete_rows(connection: psycopg.Connection[Any]) -> None:
    """Delete all rows and restart the ids at 1, with the ledger's triggers disabled for this one transaction.

    DELETE takes a fraction of the time of TRUNCATE, which makes new files. But it leaves its rows in the old ones.
    """
    tables = [sql.Identifier(table.name) for table in Base.metadata.sorted_tables]
    each = sql.SQL("; ")
    connection.execute(each.join(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(table) for table in tables))
    (size,) = connection.execute(SIZE).fetchone() or (0,)
    if size > MAX_BYTES_DELETED:
        connection.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(tables)))
    else:
        connection.execute(each.join(sql.SQL("DELETE FROM {}").format(table) for table in reversed(tables)))
    connection.execute(RESTART_IDS)
    connection.execute(each.join(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(table) for table in tables))
