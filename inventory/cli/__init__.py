"""The command line.

Its modules, Flask-Migrate and Alembic are imported when a command is looked up, because workers need none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flask.cli import AppGroup
from werkzeug.local import LocalProxy

from inventory.database.base import db
from inventory.database.revisions import MIGRATIONS

if TYPE_CHECKING:
    from click import Command, Context
    from flask import Flask

MODULES = ("commands", "backup_commands", "key_commands")


class Commands(AppGroup):
    """The commands of an application, with those of Flask-Migrate."""

    def __init__(self, app: Flask) -> None:
        super().__init__(app.name)
        self.app = app
        self.is_loaded = False

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        self.load()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Context) -> list[str]:
        self.load()
        return super().list_commands(ctx)

    def load(self) -> None:
        if not self.is_loaded:
            load_migrate(self.app)
            for module in MODULES:
                import_module(f"{__name__}.{module}").init_app(self.app)
            self.is_loaded = True


def load_migrate(app: Flask) -> Any:
    """Set up Flask-Migrate in place of its proxy. Returns the extension."""
    import_module("flask_migrate").Migrate(app, db, directory=str(MIGRATIONS))
    return app.extensions["migrate"]


def init_app(app: Flask) -> None:
    """Replace the commands of the application."""
    app.cli = Commands(app)
    # For the functions and the environment of Flask-Migrate, which look it up here.
    app.extensions["migrate"] = LocalProxy(lambda: load_migrate(app))
