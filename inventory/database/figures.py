"""What operators want to know of a database: its version, its connections and its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from inventory.database.engines import is_sqlite

if TYPE_CHECKING:
    from sqlalchemy import Connection, Pool

# PostgreSQL 16 has reserved_connections, too.
CONNECTION_LIMIT = """
    SELECT least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0),
        nullif(rolconnlimit, -1), nullif(datconnlimit, -1)
    )
    FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()
"""
HAS_TIMEOUTS = "SELECT current_setting('statement_timeout') <> '0' AND current_setting('lock_timeout') <> '0'"


def server_version(connection: Connection) -> str:
    """Engine and version, such as ``SQLite 3.53.4``."""
    names = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
    version = ".".join(str(part) for part in connection.dialect.server_version_info or ())
    return f"{names[connection.dialect.name]} {version}"


def pool_figures(pool: Pool) -> dict[str, int]:
    """The connections of a pool, and how many of them are in use. An in-memory database has one."""
    in_use = getattr(pool, "checkedout", lambda: 1)
    size = getattr(pool, "size", lambda: 1)
    return {"size": size(), "in_use": in_use()}


def write_age(connection: Connection) -> float:
    """The age in seconds of the oldest running transaction that has written, behind which the feeds stop.

    0 on SQLite, where a row is in the feed when it is committed. PostgreSQL shows the transactions of other roles only
    to members of pg_read_all_stats.
    """
    if is_sqlite(connection.engine.url):
        return 0.0
    oldest = text(
        "SELECT coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0) "
        "FROM pg_stat_activity WHERE backend_xid IS NOT NULL"
    )
    return float(connection.execute(oldest).scalar_one())


def lock_waiters(connection: Connection) -> int:
    """How many sessions of this PostgreSQL database wait for a lock. 0 on SQLite, whose writers poll."""
    if is_sqlite(connection.engine.url):
        return 0
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    return int(connection.execute(waiting).scalar_one())


def connection_limit(connection: Connection) -> int | None:
    """How many connections PostgreSQL allows to this role and database. None on SQLite."""
    if is_sqlite(connection.engine.url):
        return None
    return int(connection.execute(text(CONNECTION_LIMIT)).scalar_one())


def has_timeouts(connection: Connection) -> bool:
    """Whether PostgreSQL limits how long statements and waiting for locks may take."""
    return bool(connection.execute(text(HAS_TIMEOUTS)).scalar_one())
