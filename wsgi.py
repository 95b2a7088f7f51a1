"""What gunicorn and the flask command load."""

import sys

import click

from inventory import create_app
from inventory.config import ConfigError

try:
    app = create_app()
except ConfigError as error:
    # 2 is wrong usage for every command; a 1 of flask verify would say that the ledger is unsound.
    click.echo(error, err=True)
    sys.exit(2)
