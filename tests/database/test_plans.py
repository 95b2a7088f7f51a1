"""Query plans: every list is read from an index, without a sort."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert

from inventory.database.base import begin, db, engine_of
from inventory.database.engines import WRITE, prefer_indexes
from inventory.models.category import Category
from inventory.models.product import Product
from inventory.models.transaction import Batch, Transaction
from inventory.transactions.statements import LEDGER, record_many
from tests.builders import listed
from tests.conftest import ENGINES
from tests.statements import watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient

    from tests.environments import Environments

START = datetime(2024, 1, 1, tzinfo=UTC)
# Queries that match many rows, and the index that returns them in order.
IN_ORDER = {
    "/products?sort=name&limit=20": "ix_products_name_folded_id",
    "/products?sort=-name&limit=20": "ix_products_name_folded_id",
    "/products?sort=price&limit=20": "ix_products_price_id",
    "/products?sort=-created_at&limit=20": "ix_products_created_at_id",
    "/transactions?limit=20": "ix_transactions_created_at_id",
    "/transactions?sort=created_at&limit=20": "ix_transactions_created_at_id",
    "/transactions?created_from=2024-01-05&created_to=2024-01-06&limit=20": "ix_transactions_created_at_id",
    "/transactions?product_id=7&limit=20": "ix_transactions_product_id_created_at_id",
    "/transactions/product/7?limit=20": "ix_transactions_product_id_created_at_id",
    "/products/7": "uq_transactions_product_id_seq|sqlite_autoindex_transactions_1",
    "/transactions?reason=damage&limit=20": "ix_transactions_reason_created_at_id",
    "/transactions?reference=STANDING&limit=20": "ix_transactions_reference_created_at_id",
    "/transactions?batch_id=large&limit=20": "ix_transactions_batch_id_created_at_id",
}
# Where few rows match, or the key is unique, sorting them costs nothing.
FOUND = {
    f"/products?{'&'.join(f'sku=SKU-{number}' for number in range(100, 110))}": (
        "uq_products_sku_folded|sqlite_autoindex_products_1"
    ),
    f"/products?{'&'.join(f'id={number}' for number in range(100, 200))}": "pk_products|INTEGER PRIMARY KEY",
    f"/transactions?{'&'.join(f'id={number}' for number in range(100, 200))}": "pk_transactions|INTEGER PRIMARY KEY",
    f"/transactions?{'&'.join(f'sku=SKU-{number}' for number in range(100, 200))}": "ix_transactions_",
    "/transactions?sku=SKU-7": "ix_transactions_product_id_created_at_id",
    "/products?category_id=7": "ix_products_category_id_id",
    "/transactions?reference=INV-77": "ix_transactions_reference_created_at_id",
    "/transactions?batch_id=small": "ix_transactions_batch_id_created_at_id",
    "/transactions?product_id=77": "ix_transactions_product_id_created_at_id",
    "/products?sku=sku-77": "uq_products_sku_folded|sqlite_autoindex_products_1",
    "/products?sort=sku": "uq_products_sku_folded|sqlite_autoindex_products_1",
}
SORT = re.compile(r"USE TEMP B-TREE FOR ORDER BY|-> +Sort ")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=ENGINES)
def app(request: pytest.FixtureRequest, environments: dict[str, Environments]) -> Iterator[Flask]:
    with environments[request.param].one() as environment:
        yield environment.app


@pytest.fixture(scope="module")
def warehouse(app: Flask) -> FlaskClient:
    """4,000 products and 20,000 movements, with planner statistics."""
    timestamps = [START + timedelta(minutes=number) for number in range(20_000)]
    with app.app_context():
        db.session.execute(insert(Category), [{"name": name, "name_folded": name} for name in map(str, range(20))])
        db.session.execute(
            insert(Product),
            [
                {
                    "sku": f"SKU-{number}",
                    "sku_folded": f"sku-{number}",
                    "name": f"Product {number}",
                    "name_folded": f"product {number}",
                    "price": number,
                    "category_id": 7 if number % 100 == 0 else number % 6 + 1,
                    "created_at": timestamps[number],
                    "updated_at": timestamps[number],
                }
                for number in range(1, 4_001)
            ],
        )
        db.session.execute(insert(Batch), [{"id": name, "kind": "batch"} for name in ("small", "large")])
        db.session.execute(insert(Transaction), [movement(number, timestamps[number]) for number in range(20_000)])
        db.session.commit()
        with db.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql("ANALYZE")
    return app.test_client()


def movement(number: int, timestamp: datetime) -> dict[str, Any]:
    """One in 66 has the product, reason, reference and batch that the tests query."""
    wanted = number % 66 == 0
    product_id = 7 if wanted else number % 1_000 + 1
    return {
        "product_id": product_id,
        "sku": f"SKU-{product_id}",
        "transaction_type": "adjustment",
        "quantity": 1,
        "delta": 1,
        "balance_after": 1,
        "seq": number + 1,
        "reason": "damage" if wanted else "other",
        "reference": "STANDING" if wanted else f"INV-{number // 5}",
        "batch_id": "large" if wanted else ("small" if number < 20 else None),
        "xid": 0,
        "created_at": timestamp,
    }


@contextmanager
def plans_of(app: Flask) -> Iterator[list[str]]:
    """Collects the query plan of every ordered SELECT."""
    plans: list[str] = []

    def explain(statement: str, parameters: Any) -> None:
        if "ORDER BY" in statement and not statement.startswith("EXPLAIN"):
            with engine_of(app).connect() as connection:
                how = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
                given = tuple(parameters) if isinstance(parameters, list) else parameters
                rows = connection.exec_driver_sql(f"{how} {statement}", given)
                plans.append("\n".join(str(row[-1]) for row in rows))

    with watched(app, after=explain):
        yield plans


def plans_for(app: Flask, client: FlaskClient, address: str) -> str:
    """The query plans of a list and its next page."""
    with plans_of(app) as plans:
        answer = client.get(address)
        assert answer.status_code == 200
        if following := re.match("<([^>]+)>", answer.headers.get("Link", "")):
            assert listed(client.get(following[1]))
    return "\n\n".join([address, *plans])


def test_lists_are_read_in_order_from_an_index(app: Flask, warehouse: FlaskClient) -> None:
    for address, index in IN_ORDER.items():
        found = plans_for(app, warehouse, address)
        assert found.count("\n\n") == len(re.findall(index, found)) > 0, found
        assert not SORT.search(found), found


@pytest.mark.parametrize("query", ["limit=20", "after=now"])
def test_feeds_are_read_in_order_from_an_index(app: Flask, warehouse: FlaskClient, query: str) -> None:
    for feed, table in {"products": "product_changes", "transactions": "transactions"}.items():
        with plans_of(app) as plans:
            listed(warehouse.get(f"/{feed}/feed?{query}"))
        (plan,) = plans
        # Where almost all rows follow, SQLite reads the table itself, which has the same order.
        assert re.search(rf"ix_{table}_xid_id|SEARCH {table} USING INTEGER PRIMARY KEY \(rowid>\?\)", plan), plan
        assert not SORT.search(plan), plan


def test_feeds_seek_to_their_cursor(app: Flask, warehouse: FlaskClient) -> None:
    """Not only to its transaction ID: on SQLite all rows have the same."""
    for feed in ("products", "transactions"):
        following = re.search("<([^>]+)>", warehouse.get(f"/{feed}/feed?limit=20").headers["Link"])
        assert following
        with plans_of(app) as plans:
            assert len(listed(warehouse.get(following[1]))) > 0
        (plan,) = plans
        assert re.search(r"xid=\? AND id>\?|\(rowid>\?\)|Index Cond: .*ROW\(xid, id\) > ROW\(", plan), plan


def test_selective_filters_use_an_index(app: Flask, warehouse: FlaskClient) -> None:
    for address, index in FOUND.items():
        found = plans_for(app, warehouse, address)
        assert re.search(index, found), found


def test_deep_page_seeks_to_its_cursor(app: Flask, warehouse: FlaskClient) -> None:
    for address in ("/transactions?skip=10000", "/transactions/product/7?skip=150", "/products?sort=name&skip=800"):
        following = re.search('<([^>]+)>; rel="next"', warehouse.get(address).headers["Link"])
        assert following
        with plans_of(app) as plans:
            warehouse.get(following[1])
        (plan,) = plans
        assert re.search(r"(created_at<|name_folded>)\?|Index Cond: .*(created_at <=|name_folded.* >=) ", plan), plan


def test_movements_of_a_batch_find_their_products_by_index_and_are_joined_once(
    app: Flask, warehouse: FlaskClient
) -> None:
    """A second join of the lines with the products that they moved would compare each with each."""
    del warehouse
    with app.app_context(), begin(WRITE) as connection:
        prefer_indexes(connection)
        plans = []
        for statement in record_many(connection.dialect.name, LEDGER.c.id, LEDGER.c.product_id):
            compiled = statement.plan(connection.dialect)
            assert compiled
            how = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
            given: Any = compiled.values({"lines": "[]", "new_batch_id": "b", "new_actor": None})
            given = tuple(given) if isinstance(given, list) else given
            plans.append("\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{how} {compiled.text}", given)))
    for plan in plans:
        assert re.search("Index Scan using pk_products|SEARCH products USING INTEGER PRIMARY KEY", plan), plan
        assert len(re.findall("Function Scan on jsonb_array_elements|SCAN lines VIRTUAL TABLE", plan)) == 1, plan
