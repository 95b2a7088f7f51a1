"""Makes what a test needs through the API, with valid values unless the test gives others."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
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


def error_of(response: TestResponse) -> tuple[int, str]:
    """Status and slug of an error, in the one envelope that all errors have."""
    content = body(response)
    assert content.keys() - {"details"} == {"error", "message", "code"}
    assert content["code"] == response.status_code
    return response.status_code, content["error"]


def invalid_fields(response: TestResponse) -> dict[str, set[str]] | None:
    """The fields that a validation error names, by location; None for any other answer."""
    if response.status_code != 422:
        return None
    assert error_of(response) == (422, "validation_error")
    return {location: set(fields) for location, fields in body(response)["details"].items()}


def category(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    response = client.post("/categories", json={"name": f"Category {next(numbers)}"} | fields)
    assert response.status_code == 201, response.text
    return body(response)


def product(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    """A product; in a category of its own unless ``category_id`` is given."""
    number = next(numbers)
    row = {"sku": f"SKU-{number}", "name": f"Product {number}", "price": 10} | fields
    if "category_id" not in row:
        row["category_id"] = category(client)["id"]
    response = client.post("/products", json=row)
    assert response.status_code == 201, response.text
    return body(response)


def insert_products(app: Flask, category_id: int, products: Iterable[dict[str, Any]]) -> None:
    """Many products at once, straight into the database; stock that they are given has no movements behind it."""
    rows = [product_row(category_id) | fields for fields in products]
    has_stock = any("quantity_on_hand" in row for row in rows)
    with app.app_context():
        with unprotected("products") if has_stock else nullcontext():
            db.session.add_all([Product(**row) for row in rows])
            db.session.flush()
        db.session.commit()


def product_row(category_id: int) -> dict[str, Any]:
    number = next(numbers)
    return {"sku": f"SKU-{number}", "name": f"Product {number}", "price": 10, "category_id": category_id}


def transaction(
    client: FlaskClient, product_id: int, transaction_type: str, quantity: int, **fields: Any
) -> dict[str, Any]:
    row = {"product_id": product_id, "transaction_type": transaction_type, "quantity": quantity} | fields
    response = client.post("/transactions", json=row)
    assert response.status_code == 201, response.text
    return body(response)


def insert_transactions(app: Flask, product_id: int, times: Iterable[datetime]) -> None:
    """Ledger rows of given times, straight into the database; the service itself takes the time as it is."""
    with app.app_context():
        for seq, time in enumerate(times, start=1):
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
                    created_at=time,
                )
            )
        db.session.commit()


@contextmanager
def unprotected(table: str) -> Iterator[None]:
    """Disable a table's triggers within the session's transaction, for what only a test may write."""
    connection = db.session.connection()
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        yield
        connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        return
    found = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?"
    triggers = connection.exec_driver_sql(found, (table,)).all()
    for name, _definition in triggers:
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    yield
    for _name, definition in triggers:
        connection.exec_driver_sql(definition)


INCONSISTENT = """
SELECT p.id FROM products p LEFT JOIN transactions t ON t.product_id = p.id
GROUP BY p.id, p.quantity_on_hand, p.last_seq
HAVING p.quantity_on_hand <> COALESCE(SUM(t.delta), 0) OR p.last_seq <> COUNT(t.id)
    OR p.last_seq <> COALESCE(MAX(t.seq), 0) OR p.quantity_on_hand < 0
UNION
SELECT t.product_id FROM transactions t LEFT JOIN transactions b ON b.product_id = t.product_id AND b.seq = t.seq - 1
WHERE t.balance_after <> COALESCE(b.balance_after, 0) + t.delta OR t.created_at < b.created_at
"""


def assert_ledger_is_consistent(app: Flask) -> None:
    """The invariant: every quantity is the sum of its deltas and the balance of its last row, without a gap."""
    with app.app_context():
        assert db.session.execute(text(INCONSISTENT)).all() == []


def contents(app: Flask, *, but: str | None = None) -> dict[str, list[Any]]:
    """Every row of every table, or of all but one."""
    with app.app_context():
        return {
            table.name: [tuple(row) for row in db.session.execute(select(table).order_by(*table.primary_key))]
            for table in Base.metadata.sorted_tables
            if table.name != but
        }


@contextmanager
def nothing_changes(app: Flask, *, but: str | None = None) -> Iterator[None]:
    before = contents(app, but=but)
    yield
    assert contents(app, but=but) == before
