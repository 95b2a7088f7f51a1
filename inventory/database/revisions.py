"""The migrations of this release, and the current migration of a database.

Read without Alembic, which a worker would import for nothing else. Migrations are a line, not a tree, and their files
are named after their numbers.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from inventory.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Connection

MIGRATIONS = Path(__file__).parent.parent.parent / "migrations"


@cache
def known() -> tuple[str, ...]:
    """All revisions, latest first. Raises ConfigError if there are none."""
    files = (MIGRATIONS / "versions").glob("[0-9]*_*.py")
    revisions = tuple(sorted((file.name.partition("_")[0] for file in files), reverse=True))
    if not revisions:
        raise ConfigError(f"inventory: cannot start: no migrations in {MIGRATIONS}")
    return revisions


def latest() -> str:
    return known()[0]


def current(connection: Connection) -> str | None:
    """The revision of a database. None before the first migration."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision
