"""Databases on a real PostgreSQL server: the one that TEST_DATABASE_URL names, or one on loopback."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
def new_database(server: Server) -> Iterator[str]:
    """A database of its own, dropped afterwards with whatever is still connected to it."""
    name = f"inventory_test_{uuid4().hex}"
    server.run(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield name
    finally:
        server.run(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def empty(server: Server, database: str, tables: Iterable[str]) -> None:
    """Bring a migrated database back to where its migrations left it, a tenth of the time of making a new one.

    Nobody stays connected, ids begin at 1 again, and the ledger's triggers stand aside for this one transaction.
    """
    with psycopg.connect(server.url(database)) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        names = [sql.Identifier(table) for table in tables]
        for name in names:
            connection.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(name))
        connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(sql.SQL(", ").join(names)))
        for name in names:
            connection.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(name))
