"""PostgreSQL: connection options, and replacement of dead connections."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import URL, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

IDLE_SINCE = "inventory_idle_since"
ASSUMED_ALIVE_SECONDS = 1


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
    # Later options override earlier ones, so those of the URL take precedence.
    own = [f"-c {name}={value}" for name, value in timeouts.items()]
    connect_args["options"] = " ".join([*own, *named.get("options", ())])
    return {"connect_args": connect_args}


def replace_dead_connections(engine: Engine) -> None:
    """Ping idle connections before use.

    Connections that were used within the last second are not pinged, to save a round trip per request.
    """

    @event.listens_for(engine, "checkin")
    def note_time(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info[IDLE_SINCE] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ping(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        now = time.monotonic()
        if now - record.info.get(IDLE_SINCE, now) < ASSUMED_ALIVE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            # The pool then discards all older connections and opens a new one.
            raise InvalidatePoolError from None
