"""Loads the application, or exits with status 2 and one line with the reason.

gunicorn's master process does not import this package, so that after SIGHUP its workers import the new code. It runs
``python -m inventory.server.startup`` before it starts workers, and reads its settings from the output.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import orjson

from inventory import create_app
from inventory.database.base import check_file
from inventory.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask


def load() -> Flask:
    with exit_on_config_error():
        return create_app()


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
        check_file(application)
    settings = application.config
    click.echo(orjson.dumps({"workers": settings["INVENTORY_WORKERS"], "threads": settings["INVENTORY_THREADS"]}))
