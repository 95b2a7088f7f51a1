"""What SQLite and PostgreSQL do differently, behind one set of functions."""

from __future__ import annotations

import logging
from contextlib import contextmanager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, create_engine, event, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from inventory import activity
from inventory.database import postgresql, sqlite, sqlite_file
from inventory.database.errors import from_database, summary
from inventory.errors import DatabaseBusy, DatabaseNotWritable, ServiceError, StorageFull

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from sqlalchemy import Connection, Engine, ExceptionContext, Select

logger = logging.getLogger(__name__)

# Execution option with the kind of transaction to begin. Without it, connections are in AUTOCOMMIT mode: each statement
# is a transaction and a snapshot by itself, without round trips for BEGIN and ROLLBACK. At the beginning of a write
# SQLite takes its write lock; PostgreSQL locks rows later.
TRANSACTION = "inventory_transaction"
WRITE: dict[str, object] = {TRANSACTION: "write"}
SNAPSHOT: dict[str, object] = {TRANSACTION: "snapshot"}
# Space for a large import or batch, including its copy in the write-ahead log.
NEEDED_BYTES = 10 * 1024 * 1024
# Of each worker, since a thread can need a second one for a moment.
CONNECTIONS_BESIDE_THREADS = 2
MIGRATION_LOCK = int.from_bytes(b"stock")  # arbitrary, but the same in all releases


def is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def unknown_options(url: URL) -> list[str]:
    """URL options that the driver does not support."""
    known = (sqlite if is_sqlite(url) else postgresql).connection_keywords(url)
    return sorted(url.query.keys() - known)


def options(config: Mapping[str, Any]) -> dict[str, object]:
    """Keyword arguments for ``create_engine``. The pool has one connection per thread of a worker."""
    url = make_url(config["SQLALCHEMY_DATABASE_URI"])
    engine_options = sqlite.OPTIONS if is_sqlite(url) else postgresql.options(url, config)
    # The message of an error would otherwise show values.
    engine_options = engine_options | {"hide_parameters": True}
    if is_sqlite(url) and sqlite_file.path_of(url) is None:
        return dict(engine_options)
    return engine_options | {
        "pool_size": config["INVENTORY_THREADS"],
        "max_overflow": CONNECTIONS_BESIDE_THREADS,
        "pool_timeout": config["INVENTORY_BUSY_TIMEOUT_MS"] / 1000,
    }


def configure(engine: Engine, *, busy_timeout_ms: int, read_timeout_ms: int | None = None) -> None:
    """Configure an engine's connections and how its transactions begin, and note its statements.

    The timeout of reads is enforced for SQLite. PostgreSQL has one for all statements; it limits how long a connection
    waits for the server.
    """
    note_statements(engine)
    if is_sqlite(engine.url):
        sqlite.configure(engine, busy_timeout_ms, read_timeout_ms)
    else:
        postgresql.show_utc(engine)
        if read_timeout_ms is not None:
            postgresql.limit_waiting(engine, read_timeout_ms)
        postgresql.replace_dead_connections(engine)
        postgresql.replace_outdated_connections(engine)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        kind = connection.get_execution_options().get(TRANSACTION)
        if is_sqlite(engine.url):
            sqlite.check_place(engine)
            sqlite.begin(engine, connection, kind, busy_timeout_ms)
        elif kind:
            connection.exec_driver_sql(postgresql.BEGIN[kind])


def note_statements(engine: Engine) -> None:
    """Note the statements that SQLAlchemy executes. ``query.py`` notes its own."""

    @event.listens_for(engine, "before_cursor_execute")
    def begin(_connection: object, _cursor: object, _text: str, _values: object, context: Any, _many: bool) -> None:
        context.inventory_started = perf_counter()

    @event.listens_for(engine, "after_cursor_execute")
    def end(_connection: object, _cursor: object, text: str, _values: object, context: Any, _many: bool) -> None:
        activity.note_statement(text, context.inventory_started)

    @event.listens_for(engine, "handle_error")
    def fail(error: ExceptionContext) -> None:
        started = getattr(error.execution_context, "inventory_started", None)
        if error.statement is not None and started is not None:
            activity.note_statement(error.statement, started)


def engine_of(path: Path) -> Engine:
    """An engine for an SQLite file other than the service's database. It keeps no connection open."""
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool, **sqlite.OPTIONS)
    configure(engine, busy_timeout_ms=5_000)
    return engine


def open_first_connection(engine: Engine) -> None:
    """Open the first connection of a worker, which locks an SQLite file and records its identity.

    If the database cannot be opened, the worker starts anyway: requests and /health report the error.
    """
    if is_sqlite(engine.url):
        try:
            engine.connect().close()
        except (DBAPIError, ServiceError) as error:
            reason = summary(error) if isinstance(error, DBAPIError) else error.message
            logger.error("%s", reason)  # noqa: TRY400 - the traceback does not help an operator


def check_file(engine: Engine) -> None:
    """Check an SQLite file before a process opens it. Raises DatabaseDamaged if it and its log do not match."""
    if is_sqlite(engine.url) and (path := sqlite_file.path_of(engine.url)):
        sqlite.check_after_unclean_stop(path)


def create_if_missing(engine: Engine) -> None:
    """Create a missing SQLite file with mode 0600. PostgreSQL databases are created by administrators."""
    if is_sqlite(engine.url) and (path := sqlite_file.path_of(engine.url)):
        sqlite_file.create(path)


def problems(connection: Connection) -> list[str]:
    """Corruption found in an SQLite file. PostgreSQL is not checked."""
    return sqlite.problems(connection) if is_sqlite(connection.engine.url) else []


def check_place(engine: Engine) -> None:
    """Check after COMMIT that the SQLite file is still in place. Raises DatabaseMoved."""
    if is_sqlite(engine.url):
        sqlite.check_place(engine)


def begin_read(engine: Engine, info: dict[Any, Any]) -> None:
    """Prepare a connection with this ``info`` for a read that is a transaction by itself. Raises DatabaseMoved."""
    if is_sqlite(engine.url):
        sqlite.check_place(engine)
        sqlite.limit_read(engine, info)


def prefer_indexes(connection: Connection) -> None:
    """Make PostgreSQL find rows through indexes until the transaction ends.

    For statements that change the rows named in a JSON array. PostgreSQL does not know how few these are, and reads a
    whole table instead; it also keeps the plan of a repeated statement while the table grows.
    """
    if connection.dialect.name == "postgresql":
        off = (func.set_config(f"enable_{way}", "off", True) for way in ("seqscan", "hashjoin", "mergejoin"))
        connection.execute(select(*off))


def advisory_lock(connection: Connection, name: str) -> None:
    """Acquire an advisory lock on ``name`` until the transaction ends.

    SQLite needs none: the transaction already holds the write lock.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def is_locked(name: str) -> Select[tuple[bool]]:
    """A statement for PostgreSQL that tells whether another session holds the advisory lock on ``name``."""
    return select(~func.pg_try_advisory_xact_lock(func.hashtextextended(name, 0)))


@contextmanager
def snapshot(engine: Engine, *, time_limit: bool = True) -> Iterator[Connection]:
    """A connection with a read snapshot; without ``time_limit``, also without a statement timeout."""
    with engine.connect() as connection:
        connection.execution_options(**SNAPSHOT)
        if not time_limit:
            lift_time_limit(connection)
        yield connection


def lift_time_limit(connection: Connection) -> None:
    """For commands, whose process ends: the limit of waiting for the server stays lifted for this connection."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        driver_connection: Any = connection.connection.driver_connection
        driver_connection.limit = None


def limit_time(connection: Connection, milliseconds: int = 1_000) -> None:
    """Cancel statements of the PostgreSQL transaction that take longer."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds:d}")


def begin_migration(connection: Connection) -> None:
    """Serialize migrations of replicas that start together, and disable the statement timeout.

    On SQLite the write transaction serializes them. The lock timeout still applies to the tables, so that requests do
    not queue behind a waiting migration.
    """
    if connection.dialect.name == "postgresql":
        lift_time_limit(connection)
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        connection.exec_driver_sql("SET LOCAL lock_timeout TO DEFAULT")


def free_bytes(connection: Connection) -> int | None:
    """Free space for an SQLite database. None for PostgreSQL, whose disk is not visible to clients."""
    return sqlite.free_bytes(connection) if is_sqlite(connection.engine.url) else None


def require_room(connection: Connection) -> None:
    """Raise StorageFull if later writes to an SQLite database would fail because of this transaction.

    Nearly all of its log is on the disk already, and a checkpoint needs the space again, for the file.
    """
    if (
        is_sqlite(connection.engine.url)
        and sqlite.free_bytes(connection) < sqlite.missing_bytes(connection) + NEEDED_BYTES
    ):
        raise StorageFull("The disk of the database has too little space left for this import. Nothing was imported.")


def without_waiting(connection: Connection) -> AbstractContextManager[None]:
    """Make statements fail at once while another connection has the lock of an SQLite database."""
    return sqlite.without_waiting(connection) if is_sqlite(connection.engine.url) else nullcontext()


def check_writable(connection: Connection) -> None:
    """Raise DatabaseNotWritable if a movement could not be recorded now.

    Executes an UPDATE that matches no row. A lock held by another writer also shows that the database is writable. An
    almost full disk is reported, because large writes fail there before small ones.
    """
    free = free_bytes(connection)
    if free is not None and free < NEEDED_BYTES:
        raise DatabaseNotWritable("The database is almost out of space.", {"free_bytes": free})
    try:
        with without_waiting(connection):
            connection.execute(text("UPDATE alembic_version SET version_num = version_num WHERE 1 = 0"))
    except DBAPIError as error:
        answer = from_database(error)
        if not isinstance(answer, DatabaseBusy):
            raise answer from None
