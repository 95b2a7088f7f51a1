"""/health for readiness, /health/live for liveness."""

from __future__ import annotations

from flask import current_app
from marshmallow import fields

from inventory import errors
from inventory.caller import caller
from inventory.database import revisions
from inventory.database.base import db
from inventory.database.engines import check_writable
from inventory.database.figures import pool_figures, server_version
from inventory.fields import AnswerSchema, Choice
from inventory.web.blueprint import Blueprint

# Name of the extension that tells where rates are counted.
LIMITER = "inventory_limiter"

blueprint = Blueprint("health", __name__, description="Readiness and liveness checks.")


class PoolOut(AnswerSchema):
    """Connection pool of this worker process."""

    size = fields.Integer()
    in_use = fields.Integer()


class HealthOut(AnswerSchema):
    """Readiness of the service. Only callers with the scope `read` get more than `status`."""

    optional = frozenset({"database", "revision", "pool", "limiter"})

    status = Choice(["ok"], component="HealthStatus")
    database = fields.String(metadata={"description": "Engine and version."})
    revision = fields.String(metadata={"description": "Current migration of the database."})
    pool = fields.Nested(PoolOut)
    limiter = Choice(
        ["redis", "redis unreachable", "memory", "off"],
        component="LimiterState",
        metadata={
            "description": "Where requests are counted for rate limits. While Redis is unreachable, each worker counts "
            "in its memory."
        },
    )


class LiveOut(AnswerSchema):
    """Liveness of the process."""

    status = Choice(["ok"], component="HealthStatus")


@blueprint.route("/health", scope="read", key_optional=True)
@blueprint.response(200, HealthOut)
def get_health() -> object:
    """Check readiness.

    200 if the database is reachable, migrated to the latest revision and writable. Otherwise 503 `database_unavailable`
    with the reason. Only keys with the scope `read` get more than `status`. Redis is not needed for readiness: without
    it, `limiter` is `redis unreachable`, and each worker limits rates by itself.
    """
    head = revisions.latest()
    with db.engine.connect() as connection:
        revision = revisions.current(connection)
        may_see_details = "read" in caller().scopes
        if revision != head:
            raise errors.DatabaseNotMigrated(details={"revision": revision, "head": head} if may_see_details else None)
        check_writable(connection)
        if not may_see_details:
            return {"status": "ok"}
        return {
            "status": "ok",
            "database": server_version(connection),
            "revision": revision,
            "pool": pool_figures(db.engine.pool),
            "limiter": current_app.extensions[LIMITER](),
        }


@blueprint.route("/health/live", scope=None)
@blueprint.response(200, LiveOut)
def get_liveness() -> object:
    """Check liveness.

    200 as long as the process responds, regardless of the state of the database.
    """
    return {"status": "ok"}
