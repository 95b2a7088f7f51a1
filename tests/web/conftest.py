"""A browser for the tests of pages, and a service that requires API keys."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from inventory import create_app
from inventory.caller import SCOPES
from inventory.database.base import db
from tests import builders
from tests.browser import CHROMIUM, DRIVER, Browser
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    ServeWithKeys = Callable[..., AbstractContextManager[tuple[Gunicorn, str]]]

WITH_KEYS: dict[str, Any] = {"INVENTORY_AUTH": "keys", "INVENTORY_KEY_PEPPER": "for tests, in a browser"}


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium with its driver is installed")
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def serve_with_keys(sqlite_template: Path, tmp_path: Path) -> ServeWithKeys:
    """Starts a service with one product, whose stock is 10, and an API key with all scopes."""

    @contextmanager
    def serve(**settings: Any) -> Iterator[tuple[Gunicorn, str]]:
        url = f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'keys.db')}"
        builders.product(create_app({"DATABASE_URL": url}).test_client(), quantity_on_hand=10)
        app = create_app({"DATABASE_URL": url} | WITH_KEYS)
        key = app.test_cli_runner().invoke(args=["keys", "create", "page", "--scopes", ",".join(SCOPES)]).stdout.strip()
        with app.app_context():
            db.engine.dispose()
        with Gunicorn(url, **WITH_KEYS, **settings) as server:
            yield server, key

    return serve
