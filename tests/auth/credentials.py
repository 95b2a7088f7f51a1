"""Makes API keys, and clients that send them."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from inventory import create_app
from inventory.auth import keys
from inventory.auth.secrets import required_pepper
from inventory.caller import SCOPES

if TYPE_CHECKING:
    from datetime import datetime

    from flask import Flask
    from flask.testing import FlaskClient

PEPPER = "a pepper for tests, which is long enough"
numbers = count(1)


def keyed_app(database_url: str, pepper: str = PEPPER) -> Flask:
    """An application that requires API keys. Workers of gunicorn each have one, too."""
    return create_app(
        {
            "DATABASE_URL": database_url,
            "TESTING": True,
            "INVENTORY_AUTH": "keys",
            "INVENTORY_KEY_PEPPER": pepper,
            "INVENTORY_BUSY_TIMEOUT_MS": 60_000,
        }
    )


def new_key(app: Flask, *scopes: str, name: str | None = None, expires_at: datetime | None = None) -> str:
    """A new key with these scopes, or with all."""
    with app.app_context():
        pepper = required_pepper(app.config)
        return keys.create(pepper, name or f"key {next(numbers)}", scopes or SCOPES, expires_at).text


def client_with(app: Flask, key: str) -> FlaskClient:
    """A client that sends a key with each request."""
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    return client
