"""Databases on a real PostgreSQL server: the one that TEST_DATABASE_URL names, or one on loopback."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

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
def new_database(server: Server, template: str = "template1") -> Iterator[str]:
    """A database for one test, dropped afterwards with whatever is still connected to it."""
    name = f"inventory_test_{uuid4().hex}"
    server.run(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
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
