"""Makes what a test needs through the API, with values that are sound unless the test says otherwise."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from inventory.db import db

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

numbers = count(1)


def body(response: TestResponse) -> dict[str, Any]:
    content: dict[str, Any] = response.get_json()
    return content


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


def transaction(
    client: FlaskClient, product_id: int, transaction_type: str, quantity: int, **fields: Any
) -> dict[str, Any]:
    facts = {"product_id": product_id, "transaction_type": transaction_type, "quantity": quantity} | fields
    response = client.post("/transactions", json=facts)
    assert response.status_code == 201, response.text
    return body(response)


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
