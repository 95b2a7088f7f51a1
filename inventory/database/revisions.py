"""The migrations of this release, and the current migration of a database."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

if TYPE_CHECKING:
    from sqlalchemy import Connection


@cache
def known(directory: str) -> tuple[str, ...]:
    """All revisions, latest first."""
    config = Config()
    config.set_main_option("script_location", directory)
    return tuple(script.revision for script in ScriptDirectory.from_config(config).walk_revisions())


def current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
