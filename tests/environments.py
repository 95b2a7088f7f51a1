"""Migrated databases, each with applications and servers. Tests use them one after another."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from sqlalchemy import select

from inventory import create_app
from inventory.database import sqlite
from inventory.database.base import engine_of
from inventory.errors import ServiceError
from tests.auth.credentials import PEPPER, keyed_app
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from sqlalchemy import Engine, Pool

    State: TypeAlias = tuple[dict[str, Any], int]


class Database(Protocol):
    """A migrated, empty database of one engine."""

    @property
    def url(self) -> str: ...

    def empty(self) -> bool:
        """Delete all rows. Return False if a test has altered more than rows, so that nobody may use it again."""

    def drop(self) -> None: ...


class SqliteDatabase:
    def __init__(self, template: Path, folder: Path) -> None:
        self.template = template
        self.path = Path(shutil.copy(template, folder / "inventory.db"))
        self.identity = self.identify()

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def identify(self) -> tuple[int, int]:
        status = self.path.stat()
        return status.st_ino, status.st_mode

    def empty(self) -> bool:
        """Overwrite all pages with those of the template, which also restores the structure."""
        try:
            if self.identify() != self.identity:
                return False
            with closing(sqlite.connect(self.template)) as template, closing(sqlite.connect(self.path)) as database:
                template.backup(database)
        except (OSError, sqlite.driver.Error):
            return False
        return True

    def drop(self) -> None:
        for name in ("", "-wal", "-shm"):
            self.path.with_name(f"{self.path.name}{name}").unlink(missing_ok=True)


class Environment:
    """A database with applications and servers, which start when a test first asks for them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.url = database.url
        self.apps: list[tuple[Flask, State]] = []
        self.servers: list[Gunicorn] = []

    @cached_property
    def app(self) -> Flask:
        patient = {"INVENTORY_BUSY_TIMEOUT_MS": 60_000, "INVENTORY_MAX_TRANSFERS": 8}
        return self.watch(create_app({"DATABASE_URL": self.url, "TESTING": True, **patient}))

    @cached_property
    def keyed(self) -> Flask:
        """An application that requires API keys."""
        return self.watch(keyed_app(self.url))

    @cached_property
    def server(self) -> Gunicorn:
        return self.start(Gunicorn(self.url))

    @cached_property
    def keyed_server(self) -> Gunicorn:
        """A server that requires API keys."""
        return self.start(Gunicorn(self.url, INVENTORY_AUTH="keys", INVENTORY_KEY_PEPPER=PEPPER))

    def start(self, server: Gunicorn) -> Gunicorn:
        self.servers.append(server.__enter__())
        return server

    def watch(self, app: Flask) -> Flask:
        self.apps.append((app, state_of(app)))
        return app

    def reset(self) -> bool:
        """Empty the database. Return whether another test may use the environment."""
        if not all(state_of(app) == state and is_idle(engine_of(app).pool) for app, state in self.apps):
            return False
        if any(server.process.poll() is not None for server in self.servers):
            return False
        return self.database.empty() and all(can_read(engine_of(app)) for app, _state in self.apps)

    def close(self) -> None:
        with ExitStack() as last_first:
            last_first.callback(self.database.drop)
            for app, _state in self.apps:
                last_first.callback(engine_of(app).dispose)
            for server in self.servers:
                last_first.callback(server.__exit__)


def state_of(app: Flask) -> State:
    """The configuration and the number of views. A test that alters anything else needs an environment of its own."""
    return dict(app.config), len(app.view_functions)


def is_idle(pool: Pool) -> bool:
    """Whether all connections come back to the pool. A thread that has just answered may still hold one."""
    deadline = time.monotonic() + 1
    while pool.checkedout():  # type: ignore[attr-defined]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def can_read(engine: Engine) -> bool:
    """Whether the engine still has the database. A second SQLite library in a process deletes the log of the first."""
    try:
        with engine.connect() as connection:
            connection.execute(select(1))
    except ServiceError:
        return False
    return True


class Environments:
    """Environments of one engine, each for one test at a time.

    Making one takes ten times as long as most tests. So an environment is emptied and used again, unless a test has
    altered more than rows.
    """

    def __init__(self, make: Callable[[], Database]) -> None:
        self.make = make
        self.free: list[Environment] = []

    @contextmanager
    def one(self) -> Iterator[Environment]:
        environment = self.free.pop() if self.free else Environment(self.make())
        reusable = False
        try:
            yield environment
            reusable = environment.reset()
        finally:
            if reusable:
                self.free.append(environment)
            else:
                environment.close()

    def close(self) -> None:
        with ExitStack() as stack:
            for environment in self.free:
                stack.callback(environment.close)
