"""Loads the application, or exits with status 2 and one line with the reason.

gunicorn's master process does not import this package, so that after SIGHUP its workers import the new code. It runs
``python -m inventory.server.startup`` before it starts workers, and reads its settings from the output.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click
import orjson
from sqlalchemy.exc import DBAPIError

from inventory import create_app, logs
from inventory.auth import keys
from inventory.auth.secrets import required_pepper
from inventory.database import figures
from inventory.database.base import check_file, db
from inventory.database.errors import from_database, summary
from inventory.errors import ConfigError, DatabaseNotMigrated, ServiceError
from inventory.server.sizing import sizing
from inventory.web import observability

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

SHORT_PEPPER = 16


def load() -> Flask:
    """The application, for the flask command or for a server.

    A server logs in the form of the settings, and needs what authentication needs.
    """
    command = click.get_current_context(silent=True)
    if command:
        end_on_sigterm()
    with exit_on_config_error():
        app = create_app()
        if command is None or command.info_name == "run":
            logs.configure(app.config["INVENTORY_LOG_LEVEL"], app.config["INVENTORY_LOG_FORMAT"], observability.context)
            check_authentication(app)
        return app


def end_on_sigterm() -> None:
    """Let a command that is process 1 of a container, such as a migration, end and roll back on SIGTERM.

    Process 1 ignores signals without a handler.
    """
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def check_authentication(app: Flask) -> None:
    """Raise ConfigError if API keys are required, but cannot be validated."""
    if app.config["INVENTORY_AUTH"] == "keys":
        required_pepper(app.config)


def warnings(app: Flask) -> Iterator[str]:
    """What an operator should know when the service starts."""
    yield from warnings_of_pgbouncer(app)
    if app.config["INVENTORY_AUTH"] == "off":
        yield "INVENTORY_AUTH is off: requests are not authenticated. Only programs on this machine can connect."
        return
    pepper = required_pepper(app.config)
    if len(pepper.value) < SHORT_PEPPER:
        yield "INVENTORY_KEY_PEPPER is short. Use a random one, such as the output of 'openssl rand -hex 32'."
    try:
        with app.app_context():
            if not keys.count_active() and app.config["INVENTORY_JWT_ISSUER"] is None:
                yield (
                    "There are no API keys, so all requests are refused. Create the first one: "
                    "flask --app wsgi keys create NAME --scopes read,stock,catalogue,admin"
                )
            if keys.has_other_pepper(pepper):
                yield (
                    "Some API keys were created with another INVENTORY_KEY_PEPPER and are refused. "
                    "Restore that value, or rotate the keys."
                )
    except ServiceError:
        return  # of an SQLite file; the worker logs it
    except DBAPIError as error:
        problem = from_database(error)
        reason = problem.message if isinstance(problem, DatabaseNotMigrated) else summary(error)
        yield f"The database cannot be used. {reason}"


def warnings_of_pgbouncer(app: Flask) -> Iterator[str]:
    if not app.config["INVENTORY_PGBOUNCER"]:
        return
    limited = True
    with suppress(DBAPIError, ServiceError), app.app_context(), db.engine.connect() as connection:
        limited = figures.has_timeouts(connection)
    if not limited:
        yield (
            "Behind PgBouncer the timeouts are those of the database, and it has none. "
            "Run ALTER DATABASE … SET statement_timeout = '30s' and SET lock_timeout = '5s', and restart PgBouncer."
        )


@contextmanager
def exit_on_config_error() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        # 2 is wrong usage for all commands. With 1, flask verify reports findings.
        click.echo(error, err=True)
        sys.exit(2)


if __name__ == "__main__":
    with exit_on_config_error():
        application = create_app()
        check_authentication(application)
        check_file(application)
    settings, size = application.config, sizing(application)
    found = {"workers": size.workers, "threads": settings["INVENTORY_THREADS"]}
    found |= {"log_level": settings["INVENTORY_LOG_LEVEL"], "log_format": settings["INVENTORY_LOG_FORMAT"]}
    found |= {"only_loopback": settings["INVENTORY_AUTH"] == "off"}
    found |= {"warnings": [*warnings(application), *([size.warning] if size.warning else [])]}
    click.echo(orjson.dumps(found))
