"""How many workers are started: one per processor, as far as PostgreSQL has connections for them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy.exc import DBAPIError

from inventory.database.base import db
from inventory.database.engines import CONNECTIONS_BESIDE_THREADS
from inventory.database.figures import connection_limit
from inventory.errors import ServiceError

if TYPE_CHECKING:
    from flask import Flask

# The other half is for the new workers during a reload, and for commands, backups and administrators.
USED_SHARE = 0.5


class Sizing(NamedTuple):
    """The number of workers, and what an operator should know about it."""

    workers: int
    warning: str | None = None


def sizing(app: Flask) -> Sizing:
    """The number of workers to start. INVENTORY_WORKERS is kept, even if there are too few connections."""
    chosen, threads = app.config["INVENTORY_WORKERS"], app.config["INVENTORY_THREADS"]
    wanted = chosen or os.cpu_count() or 1
    limit = limit_of(app)
    if limit is None:
        return Sizing(wanted)
    needed = threads + CONNECTIONS_BESIDE_THREADS
    if chosen:
        return Sizing(chosen, too_many(chosen * needed, limit) if chosen * needed > limit else None)
    workers = min(wanted, max(1, int(limit * USED_SHARE) // needed))
    return Sizing(workers, fewer(workers, wanted, limit) if workers < wanted else None)


def limit_of(app: Flask) -> int | None:
    """How many connections PostgreSQL allows. None for SQLite and PgBouncer, and if the server cannot be asked now."""
    if app.config["INVENTORY_PGBOUNCER"]:
        return None
    try:
        with app.app_context(), db.engine.connect() as connection:
            return connection_limit(connection)
    except (DBAPIError, ServiceError):  # another warning says so
        return None


def too_many(needed: int, limit: int) -> str:
    return (
        f"The service may need {needed} connections, and PostgreSQL allows {limit}. Requests without one return 503. "
        "Set fewer INVENTORY_WORKERS or INVENTORY_THREADS, or raise max_connections."
    )


def fewer(workers: int, wanted: int, limit: int) -> str:
    return (
        f"PostgreSQL allows {limit} connections, so the service starts {workers} workers instead of {wanted}. "
        "Raise max_connections, or set INVENTORY_WORKERS."
    )
