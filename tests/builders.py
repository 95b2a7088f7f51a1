"""Makes what a test needs through the API, with values that are sound unless the test says otherwise."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, text

from inventory.database.base import Base, db
from inventory.models.product import Product
from inventory.models.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

numbers = count(1)


def body(response: TestResponse) -> dict[str, Any]:
    content: dict[str, Any] = response.get_json()
    return content


def listed(response: TestResponse) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    content: list[dict[str, Any]] = response.get_json()
    return content


def refusal(response: TestResponse) -> tuple[int, str]:
    """Status and slug of an error, in the one envelope that all errors have."""
    content = body(response)
    assert content.keys() - {"details"} == {"error", "message", "code"}
    assert content["code"] == response.status_code
    return response.status_code, content["error"]


def refused_fields(response: TestResponse) -> dict[str, set[str]] | None:
    """The fields that a validation error names, by location; None for any other answer."""
    if response.status_code != 422:
        return None
    assert refusal(response) == (422, "validation_error")
    return {location: set(fields) for location, fields in body(response)["details"].items()}


def category(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    response = client.post("/categories", json={"name": f"Category {next(numbers)}"} | fields)
    assert response.status_code == 201, response.text
    return body(response)


def product(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    """A product; in a category of its own unless ``category_id`` is given."""
    number = next(numbers)
    facts = {"sku": f"SKU-{number}", "name": f"Product {number}", "price": 10} | fields
    if "category_id" not in facts:
        facts["category_id"] = category(client)["id"]
    response = client.post("/products", json=facts)
    assert response.status_code == 201, response.text
    return body(response)


def shelve(app: Flask, category_id: int, products: Iterable[dict[str, Any]]) -> None:
    """Many products at once, straight into the database and without stock."""
    with app.app_context():
        for facts in products:
            number = next(numbers)
            row = {"sku": f"SKU-{number}", "name": f"Product {number}", "price": 10, "category_id": category_id}
            db.session.add(Product(**(row | facts)))
        db.session.commit()


def transaction(
    client: FlaskClient, product_id: int, transaction_type: str, quantity: int, **fields: Any
) -> dict[str, Any]:
    facts = {"product_id": product_id, "transaction_type": transaction_type, "quantity": quantity} | fields
    response = client.post("/transactions", json=facts)
    assert response.status_code == 201, response.text
    return body(response)


def book(app: Flask, product_id: int, moments: Iterable[datetime]) -> None:
    """Ledger rows of given times, straight into the database; the service itself takes the time as it is."""
    with app.app_context():
        for seq, moment in enumerate(moments, start=1):
            db.session.execute(
                insert(Transaction).values(
                    product_id=product_id,
                    sku="BOOKED",
                    transaction_type="purchase",
                    quantity=1,
                    delta=1,
                    balance_after=seq,
                    seq=seq,
                    xid=0,
                    created_at=moment,
                )
            )
        db.session.commit()


UNSOUND = """
SELECT p.id FROM products p LEFT JOIN transactions t ON t.product_id = p.id
GROUP BY p.id, p.quantity_on_hand, p.last_seq
HAVING p.quantity_on_hand <> COALESCE(SUM(t.delta), 0) OR p.last_seq <> COUNT(t.id)
    OR p.last_seq <> COALESCE(MAX(t.seq), 0) OR p.quantity_on_hand < 0
UNION
SELECT t.product_id FROM transactions t LEFT JOIN transactions b ON b.product_id = t.product_id AND b.seq = t.seq - 1
WHERE t.balance_after <> COALESCE(b.balance_after, 0) + t.delta OR t.created_at < b.created_at
"""


def assert_ledger_is_sound(app: Flask) -> None:
    """The invariant: every quantity is the sum of its deltas and the balance of its last row, without a gap."""
    with app.app_context():
        assert db.session.execute(text(UNSOUND)).all() == []


def contents(app: Flask) -> dict[str, list[Any]]:
    """Every row of every table."""
    with app.app_context():
        return {
            table.name: [tuple(row) for row in db.session.execute(select(table).order_by(*table.primary_key))]
            for table in Base.metadata.sorted_tables
        }


@contextmanager
def nothing_changes(app: Flask) -> Iterator[None]:
    before = contents(app)
    yield
    assert contents(app) == before
