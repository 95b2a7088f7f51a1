"""Alembic's environment: the application's own engine and metadata."""

from __future__ import annotations

from alembic import context
from alembic.util import CommandError
from flask import current_app
from sqlalchemy.exc import DBAPIError

from inventory.database.base import Base
from inventory.database.engines import WRITE, begin_migration, check_file, create_if_missing
from inventory.database.errors import from_database
from inventory.errors import InternalError, ServiceError

database = current_app.extensions["migrate"].db
INSUFFICIENT_PRIVILEGE = "42501"  # for example, the role may not create tables in the schema public


def run_migrations_online() -> None:
    """Run the migrations. Errors that the operator can fix are reported in one line, others with a traceback."""
    try:
        run_in_one_transaction()
    except DBAPIError as error:
        unknown = isinstance(from_database(error), InternalError)
        if unknown and getattr(error.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
            raise
        words = str(error.orig).partition("\n")[0]
        raise CommandError(f"Database {database.engine.url.database}: {words}") from None
    except ServiceError as error:
        raise CommandError(error.message) from None
    except OSError as error:
        raise CommandError(f"Cannot create the database {error.filename}: {error.strerror}.") from None


def run_in_one_transaction() -> None:
    """Run in one transaction, so that a failed migration changes nothing, on SQLite, too."""
    if changes_revision():
        create_if_missing(database.engine)
    check_file(database.engine)
    with database.engine.connect().execution_options(**WRITE) as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=True,
            transaction_per_migration=False,
            # Also for SQLite, because the driver does not control transactions here.
            transactional_ddl=True,
        )
        with context.begin_transaction():
            begin_migration(connection)
            context.run_migrations()


def changes_revision() -> bool:
    """Whether the command changes the revision, like upgrade or stamp, and is not read-only, like current."""
    try:
        return context.get_revision_argument() is not None
    except KeyError:
        return False


def run_migrations_offline() -> None:
    """Write the SQL instead of running it (``flask db upgrade --sql``)."""
    context.configure(dialect_name=database.engine.dialect.name, target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
