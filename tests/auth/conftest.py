"""The service with API keys required."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inventory.database.base import db
from tests.auth.credentials import keyed_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask


@pytest.fixture
def keyed(database_url: str) -> Iterator[Flask]:
    app = keyed_app(database_url)
    yield app
    with app.app_context():
        db.engine.dispose()
