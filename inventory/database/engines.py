"""How the two engines connect and begin. Nothing above this module asks which engine it runs on.

SQLite runs in WAL with ``synchronous=FULL``. A write begins with BEGIN IMMEDIATE, so that two writers queue
instead of failing on a lock upgrade; a read begins with BEGIN DEFERRED and sees one snapshot.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sqlite3
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, func, select
from sqlalchemy.exc import InvalidatePoolError

try:
    import pysqlite3 as sqlite_driver
except ImportError:  # no wheel for this platform
    sqlite_driver = sqlite3

from sqlalchemy.engine import make_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import ConnectionPoolEntry

logger = logging.getLogger(__name__)

SQLITE_VERSION: str = sqlite_driver.sqlite_version
SQLITE_BUSY = 5
QUEUE_INTERVAL = 0.001
WRITE = "inventory_write"
IDLE_SINCE = "inventory_idle_since"
ASSUMED_ALIVE_SECONDS = 1
MIGRATION_LOCK = int.from_bytes(b"stock")  # any number, as long as every release uses the same


def sqlite_is_patched(version: tuple[int, ...] = sqlite_driver.sqlite_version_info) -> bool:
    """Whether this SQLite is free of the WAL-reset corruption bug (https://www.sqlite.org/wal.html#walresetbug)."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for ``create_engine``. The pool is sized to the threads of one worker."""
    url = make_url(config["SQLALCHEMY_DATABASE_URI"])
    if url.get_backend_name() == "sqlite":
        # The connection is ours alone to begin and end: the driver's own implicit BEGIN is off.
        engine_options: dict[str, Any] = {"module": sqlite_driver, "connect_args": {"isolation_level": None}}
        if url.database in {None, "", ":memory:"}:
            return engine_options
    else:
        timeouts = {
            "lock_timeout": config["INVENTORY_BUSY_TIMEOUT_MS"],
            "statement_timeout": config["INVENTORY_STATEMENT_TIMEOUT_MS"],
            "idle_in_transaction_session_timeout": 2 * config["INVENTORY_STATEMENT_TIMEOUT_MS"],
        }
        named = url.normalized_query
        defaults = {"connect_timeout": 5, "application_name": "inventory"}
        connect_args = {name: value for name, value in defaults.items() if name not in named}
        # The server reads its options in turn, so those of the URL have the last word.
        own = [f"-c {name}={value}" for name, value in timeouts.items()]
        connect_args["options"] = " ".join([*own, *named.get("options", ())])
        engine_options = {"connect_args": connect_args}
    return engine_options | {
        "pool_size": config["INVENTORY_THREADS"],
        "max_overflow": 2,
        "pool_timeout": config["INVENTORY_BUSY_TIMEOUT_MS"] / 1000,
    }


def configure(engine: Engine, *, busy_timeout_ms: int) -> None:
    """Set up an engine's connections and the way their transactions begin."""
    if engine.dialect.name == "sqlite":
        configure_sqlite(engine, busy_timeout_ms)
    else:
        replace_dead_connections(engine)


def replace_dead_connections(engine: Engine) -> None:
    """Ask a connection that has lain idle whether it still lives, so that no request finds out that it does not.

    Connections in steady use are not asked, which would cost every request a round trip.
    """

    @event.listens_for(engine, "checkin")
    def note_time(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info[IDLE_SINCE] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ask(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        now = time.monotonic()
        if now - record.info.get(IDLE_SINCE, now) < ASSUMED_ALIVE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            # The pool throws away every connection that is older than this moment, and makes a new one.
            raise InvalidatePoolError from None


def configure_sqlite(engine: Engine, busy_timeout_ms: int) -> None:
    if not sqlite_is_patched():
        logger.warning(
            "SQLite %s can corrupt a busy WAL database; use 3.51.3 or later (https://www.sqlite.org/wal.html#walresetbug)",
            sqlite_driver.sqlite_version,
        )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA busy_timeout={busy_timeout_ms}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        # Without it REPLACE deletes rows past the triggers that refuse to.
        connection.execute("PRAGMA recursive_triggers=ON")
        # PostgreSQL's function of the same name, in the text form that SQLAlchemy stores.
        connection.create_function("clock_timestamp", 0, clock_timestamp)
        connection.create_function("greatest", 2, max, deterministic=True)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get(WRITE):
            queue_for_write(connection, busy_timeout_ms)
        else:
            connection.exec_driver_sql("BEGIN DEFERRED")


def clock_timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def queue_for_write(connection: Connection, timeout_ms: int) -> None:
    """Take SQLite's one write lock, waiting in short steps until the deadline.

    SQLite's own busy handler backs off further the longer a writer has waited, so latecomers overtake it; a
    short even step gives every waiter the same chance.
    """
    driver_connection: Any = connection.connection.driver_connection
    deadline = time.monotonic() + timeout_ms / 1000
    driver_connection.execute("PRAGMA busy_timeout=0")
    try:
        while time.monotonic() < deadline:
            try:
                driver_connection.execute("BEGIN IMMEDIATE")
            except sqlite_driver.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != SQLITE_BUSY:
                    break
                time.sleep(QUEUE_INTERVAL)
            else:
                return
        # The last attempt goes through SQLAlchemy, which wraps whatever is wrong as every other database error.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        driver_connection.execute(f"PRAGMA busy_timeout={timeout_ms}")


def begin_write(session: Session) -> None:
    """Begin the session's transaction as a write: SQLite takes its write lock now, PostgreSQL locks rows later."""
    session.rollback()
    session.connection(execution_options={WRITE: True})


def begin_snapshot(session: Session) -> None:
    """Begin a read-only transaction whose statements all see the same moment."""
    session.rollback()
    session.connection(execution_options=snapshot_options(session.get_bind().dialect.name))


def hold(session: Session, name: str) -> None:
    """Wait until no other transaction holds ``name``, then hold it until this one ends.

    SQLite needs no more than its one write lock, which the transaction has.
    """
    if session.get_bind().dialect.name != "sqlite":
        number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)
        session.execute(select(func.pg_advisory_xact_lock(number)))


def snapshot_options(dialect: str) -> dict[str, Any]:
    """Execution options of a read-only snapshot; SQLite's deferred transaction is one by itself."""
    return {} if dialect == "sqlite" else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


@contextmanager
def unlimited_snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection that reads one moment of the database, and takes the time that it needs for it."""
    with engine.connect() as connection:
        snapshot = connection.execution_options(**snapshot_options(engine.dialect.name))
        lift_time_limit(snapshot)
        yield snapshot


def lift_time_limit(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")


def begin_migration(connection: Connection) -> None:
    """Let migrations run one after another, since replicas start together, and take the time that they need.

    SQLite's write transaction does so by itself. A statement of a migration still gives up on a table that others
    hold for longer than the lock timeout, rather than have every request queue behind it.
    """
    if connection.dialect.name == "postgresql":
        lift_time_limit(connection)
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        connection.exec_driver_sql("SET LOCAL lock_timeout TO DEFAULT")


def free_bytes(connection: Connection) -> int | None:
    """By how much an SQLite database can still grow: room on its disk, and up to its own limit; else None.

    Only a PostgreSQL server knows what room it has.
    """
    if connection.dialect.name != "sqlite":
        return None
    names = ("page_size", "page_count", "freelist_count", "max_page_count")
    size, used, unused, limit = (int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in names)
    file = connection.exec_driver_sql("PRAGMA database_list").all()[0].file
    disk = shutil.disk_usage(file).free if file else sys.maxsize
    return min(size * (limit - used + unused), disk)


def server_version(connection: Connection) -> str:
    """Engine and version, as in ``SQLite 3.53.4``."""
    names = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
    version = ".".join(str(part) for part in connection.dialect.server_version_info or ())
    return f"{names[connection.dialect.name]} {version}"
