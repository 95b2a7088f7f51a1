"""flask backup and flask restore, for SQLite. PostgreSQL has pg_dump and pg_restore."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import click

from inventory.cli import backups
from inventory.cli.commands import printing_result, report
from inventory.database import revisions
from inventory.database.base import db
from inventory.database.sqlite_file import path_of
from inventory.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

P = ParamSpec("P")

HINTS = {
    "postgresql": "This command is for SQLite. For PostgreSQL use pg_dump and pg_restore; see docs/operations.md.",
    "sqlite": "An in-memory database cannot be copied.",
}


def report_failure(command: Callable[P, None]) -> Callable[P, None]:
    @wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (backups.BackupError, ServiceError) as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            raise click.ClickException(f"{error.filename}: {error.strerror}.") from None

    return wrapper


def database_path() -> Path:
    """The SQLite file of the service, without symbolic links. Exits with 2 if the database is not a file."""
    url = db.engine.url
    engine = url.get_backend_name()
    path = path_of(url) if engine == "sqlite" else None
    if path is None:
        click.echo(f"Error: {HINTS[engine]}", err=True)
        sys.exit(2)
    return path.resolve()


@click.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, resolve_path=True, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@printing_result
@report_failure
def backup(file: Path, force: bool, machine_readable: bool) -> None:
    """Write a verified copy of the SQLite database to FILE. The service can be running.

    FILE is created only after the copy is complete and its file and ledger are verified. Only its owner can read it.
    """
    done = backups.back_up(database_path(), file, revisions.known(), overwrite=force)
    report(asdict(done), machine_readable=machine_readable)


@click.command("restore")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path))
@printing_result
@report_failure
def restore(file: Path, machine_readable: bool) -> None:
    """Replace the SQLite database with a copy of FILE. The service must be stopped.

    The database is replaced only after FILE and its ledger are verified. The old database is kept in the same directory
    as NAME.replaced-TIME, with its -wal.
    """
    done = backups.restore(file, database_path(), revisions.known())
    report(asdict(done), machine_readable=machine_readable)
    if done.needs_upgrade:
        click.echo(
            "The backup is of an older release. Run 'flask --app wsgi db upgrade' before you start the service.",
            err=True,
        )


def init_app(app: Flask) -> None:
    app.cli.add_command(backup)
    app.cli.add_command(restore)
