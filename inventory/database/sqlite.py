"""SQLite: connection setup, the queue of writers, and integrity checks.

Databases are in WAL mode with ``synchronous=FULL``. A write begins with BEGIN IMMEDIATE, so that writers queue instead
of failing on a lock upgrade. A single read needs no BEGIN; several reads see one snapshot after BEGIN DEFERRED.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import sqlite3
import sys
import time
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.exc import DatabaseError

from inventory import activity
from inventory.database import sqlite_file
from inventory.database.sqlite_file import WatchedFile
from inventory.errors import DatabaseDamaged

try:
    import pysqlite3 as newest
except ImportError:  # no wheel for this platform
    newest = sqlite3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.pool import ConnectionPoolEntry

logger = logging.getLogger(__name__)

driver: Any = newest
SQLITE_VERSION: str = driver.sqlite_version
SQLITE_BUSY = 5
QUEUE_INTERVAL = 0.001
# Supported URL options: those of the driver, and with uri=true those of SQLite (https://www.sqlite.org/uri.html).
CONNECTION_KEYWORDS = frozenset({"uri", "timeout", "detect_types", "check_same_thread", "cached_statements"})
URI_KEYWORDS = frozenset({"mode", "cache", "immutable", "nolock", "psow", "vfs"})
# Disables the implicit BEGIN of the driver.
OPTIONS: dict[str, object] = {"module": driver, "connect_args": {"isolation_level": None}}

# All engines of the process with their files; None for an in-memory database.
files: WeakKeyDictionary[Engine, WatchedFile | None] = WeakKeyDictionary()
# Held by the thread of the process whose turn it is to write.
turns: WeakKeyDictionary[Engine, Lock] = WeakKeyDictionary()
TURN = "inventory_turn"
# How long a read may take.
read_limits: WeakKeyDictionary[Engine, float] = WeakKeyDictionary()
# When the read on a connection has to end, and how often SQLite looks: about every 2 ms of work.
DEADLINE = "inventory_deadline"
STEPS_BETWEEN_LOOKS = 100_000
LARGEST_EMPTY_LOG = 32 * 1024 * 1024


def is_patched(version: tuple[int, ...] = driver.sqlite_version_info) -> bool:
    """Whether the WAL-reset bug is fixed in this SQLite (https://www.sqlite.org/wal.html#walresetbug)."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def connection_keywords(url: URL) -> frozenset[str]:
    """Supported URL options."""
    return CONNECTION_KEYWORDS | (URI_KEYWORDS if "uri" in url.query else frozenset())


def configure(engine: Engine, busy_timeout_ms: int, read_timeout_ms: int | None) -> None:
    """Set up an engine's connections, and open its file."""
    if read_timeout_ms is not None:
        read_limits[engine] = read_timeout_ms / 1000
    if not is_patched():
        logger.warning(
            "SQLite %s can corrupt a busy WAL database. Use 3.51.3 or later (https://www.sqlite.org/wal.html#walresetbug)",
            SQLITE_VERSION,
        )
    path = sqlite_file.path_of(engine.url)
    files[engine] = WatchedFile(path) if path else None
    turns[engine] = Lock()
    event.listen(engine, "checkin", lambda _connection, record: end_turn(record.info))
    event.listen(engine, "checkin", lambda _connection, record: record.info.pop(DEADLINE, None))
    prepare_connections(engine, busy_timeout_ms)
    if watched := files[engine]:
        open_existing(engine, watched)


def begin(engine: Engine, connection: Connection, kind: str | None, busy_timeout_ms: int) -> None:
    """Begin a transaction of the given kind. Without one, every statement is a transaction by itself."""
    if kind == "write":
        with activity.statement("BEGIN IMMEDIATE"):
            queue_for_write(engine, connection, busy_timeout_ms)
    elif kind == "snapshot":
        connection.exec_driver_sql("BEGIN DEFERRED")


def prepare_connections(engine: Engine, busy_timeout_ms: int) -> None:
    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        connection.execute(f"PRAGMA busy_timeout={busy_timeout_ms}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA schema_version").fetchone()  # opens the -wal, so that it can be watched
        connection.execute("PRAGMA synchronous=FULL")
        # Otherwise the file of the log keeps the size that it had at its largest.
        connection.execute(f"PRAGMA journal_size_limit={LARGEST_EMPTY_LOG}")
        connection.execute("PRAGMA foreign_keys=ON")
        # Without it REPLACE deletes rows without firing the DELETE triggers.
        connection.execute("PRAGMA recursive_triggers=ON")
        # Like the PostgreSQL function, in SQLAlchemy's text format.
        connection.create_function("clock_timestamp", 0, clock_timestamp)
        connection.create_function("greatest", 2, max, deterministic=True)
        connection.set_progress_handler(partial(is_overdue, record.info), STEPS_BETWEEN_LOOKS)


def limit_read(engine: Engine, info: dict[Any, Any]) -> None:
    """Interrupt a read that takes too long. The limit ends when the connection returns to the pool."""
    if seconds := read_limits.get(engine):
        info[DEADLINE] = time.monotonic() + seconds


def is_overdue(info: dict[Any, Any]) -> bool:
    deadline = info.get(DEADLINE)
    return deadline is not None and time.monotonic() > deadline


def open_existing(engine: Engine, watched: WatchedFile) -> None:
    """Make all connections open the same file as the first one, and never create one."""

    @event.listens_for(engine, "do_connect")
    def use_existing_file(_dialect: object, _record: object, arguments: list[Any], keywords: dict[str, Any]) -> None:
        watched.before_opening()
        arguments[0] = sqlite_file.existing(arguments[0], is_uri=keywords.get("uri", False))
        keywords["uri"] = True

    event.listen(engine, "connect", lambda _connection, _record: watched.opened())
    event.listen(engine, "close", lambda _connection, _record: watched.closed())


def check_place(engine: Engine) -> None:
    """Raise DatabaseMoved if the engine's file is no longer the one that it opened first."""
    if watched := files[engine]:
        watched.check()


@atexit.register
def close_all() -> None:
    """Close all connections of the process, so that the last process removes the -wal.

    SQLite removes the log only with the last connection. The lock prevents two processes from closing concurrently.
    """
    for engine, watched in list(files.items()):
        folder = watched.path.resolve().parent if watched else None
        if folder is None or not folder.is_dir():
            engine.dispose()
        else:
            with sqlite_file.folder_locked(folder):
                engine.dispose()


def clock_timestamp() -> str:
    # Without the offset. strftime takes three times as long.
    return datetime.now(UTC).isoformat(" ", "microseconds")[:26]


def queue_for_write(engine: Engine, connection: Connection, timeout_ms: int) -> None:
    """Acquire the write lock, polling at a constant interval until the deadline.

    SQLite's busy handler increases its interval, so that later writers overtake. A constant interval is fair. Only one
    thread of a process polls or writes at a time. The others wait for their turn, which costs no processor time.
    """
    deadline = time.monotonic() + timeout_ms / 1000
    # A connection with several transactions, as of a migration, keeps its turn between them. Without a turn, there is
    # still one attempt, which raises the error of SQLite.
    if TURN in connection.info or turns[engine].acquire(timeout=timeout_ms / 1000):
        connection.info[TURN] = turns[engine]
    poll_for_write_lock(connection, deadline, timeout_ms)


def end_turn(info: dict[Any, Any]) -> None:
    """End the turn of a connection that returns to the pool, if it has one."""
    if turn := info.pop(TURN, None):
        turn.release()


def poll_for_write_lock(connection: Connection, deadline: float, timeout_ms: int) -> None:
    driver_connection: Any = connection.connection.driver_connection
    driver_connection.execute("PRAGMA busy_timeout=0")
    try:
        while time.monotonic() < deadline:
            try:
                driver_connection.execute("BEGIN IMMEDIATE")
            except driver.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != SQLITE_BUSY:
                    break
                time.sleep(QUEUE_INTERVAL)
            else:
                return
        # The last attempt goes through SQLAlchemy, which wraps errors like all other database errors.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        driver_connection.execute(f"PRAGMA busy_timeout={timeout_ms}")


@contextmanager
def without_waiting(connection: Connection) -> Iterator[None]:
    """Make statements fail at once if another connection holds a lock."""
    timeout = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
    connection.exec_driver_sql("PRAGMA busy_timeout=0")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={timeout}")


def connect(path: Path, **options: str) -> Any:
    """A plain driver connection to an existing file, with URI options."""
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return driver.connect(f"file:{quote(str(path))}?{query}", uri=True, isolation_level=None)


def problems(connection: Connection) -> list[str]:
    """Corruption of the file, and violated foreign keys."""
    found: list[str] = []
    try:
        found += [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check") if row[0] != "ok"]
        lost = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    except DatabaseError as error:  # the corruption aborts the check itself
        return [*found, str(error.orig)]
    return found + [f"{row[0]}: row {row[1]} refers to a missing row of {row[2]}" for row in lost]


def check_after_unclean_stop(path: Path) -> None:
    """Raise DatabaseDamaged if the write-ahead log does not belong to the database.

    This happens if a copy is placed next to the log of another database. Checks only if no process has the database
    open, and opens it read-only, because SQLite would otherwise apply the log.
    """
    path = path.resolve()
    log = sqlite_file.with_suffix(path, sqlite_file.WAL)
    if not path.exists() or not sqlite_file.has_content(log) or is_in_use(path):
        return
    # SQLite would treat an empty file as a new database and delete the log.
    if not sqlite_file.has_content(path) or not is_sound_with_log(path):
        raise DatabaseDamaged(f"{path} and its -wal do not belong together. {DatabaseDamaged.advice}")


def is_sound_with_log(path: Path) -> bool:
    try:
        with closing(connect(path, mode="ro")) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)])
    except driver.DatabaseError:
        return False


def is_in_use(path: Path) -> bool:
    """Whether a process has the database open, this one included."""
    opened = (watched.path.resolve() for watched in files.values() if watched and watched.connections)
    if path in opened:
        return True
    with suppress(OSError):  # a read-only file has no writer
        return sqlite_file.is_in_use(path)
    return False


def free_bytes(connection: Connection) -> int:
    """Free space for the database: the free disk space, up to its maximum page count."""
    names = ("page_size", "page_count", "freelist_count", "max_page_count")
    size, used, unused, limit = (int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in names)
    file = connection.exec_driver_sql("PRAGMA database_list").all()[0].file
    disk = shutil.disk_usage(file).free if file else sys.maxsize
    return min(size * (limit - used + unused), disk)


def missing_bytes(connection: Connection) -> int:
    """How much the file has to grow at the next checkpoint, which copies the write-ahead log into it.

    Within a transaction, what it has written counts.
    """
    size = int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
    pages = int(connection.exec_driver_sql("PRAGMA page_count").scalar_one())
    file = connection.exec_driver_sql("PRAGMA database_list").all()[0].file
    return max(0, size * pages - Path(file).stat().st_size) if file else 0
