"""Alembic's environment: the application's own engine and metadata."""

from __future__ import annotations

from alembic import context
from alembic.util import CommandError
from flask import current_app
from sqlalchemy.exc import DBAPIError

from inventory.database.base import Base
from inventory.database.engines import WRITE, begin_migration
from inventory.database.errors import from_database
from inventory.errors import InternalError

database = current_app.extensions["migrate"].db
INSUFFICIENT_PRIVILEGE = "42501"  # the role may not create tables in the schema public, say


def run_migrations_online() -> None:
    """Run; what the operator has to put right is said in one line, a migration's own fault keeps its traceback."""
    try:
        run_in_one_transaction()
    except DBAPIError as error:
        unknown = isinstance(from_database(error), InternalError)
        if unknown and getattr(error.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
            raise
        words = str(error.orig).partition("\n")[0]
        raise CommandError(f"The database {database.engine.url.database} says: {words}") from None


def run_in_one_transaction() -> None:
    """So that a migration that fails leaves nothing behind, on SQLite too."""
    with database.engine.connect().execution_options(**{WRITE: True}) as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=True,
            transaction_per_migration=False,
            # SQLite's too, since it is not the driver here that begins and ends transactions.
            transactional_ddl=True,
        )
        with context.begin_transaction():
            begin_migration(connection)
            context.run_migrations()


def run_migrations_offline() -> None:
    """Write the SQL instead of running it (``flask db upgrade --sql``)."""
    context.configure(dialect_name=database.engine.dialect.name, target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
