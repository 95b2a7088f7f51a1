"""Every list is served by an index: its rows are found and already in order, however many there are."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, insert

from inventory.database.base import db
from inventory.models.category import Category
from inventory.models.product import Product
from inventory.models.transaction import Batch, Transaction
from tests.builders import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient

START = datetime(2024, 1, 1, tzinfo=UTC)
# What is asked for where many rows answer, and the index that has them in order.
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
    "/products/7": "ix_transactions_product_id_created_at_id",
    "/transactions?reason=damage&limit=20": "ix_transactions_reason_created_at_id",
    "/transactions?reference=STANDING&limit=20": "ix_transactions_reference_created_at_id",
    "/transactions?batch_id=large&limit=20": "ix_transactions_batch_id_created_at_id",
}
# Where few rows answer, or the key is unique, a sort of what was found costs nothing.
FOUND = {
    "/transactions?sku=SKU-7": "ix_transactions_product_id_created_at_id",
    "/products?category_id=7": "ix_products_category_id_id",
    "/transactions?reference=INV-77": "ix_transactions_reference_created_at_id",
    "/transactions?batch_id=small": "ix_transactions_batch_id_created_at_id",
    "/transactions?product_id=77": "ix_transactions_product_id_created_at_id",
    "/products?sku=sku-77": "uq_products_sku_folded|sqlite_autoindex_products_1",
    "/products?sort=sku": "uq_products_sku_folded|sqlite_autoindex_products_1",
}
SORT = re.compile(r"USE TEMP B-TREE FOR ORDER BY|-> +Sort ")


@pytest.fixture
def warehouse(app: Flask, client: FlaskClient) -> FlaskClient:
    """4,000 products and 20,000 movements, and what planners want to know of them."""
    moments = [START + timedelta(minutes=number) for number in range(20_000)]
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
                    "created_at": moments[number],
                    "updated_at": moments[number],
                }
                for number in range(1, 4_001)
            ],
        )
        db.session.execute(insert(Batch), [{"id": name, "kind": "batch"} for name in ("small", "large")])
        db.session.execute(insert(Transaction), [movement(number, moments[number]) for number in range(20_000)])
        db.session.commit()
        with db.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql("ANALYZE")
    return client


def movement(number: int, moment: datetime) -> dict[str, Any]:
    """One in 66 is of the product, reason, reference and batch that the tests ask for."""
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
        "created_at": moment,
    }


@contextmanager
def plans_of(app: Flask) -> Iterator[list[str]]:
    """Collects the plan of every ordered SELECT that is run."""
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if "ORDER BY" in statement and not statement.startswith("EXPLAIN"):
            how = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
            rows = connection.exec_driver_sql(f"{how} {statement}", parameters)
            plans.append("\n".join(str(row[-1]) for row in rows))

    with app.app_context():
        engine = db.engine
    event.listen(engine, "after_cursor_execute", explain)
    yield plans
    event.remove(engine, "after_cursor_execute", explain)


def plans_for(app: Flask, client: FlaskClient, address: str) -> str:
    """How the rows at an address and at its next page are found."""
    with plans_of(app) as plans:
        answer = client.get(address)
        assert answer.status_code == 200
        if following := re.match("<([^>]+)>", answer.headers.get("Link", "")):
            assert listed(client.get(following[1]))
    return "\n\n".join([address, *plans])


def test_lists_are_read_from_an_index_that_has_them_in_order(app: Flask, warehouse: FlaskClient) -> None:
    for address, index in IN_ORDER.items():
        found = plans_for(app, warehouse, address)
        assert found.count("\n\n") == found.count(index) > 0, found
        assert not SORT.search(found), found


def test_few_rows_are_found_by_an_index(app: Flask, warehouse: FlaskClient) -> None:
    for address, index in FOUND.items():
        found = plans_for(app, warehouse, address)
        assert re.search(index, found), found


def test_page_deep_in_a_list_begins_where_the_last_one_ended(app: Flask, warehouse: FlaskClient) -> None:
    for address in ("/transactions?skip=15000", "/transactions/product/7?skip=150", "/products?sort=name&skip=800"):
        following = re.search('<([^>]+)>; rel="next"', warehouse.get(address).headers["Link"])
        assert following
        with plans_of(app) as plans:
            warehouse.get(following[1])
        (plan,) = plans
        assert re.search(r"(created_at<|name_folded>)\?|Index Cond: .*(created_at <=|name_folded.* >=) ", plan), plan
