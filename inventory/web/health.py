"""/health: ready to serve; /health/live: the process answers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app
from marshmallow import fields
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from inventory import errors
from inventory.database.base import db
from inventory.database.engines import free_bytes, server_version
from inventory.database.errors import from_database
from inventory.fields import BaseSchema
from inventory.web.api import Blueprint

if TYPE_CHECKING:
    from sqlalchemy import Connection, Pool

# Room for a large import or batch, with its copy in the write-ahead log.
NEEDED_BYTES = 10 * 1024 * 1024

blueprint = Blueprint("health", __name__, description="Whether the service is up.")


class PoolOut(BaseSchema):
    """Connections of this worker process."""

    size = fields.Integer()
    in_use = fields.Integer()


class HealthOut(BaseSchema):
    """A service that is ready."""

    status = fields.String(metadata={"enum": ["ok"]})
    database = fields.String(metadata={"description": "Engine and version."})
    revision = fields.String(metadata={"description": "The migration the database is at."})
    pool = fields.Nested(PoolOut)


class LiveOut(BaseSchema):
    """A process that answers."""

    status = fields.String(metadata={"enum": ["ok"]})


@cache
def head_revision(directory: str) -> str | None:
    config = Config()
    config.set_main_option("script_location", directory)
    return ScriptDirectory.from_config(config).get_current_head()


@blueprint.route("/health")
@blueprint.response(200, HealthOut)
def health() -> Any:
    """Ready: the database can be reached, is migrated to head, and can be written; 503 otherwise."""
    connection = db.session.connection()
    revision = MigrationContext.configure(connection).get_current_revision()
    head = head_revision(current_app.extensions["migrate"].directory)
    if revision != head:
        raise errors.DatabaseNotMigrated(details={"revision": revision, "head": head})
    check_writable(connection)
    return {
        "status": "ok",
        "database": server_version(connection),
        "revision": revision,
        "pool": pool_figures(db.engine.pool),
    }


def check_writable(connection: Connection) -> None:
    """Raise DatabaseNotWritable if a movement of stock could not be recorded now.

    A write that changes nothing tells, for no row and without waiting; one that another writer keeps out tells too.
    A disk is as good as full a little before it is, while small writes still succeed and large ones do not.
    """
    free = free_bytes(connection)
    if free is not None and free < NEEDED_BYTES:
        raise errors.DatabaseNotWritable("The database has hardly any room left to grow.", {"free_bytes": free})
    try:
        connection.execute(text("UPDATE alembic_version SET version_num = version_num WHERE 1 = 0"))
    except DBAPIError as error:
        answer = from_database(error)
        if not isinstance(answer, errors.DatabaseBusy):
            raise answer from None


def pool_figures(pool: Pool) -> dict[str, int]:
    in_use = getattr(pool, "checkedout", lambda: 1)
    size = getattr(pool, "size", lambda: 1)
    return {"size": size(), "in_use": in_use()}


@blueprint.route("/health/live")
@blueprint.response(200, LiveOut)
def live() -> Any:
    """Alive: the process answers, whatever the database does."""
    return {"status": "ok"}
