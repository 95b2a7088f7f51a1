"""Fixtures: every test gets a migrated, empty database, on each engine in turn."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias
from unittest import mock

import pytest
from hypothesis import settings

from inventory import create_app
from inventory.auth import last_uses
from inventory.database import sqlite
from inventory.database.base import db
from tests import postgresql, valid_requests
from tests.environments import Database, Environment, Environments, SqliteDatabase
from tests.reliability import figures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient

    from tests.servers import Gunicorn

# Tests of access switch API keys on.
os.environ["INVENTORY_AUTH"] = "off"
# Tests of access send many invalid keys from one address. Tests of this limit set it.
os.environ["INVENTORY_LIMIT_INVALID_KEYS"] = "off"
# Tests of traces switch them on.
for name in [name for name in os.environ if name.startswith("OTEL_")]:
    del os.environ[name]

# An example may take any time. With CI set, Hypothesis uses the same examples in every run.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")

NewDatabase: TypeAlias = Callable[..., Database]

REQUIRED = [name for name in os.environ.get("TEST_REQUIRE_ENGINES", "").split(",") if name]
WANTED = os.environ.get("TEST_ENGINES", "sqlite,postgresql").split(",")
SERVER = postgresql.find_server() if "postgresql" in WANTED else None
ENGINES = [name for name in WANTED if name == "sqlite" or SERVER]

SLOW_FIXTURES = {"server", "keyed_server", "browser", "rendered"}
# For what only one of the engines can do.
on_sqlite = pytest.mark.parametrize("engine_name", [name for name in ENGINES if name == "sqlite"])
on_postgresql = pytest.mark.parametrize("engine_name", [name for name in ENGINES if name == "postgresql"])


def pytest_configure() -> None:
    if missing := set(REQUIRED) - set(ENGINES):
        pytest.exit(f"required, but not reachable: {', '.join(missing)}; see TEST_DATABASE_URL", returncode=3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start a server or a browser are slow."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


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
def postgresql_template() -> Iterator[str]:
    assert SERVER is not None
    with postgresql.new_database(SERVER) as template:
        migrate(SERVER.url(template))
        yield template


@pytest.fixture(scope="session")
def new_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NewDatabase:
    """Makes a migrated, empty database of an engine; one of SQLite in a folder."""

    def make(engine_name: str, folder: Path | None = None) -> Database:
        if engine_name == "sqlite":
            template = request.getfixturevalue("sqlite_template")
            return SqliteDatabase(template, folder or tmp_path_factory.mktemp("database"))
        assert SERVER is not None
        return postgresql.Database(SERVER, request.getfixturevalue("postgresql_template"))

    return make


@pytest.fixture(scope="session")
def environments(new_database: NewDatabase) -> Iterator[dict[str, Environments]]:
    """Environments of each engine."""
    every = {name: Environments(partial(new_database, name)) for name in ("sqlite", "postgresql")}
    yield every
    for environments in every.values():
        environments.close()


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def empty_database_url(engine_name: str, tmp_path: Path) -> Iterator[str]:
    """A database without tables."""
    if engine_name == "sqlite":
        path = tmp_path / "empty.db"
        path.touch()
        yield f"sqlite:///{path}"
    else:
        assert SERVER is not None
        with postgresql.new_database(SERVER) as name:
            yield SERVER.url(name)


@pytest.fixture
def environment(environments: dict[str, Environments], engine_name: str) -> Iterator[Environment]:
    """A migrated, empty database with an application and a server, which earlier tests may have used."""
    with environments[engine_name].one() as environment:
        yield environment
        # Otherwise every later write would wait until its deadline, and then succeed.
        assert not any(turn.locked() for turn in sqlite.turns.values()), "a connection has kept its turn to write"


@pytest.fixture
def own_environment(new_database: NewDatabase, engine_name: str, tmp_path: Path) -> Iterator[Environment]:
    """An environment that only this test uses, so that it may add routes or listeners, or move the database's file."""
    environment = Environment(new_database(engine_name, tmp_path))
    yield environment
    environment.close()


@pytest.fixture
def database_url(environment: Environment) -> str:
    """A migrated, empty database."""
    return environment.url


@pytest.fixture(scope="module", params=ENGINES)
def shared_app(request: pytest.FixtureRequest, environments: dict[str, Environments]) -> Iterator[Flask]:
    """The service with the rows of tests/valid_requests.py, for all those tests of a module that change nothing."""
    with environments[request.param].one() as environment:
        valid_requests.fill(environment.app.test_client())
        yield environment.app


@pytest.fixture
def app(environment: Environment) -> Flask:
    return environment.app


@pytest.fixture
def keyed(environment: Environment) -> Flask:
    """The application with API keys required, on the same database as ``app``."""
    return environment.keyed


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(autouse=True)
def no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """No timer opens a connection after a test has ended. Tests of what it does call that themselves."""
    monkeypatch.setattr(last_uses, "Timer", mock.Mock())


@pytest.fixture
def impatient(database_url: str) -> Iterator[Flask]:
    """Another instance of the application on the same database, with one thread and no patience for locks."""
    app = create_app({"DATABASE_URL": database_url, "INVENTORY_BUSY_TIMEOUT_MS": 50, "INVENTORY_THREADS": 1})
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def server(environment: Environment) -> Gunicorn:
    """The service as it runs in production: gunicorn with two workers, on a free port of loopback."""
    return environment.server


@pytest.fixture
def keyed_server(environment: Environment) -> Gunicorn:
    """The same with API keys required, on the same database. It was started when there were no keys."""
    return environment.keyed_server
