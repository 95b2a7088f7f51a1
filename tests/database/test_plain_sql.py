"""Writes that the database rejects from a plain SQL client.

The SQLite client is Python's module without any PRAGMA, so without foreign keys and recursive triggers.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.builders import body, category, error_of, nothing_changes, product, transaction
from tests.conftest import on_postgresql, on_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient

    from tests.environments import Environment

Connection = psycopg.Connection[Any] | sqlite3.Connection
INTEGRITY_ERRORS = (psycopg.IntegrityError, sqlite3.IntegrityError)


@pytest.fixture
def environment(own_environment: Environment) -> Environment:
    return own_environment


@pytest.fixture
def plain(database_url: str) -> Iterator[Connection]:
    """A connection in autocommit mode."""
    if database_url.startswith("sqlite"):
        connection: Connection = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
    else:
        connection = psycopg.connect(database_url, autocommit=True)
    yield connection
    connection.close()


@pytest.fixture
def shop(client: FlaskClient) -> None:
    """Category 1 with product 1, BOLT, 7 in stock after two rows, and product 2, NUT, unmoved; category 2 is empty."""
    full, _empty = category(client, name="Full"), category(client, name="Empty")
    bolt = product(client, sku="BOLT", category_id=full["id"], quantity_on_hand=10)
    transaction(client, bolt["id"], "sale", 3)
    product(client, sku="NUT", category_id=full["id"])


COPY_OF_NUT = """
    INSERT INTO products (sku, sku_folded, name, name_folded, price, category_id, quantity_on_hand, last_seq,
        created_at, updated_at)
    SELECT 'NEW', 'new', name, name_folded, price, {category_id}, {quantity}, {seq}, created_at, updated_at
    FROM products WHERE sku = 'NUT'
"""
REJECTED = {
    "another stock": "UPDATE products SET quantity_on_hand = 8 WHERE id = 1",
    "no stock": "UPDATE products SET quantity_on_hand = 0",
    "another stock and another field": "UPDATE products SET quantity_on_hand = 8, name = 'X' WHERE id = 1",
    "a seq without stock": "UPDATE products SET last_seq = last_seq + 2 WHERE id = 1",
    "a seq before the last": "UPDATE products SET last_seq = last_seq - 1, quantity_on_hand = 10 WHERE id = 1",
    "a seq that leaves one out": "UPDATE products SET last_seq = last_seq + 2, quantity_on_hand = 6 WHERE id = 1",
    "a new product with stock": COPY_OF_NUT.format(category_id=1, quantity=5, seq=0),
    "a new product with stock and seq": COPY_OF_NUT.format(category_id=1, quantity=5, seq=1),
    "a new product with a seq": COPY_OF_NUT.format(category_id=1, quantity=0, seq=1),
    "a new product in no category": COPY_OF_NUT.format(category_id=99, quantity=0, seq=0),
    "a product moved to no category": "UPDATE products SET category_id = 99 WHERE sku = 'NUT'",
    "deletion of a product that moved": "DELETE FROM products WHERE id = 1",
    "deletion of all products": "DELETE FROM products",
    "deletion of a category with products": "DELETE FROM categories WHERE id = 1",
    "another id for a product": "UPDATE products SET id = 99 WHERE sku = 'NUT'",
    "another id for a category": "UPDATE categories SET id = 99 WHERE name = 'Empty'",
}
REJECTED_ON_SQLITE = {
    "another stock, or nothing": "UPDATE OR IGNORE products SET quantity_on_hand = 8 WHERE id = 1",
    "another id by its other name": "UPDATE products SET rowid = 99 WHERE sku = 'NUT'",
    "replacing another product": "UPDATE OR REPLACE products SET sku_folded = 'bolt' WHERE sku = 'NUT'",
    "replacing a product's id": "UPDATE OR REPLACE products SET id = 1 WHERE sku = 'NUT'",
    "replacing another category": "UPDATE OR REPLACE categories SET name_folded = 'full' WHERE name = 'Empty'",
    "replacing a category's id": "UPDATE OR REPLACE categories SET id = 1 WHERE name = 'Empty'",
    "replacing products": "REPLACE INTO products"
    " (id, sku, sku_folded, name, name_folded, price, category_id, created_at, updated_at)"
    " SELECT id, sku, sku_folded, name, name_folded, price, category_id, created_at, updated_at"
    " FROM products WHERE sku = 'NUT'",
    "replacing products by SKU": "REPLACE INTO products"
    " (sku, sku_folded, name, name_folded, price, category_id, created_at, updated_at)"
    " SELECT sku, sku_folded, 'X', 'x', price, category_id, created_at, updated_at FROM products",
    "replacing categories": "REPLACE INTO categories SELECT * FROM categories",
    "replacing categories by name": "REPLACE INTO categories (name, name_folded, created_at, updated_at)"
    " SELECT name, name_folded, created_at, updated_at FROM categories",
}


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("what", REJECTED)
def test_plain_sql_write_is_rejected(app: Flask, plain: Connection, what: str) -> None:
    with nothing_changes(app), pytest.raises(INTEGRITY_ERRORS):
        plain.execute(REJECTED[what])


@on_sqlite
@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("what", REJECTED_ON_SQLITE)
def test_plain_sqlite_write_is_rejected(app: Flask, plain: Connection, what: str) -> None:
    with nothing_changes(app), pytest.raises(INTEGRITY_ERRORS):
        plain.execute(REJECTED_ON_SQLITE[what])


@on_postgresql
@pytest.mark.usefixtures("shop")
def test_plain_postgresql_truncate_is_rejected(app: Flask, plain: Connection) -> None:
    with nothing_changes(app), pytest.raises(INTEGRITY_ERRORS):
        plain.execute("TRUNCATE products CASCADE")


@pytest.mark.usefixtures("shop")
def test_error_message_suggests_recording_a_movement(plain: Connection) -> None:
    with pytest.raises(INTEGRITY_ERRORS, match="record a movement instead"):
        plain.execute(REJECTED["another stock"])


@pytest.mark.usefixtures("shop")
def test_plain_sql_may_change_other_catalogue_fields(client: FlaskClient, plain: Connection) -> None:
    plain.execute("UPDATE products SET name = 'Big bolt', reorder_point = 3, category_id = 2 WHERE id = 1")
    plain.execute("UPDATE categories SET name = 'Spare', name_folded = 'spare' WHERE id = 2")
    plain.execute(COPY_OF_NUT.format(category_id=2, quantity=0, seq=0))
    plain.execute("DELETE FROM products WHERE sku = 'NUT'")
    plain.execute("DELETE FROM categories WHERE id = 1")
    bolt, new = client.get("/products").get_json()
    assert (bolt["name"], bolt["reorder_point"], bolt["quantity_on_hand"], new["sku"]) == ("Big bolt", 3, 7, "NEW")
    assert [row["name"] for row in client.get("/categories").get_json()] == ["Spare"]


@pytest.mark.usefixtures("shop")
def test_api_delete_still_returns_409_with_a_reason(client: FlaskClient) -> None:
    assert error_of(client.delete("/categories/1")) == (409, "category_not_empty")
    assert error_of(client.delete("/products/1")) == (409, "product_has_history")
    assert body(client.get("/products/1"))["quantity_on_hand"] == 7
