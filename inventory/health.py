"""/health: ready to serve; /health/live: the process answers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app
from marshmallow import fields

from inventory import errors
from inventory.api import Blueprint
from inventory.db import db
from inventory.engines import server_version
from inventory.schemas import BaseSchema

if TYPE_CHECKING:
    from sqlalchemy import Pool

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
    """Ready: the database can be reached and is migrated to head; 503 otherwise."""
    connection = db.session.connection()
    revision = MigrationContext.configure(connection).get_current_revision()
    head = head_revision(current_app.extensions["migrate"].directory)
    if revision != head:
        raise errors.DatabaseNotMigrated(details={"revision": revision, "head": head})
    return {
        "status": "ok",
        "database": server_version(connection),
        "revision": revision,
        "pool": pool_figures(db.engine.pool),
    }


def pool_figures(pool: Pool) -> dict[str, int]:
    in_use = getattr(pool, "checkedout", lambda: 1)
    size = getattr(pool, "size", lambda: 1)
    return {"size": size(), "in_use": in_use()}


@blueprint.route("/health/live")
@blueprint.response(200, LiveOut)
def live() -> Any:
    """Alive: the process answers, whatever the database does."""
    return {"status": "ok"}
