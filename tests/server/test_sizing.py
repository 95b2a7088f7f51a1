"""The number of workers, by processors and by the connections of PostgreSQL."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from inventory import create_app
from inventory.database.base import db
from inventory.server.sizing import Sizing, sizing
from tests.conftest import on_postgresql, on_sqlite
from tests.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask

PROCESSORS = 16
# Half of them are enough for 4 workers with 4 threads and 2 more connections each.
LIMIT = 50


@pytest.fixture(autouse=True)
def _processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: PROCESSORS)


@pytest.fixture
def limited(app: Flask) -> Iterator[Callable[..., Flask]]:
    """Makes applications on a database that allows LIMIT connections."""
    made = []
    with app.app_context(), db.engine.connect() as connection:
        name = connection.dialect.identifier_preparer.quote(str(db.engine.url.database))
        connection.execute(text(f"ALTER DATABASE {name} CONNECTION LIMIT {LIMIT}"))

    def make(**settings: str) -> Flask:
        made.append(create_app({"DATABASE_URL": app.config["DATABASE_URL"], **settings}))
        return made[-1]

    yield make
    for one in made:
        with one.app_context():
            db.engine.dispose()
    with app.app_context(), db.engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} CONNECTION LIMIT -1"))


@on_sqlite
def test_sqlite_has_a_worker_for_each_processor(app: Flask) -> None:
    assert sizing(app) == Sizing(PROCESSORS)


@on_postgresql
def test_default_fits_the_connections(limited: Callable[..., Flask]) -> None:
    found = sizing(limited())
    assert found.workers == 4
    assert found.warning == (
        "PostgreSQL allows 50 connections, so the service starts 4 workers instead of 16. Raise max_connections, or "
        "set INVENTORY_WORKERS."
    )


@on_postgresql
def test_at_least_one_worker_is_started(limited: Callable[..., Flask]) -> None:
    assert sizing(limited(INVENTORY_THREADS="100")).workers == 1


@on_postgresql
def test_default_is_not_reduced_if_there_are_enough_connections(
    limited: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert sizing(limited()) == Sizing(4)


@on_postgresql
@pytest.mark.parametrize(("workers", "is_too_many"), [(8, False), (9, True)])
def test_chosen_number_is_kept(limited: Callable[..., Flask], workers: int, is_too_many: bool) -> None:
    found = sizing(limited(INVENTORY_WORKERS=str(workers)))
    assert found.workers == workers
    assert (found.warning is not None) == is_too_many
    assert not is_too_many or "may need 54 connections, and PostgreSQL allows 50" in str(found.warning)


def test_server_that_is_down_limits_nothing() -> None:
    app = create_app({"DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/inventory"})
    assert sizing(app) == Sizing(PROCESSORS)
