"""A stock ledger behind a REST API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask
from flask_migrate import Migrate

from inventory import cli, config
from inventory.categories.routes import blueprint as categories
from inventory.database import base as db
from inventory.import_export.routes import blueprint as exchange
from inventory.products.routes import blueprint as products
from inventory.transactions.routes import blueprint as transactions
from inventory.web import api, docs, handlers, health

if TYPE_CHECKING:
    from collections.abc import Mapping

MIGRATIONS = Path(__file__).parent.parent / "migrations"


def create_app(overrides: Mapping[str, Any] | None = None) -> Flask:
    """The application. ``overrides`` are settings by name, or Flask configuration keys; see config.py.

    Opens no connection. Raises ConfigError for a setting that is unknown or invalid.
    """
    app = Flask(__name__, static_folder=None)
    app.config |= docs.openapi_settings() | config.load(overrides)
    db.init_app(app)
    Migrate(app, db.db, directory=str(MIGRATIONS))
    handlers.init_app(app)
    smorest = api.init_app(app)
    for blueprint in (categories, products, transactions, exchange, health.blueprint):
        smorest.register_blueprint(blueprint)
    docs.init_app(app, smorest)
    cli.init_app(app)
    return app
