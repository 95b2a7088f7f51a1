"""On PostgreSQL with a linguistic collation, order and matching are the same as on SQLite."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from inventory import create_app
from inventory.database.base import db
from tests import postgresql
from tests.builders import assert_ledger_is_consistent, category, error_of, insert_products, listed, nothing_changes
from tests.conftest import ENGINES, SERVER, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

pytestmark = pytest.mark.skipif("postgresql" not in ENGINES, reason="needs PostgreSQL")
NAMES = ["a-1", "B 1", "a_1", "A1", "b", "Z", "ä", "ß", "straße", "STRASSEN", "~", "é", "E", "-", "10", "9"]


@pytest.fixture
def app() -> Iterator[Flask]:
    assert SERVER is not None
    with postgresql.new_database(SERVER, locale="en-US") as name:
        migrate(SERVER.url(name))
        app = create_app({"DATABASE_URL": SERVER.url(name)})
        yield app
        with app.app_context():
            db.engine.dispose()


def test_lists_sort_by_code_points_of_case_folded_text(app: Flask) -> None:
    client = app.test_client()
    insert_products(app, category(client)["id"], [{"name": name, "sku": name} for name in NAMES])
    for column in ("name", "sku"):
        rows = listed(client.get(f"/products?sort={column}"))
        assert [row[column] for row in rows] == sorted(NAMES, key=str.casefold)


def test_category_names_conflict_only_when_equal_after_case_folding(app: Flask) -> None:
    client = app.test_client()
    for name in ("Straße", "Strase", "Stra-sse", "Strassé"):
        category(client, name=name)
    assert error_of(client.post("/categories", json={"name": "STRASSE"})) == (409, "duplicate_category")


def test_seed_is_idempotent_with_linguistic_collation(app: Flask) -> None:
    arguments = ["seed", "--products", "12", "--transactions", "60", "--json"]
    first = app.test_cli_runner().invoke(args=arguments)
    assert json.loads(first.stdout) == {"categories": 5, "products": 12, "transactions": 60}
    with nothing_changes(app):
        again = app.test_cli_runner().invoke(args=arguments)
        assert json.loads(again.stdout) == {"categories": 0, "products": 0, "transactions": 0}
    assert_ledger_is_consistent(app)
