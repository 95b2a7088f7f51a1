"""A stock ledger with a REST API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Flask

from inventory import cli, config
from inventory.auth import authentication
from inventory.categories.routes import blueprint as categories
from inventory.database import base
from inventory.import_export.routes import blueprint as import_export
from inventory.products.routes import blueprint as products
from inventory.transactions.routes import blueprint as transactions
from inventory.web import admission, api, browsers, docs, exposition, handlers, health, observability
from inventory.web.openapi import info

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Service(Flask):
    """The application. Its views are synchronous, so Flask need not examine each function at each call."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def create_app(overrides: Mapping[str, object] | None = None) -> Flask:
    """Create the application. ``overrides`` are settings or Flask configuration keys; see config.py.

    Opens no connection. Raises ConfigError for an unknown or invalid setting.
    """
    app = Service(__name__, static_folder=None)
    app.config |= info.settings() | config.load(overrides)
    base.init_app(app)
    observability.init_app(app)
    handlers.init_app(app)
    admission.init_app(app)
    browsers.init_app(app)
    authentication.init_app(app)
    smorest = api.init_app(app)
    for blueprint in (categories, products, transactions, import_export, health.blueprint):
        smorest.register_blueprint(blueprint)
    docs.init_app(app, smorest)
    exposition.init_app(app)
    cli.init_app(app)
    return app
