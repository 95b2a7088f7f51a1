"""Fixtures: every test gets a migrated, empty database to itself, on each engine in turn."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from inventory import create_app
from inventory.database.base import db
from tests import postgresql
from tests import valid_requests as sound
from tests.reliability import figures
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient

REQUIRED = [name for name in os.environ.get("TEST_REQUIRE_ENGINES", "").split(",") if name]
WANTED = os.environ.get("TEST_ENGINES", "sqlite,postgresql").split(",")
SERVER = postgresql.find_server() if "postgresql" in WANTED else None
ENGINES = [name for name in WANTED if name == "sqlite" or SERVER]

# For what only one of the engines can do.
on_sqlite = pytest.mark.parametrize("engine_name", [name for name in ENGINES if name == "sqlite"])
on_postgresql = pytest.mark.parametrize("engine_name", [name for name in ENGINES if name == "postgresql"])


def pytest_configure() -> None:
    if missing := set(REQUIRED) - set(ENGINES):
        pytest.exit(f"required, but not reachable: {', '.join(missing)}; see TEST_DATABASE_URL", returncode=3)


def pytest_report_header() -> str:
    return f"engines: {', '.join(ENGINES)}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many requests the tests of hostile input sent; each test reports its own number at its end."""
    ends = [
        end for reports in terminalreporter.stats.values() for end in reports if getattr(end, "when", "") == "teardown"
    ]
    sent = [value for end in ends for name, value in end.user_properties if name == "hostile requests"]
    if sent:
        terminalreporter.write_line(f"hostile input: {sum(sent):,} requests in {len(sent)} tests")
    figures.summarise(terminalreporter)


def migrate(url: str) -> None:
    from flask_migrate import upgrade  # noqa: PLC0415 - it is slow to import, and needed once

    app = create_app({"DATABASE_URL": url})
    with app.app_context():
        upgrade()
        db.engine.dispose()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgresql_databases() -> Iterator[postgresql.Databases]:
    assert SERVER is not None
    with postgresql.new_database(SERVER) as template:
        migrate(SERVER.url(template))
        databases = postgresql.Databases(SERVER, template)
        with databases.spare:
            yield databases


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def empty_database_url(engine_name: str, tmp_path: Path) -> Iterator[str]:
    """A database without tables."""
    if engine_name == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        assert SERVER is not None
        with postgresql.new_database(SERVER) as name:
            yield SERVER.url(name)


@contextmanager
def new_database(request: pytest.FixtureRequest, engine_name: str, directory: Path) -> Iterator[str]:
    if engine_name == "sqlite":
        copy = directory / "inventory.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), copy)
        yield f"sqlite:///{copy}"
    else:
        assert SERVER is not None
        with request.getfixturevalue("postgresql_databases").one() as name:
            yield SERVER.url(name)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, engine_name: str, tmp_path: Path) -> Iterator[str]:
    """A migrated, empty database."""
    with new_database(request, engine_name, tmp_path) as url:
        yield url


@pytest.fixture(scope="module", params=ENGINES)
def shared_app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """The service with the rows of tests/valid_requests.py, for all those tests of a module that change nothing."""
    with new_database(request, request.param, tmp_path_factory.mktemp("shared")) as url:
        app = create_app({"DATABASE_URL": url, "TESTING": True})
        sound.fill(app.test_client())
        yield app
        with app.app_context():
            db.engine.dispose()


@pytest.fixture
def app(database_url: str) -> Iterator[Flask]:
    app = create_app({"DATABASE_URL": database_url, "TESTING": True})
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def impatient(database_url: str) -> Iterator[Flask]:
    """Another instance of the application on the same database, with one thread and no patience for locks."""
    app = create_app({"DATABASE_URL": database_url, "INVENTORY_BUSY_TIMEOUT_MS": 50, "INVENTORY_THREADS": 1})
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def server(database_url: str) -> Iterator[Gunicorn]:
    """The service as it runs in production: gunicorn with two workers, on a free port of loopback."""
    with Gunicorn(database_url) as running:
        yield running
