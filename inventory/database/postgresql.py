"""PostgreSQL: connection options, how transactions begin, and replacement of dead connections.

Connections are in autocommit mode. psycopg discards its prepared statements at every ROLLBACK, so reads that ended in
one would be planned again each time.
"""

from __future__ import annotations

import select
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy import URL, Engine, ExceptionContext
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

IDLE_SINCE = "inventory_idle_since"
ASSUMED_ALIVE_SECONDS = 1
# feature_not_supported: "cached plan must not change result type". Nothing else here raises it.
OUTDATED_PLAN = "0A000"
# After the statement timeout, the server has this long to say so. A ping, and its answer, take milliseconds.
OVERDUE_SECONDS, PING_SECONDS = 5.0, 5.0
BEGIN = {"write": "BEGIN", "snapshot": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"}


def connection_keywords(url: URL) -> frozenset[str]:
    """Supported URL options: the connection keywords of the installed libpq.

    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
    """
    # Imported through the dialect, so that psycopg is loaded only if PostgreSQL is used.
    driver: Any = url.get_dialect().import_dbapi()
    keywords: Iterable[Any] = driver.pq.Conninfo.get_defaults()
    return frozenset(keyword.keyword.decode() for keyword in keywords)


def options(url: URL, config: Mapping[str, Any]) -> dict[str, object]:
    """Keyword arguments for ``create_engine``."""
    timeouts = {
        "lock_timeout": config["INVENTORY_BUSY_TIMEOUT_MS"],
        "statement_timeout": config["INVENTORY_STATEMENT_TIMEOUT_MS"],
        "idle_in_transaction_session_timeout": 2 * config["INVENTORY_STATEMENT_TIMEOUT_MS"],
    }
    named = url.normalized_query
    defaults = {"connect_timeout": 5, "application_name": "inventory"}
    connect_args = {name: value for name, value in defaults.items() if name not in named}
    # hstore, which is not used, would be looked up on every new connection.
    created = {"connect_args": connect_args, "isolation_level": "AUTOCOMMIT", "use_native_hstore": False}
    if config["INVENTORY_PGBOUNCER"]:
        # PgBouncer refuses connection options, and the next statement may be executed by another session. The timeouts
        # are those of the database.
        connect_args["prepare_threshold"] = None
        return created
    # Later options override earlier ones, so those of the URL take precedence.
    own = [f"-c {name}={value}" for name, value in timeouts.items()]
    connect_args["options"] = " ".join([*own, *named.get("options", ())])
    return created


def show_utc(engine: Engine) -> None:
    """Set the time zone of all connections, because responses show times as they are read.

    PgBouncer remembers it for each client, unlike most other parameters.
    """

    @event.listens_for(engine, "connect")
    def set_time_zone(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        connection.cursor().execute("SET TimeZone TO 'UTC'")


def limit_waiting(engine: Engine, statement_timeout_ms: int) -> None:
    """Close a connection whose server does not answer, and raise OperationalError.

    A server enforces its statement timeout as long as it runs. Threads would wait forever for one that is stopped, or
    behind a network that drops packets. With a statement timeout of its own in the URL, only pings have a limit.
    """
    has_own_timeout = any("statement_timeout" in given for given in engine.url.normalized_query.get("options", ()))
    usual_limit = None if has_own_timeout else statement_timeout_ms / 1000 + OVERDUE_SECONDS
    driver: Any = engine.dialect.loaded_dbapi

    class Connection(driver.Connection):  # type: ignore[misc]
        limit = usual_limit

        def wait(self, *arguments: Any, **options: Any) -> Any:
            started = time.monotonic()
            try:
                return super().wait(*arguments, **options | {"timeout": self.limit})
            except driver.OperationalError:
                if self.limit is None or time.monotonic() - started < self.limit:
                    raise
                self.close()
                raise driver.OperationalError("the server does not answer") from None

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        return Connection.connect(*arguments, **keywords)


@contextmanager
def waiting_at_most(connection: Any, seconds: float) -> Iterator[None]:
    """Change the limit of a connection for the block."""
    usual, connection.limit = connection.limit, seconds
    try:
        yield
    finally:
        connection.limit = usual


def replace_dead_connections(engine: Engine) -> None:
    """Ping a connection before use if it was idle for a second, or if the server has sent something in the meantime.

    A server that ends a connection, as in a restart, says so. To find that takes no round trip, so that a statement in
    autocommit mode is not sent on a connection that is known to be lost; its outcome would be unknown.
    """

    @event.listens_for(engine, "checkin")
    def note_time(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info[IDLE_SINCE] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ping(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        now = time.monotonic()
        is_recent = now - record.info.get(IDLE_SINCE, now) < ASSUMED_ALIVE_SECONDS
        try:
            if is_recent and not has_input(connection):
                return
            with waiting_at_most(connection, PING_SECONDS):
                engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            # The pool then discards all older connections and opens a new one.
            raise InvalidatePoolError from None


def replace_outdated_connections(engine: Engine) -> None:
    """Treat a connection with an outdated prepared statement as lost, so that the pool replaces all of them."""

    @event.listens_for(engine, "handle_error")
    def note_outdated(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) == OUTDATED_PLAN:
            context.is_disconnect = True


def has_input(connection: Any) -> bool:
    """Whether an idle connection has something to read: an error message, or its end."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
