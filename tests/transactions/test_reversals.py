"""Reversals: a transaction or a batch is reversed once, by opposite rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from inventory.database.base import begin, db
from inventory.database.engines import WRITE
from inventory.fields import MAX_STOCK
from inventory.models.transaction import Transaction
from tests import postgresql
from tests.builders import (
    assert_ledger_is_consistent,
    body,
    category,
    error_of,
    invalid_fields,
    listed,
    nothing_changes,
    product,
    transaction,
)
from tests.conftest import on_postgresql
from tests.transactions.endpoints import line

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

NOT_REVERSIBLE = (409, "not_reversible")
ALREADY_REVERSED = (409, "already_reversed")
NOT_FOUND = (404, "transaction_not_found")


def send(client: FlaskClient, transaction_id: int, **fields: Any) -> TestResponse:
    return client.post(f"/transactions/{transaction_id}/reversal", json=fields)


def reversal(client: FlaskClient, transaction_id: int, **fields: Any) -> dict[str, Any]:
    response = send(client, transaction_id, **fields)
    assert response.status_code == 201, response.text
    return body(response)


def batch(client: FlaskClient, *lines: Any) -> dict[str, Any]:
    response = client.post("/transactions/batch", json=lines)
    assert response.status_code == 201, response.text
    return body(response)


def send_batch(client: FlaskClient, batch_id: str, **fields: Any) -> TestResponse:
    return client.post(f"/transactions/batch/{batch_id}/reversal", json=fields)


def stock(client: FlaskClient, product_id: int) -> int:
    quantity: int = body(client.get(f"/products/{product_id}"))["quantity_on_hand"]
    return quantity


def history(client: FlaskClient, product_id: int) -> list[dict[str, Any]]:
    return listed(client.get(f"/transactions?product_id={product_id}"))


def movement(client: FlaskClient, kind: str) -> dict[str, Any]:
    """The newest row of a product that started with a stock of 40, recorded by a transaction of this kind."""
    bolt = product(client, quantity_on_hand=40)["id"]
    match kind:
        case "opening":
            pass
        case "count":
            assert client.post(f"/products/{bolt}/counts", json={"counted_quantity": 33}).status_code == 201
        case "put":
            assert client.put(f"/products/{bolt}", json={"quantity_on_hand": 50}).status_code == 200
        case "loss":
            transaction(client, bolt, "adjustment", -4, reason="loss")
        case _:
            transaction(client, bolt, kind, 6)
    return history(client, bolt)[0]


@pytest.mark.parametrize("kind", ["purchase", "sale", "adjustment", "loss", "opening", "count", "put"])
def test_reversal_records_opposite_transaction(app: Flask, client: FlaskClient, kind: str) -> None:
    row = movement(client, kind)
    contra = reversal(client, row["id"], reference="R-7", notes="typed wrong")
    expected = {
        "product_id": row["product_id"],
        "sku": row["sku"],
        "transaction_type": "adjustment",
        "reason": "reversal",
        "quantity": -row["delta"],
        "delta": -row["delta"],
        "balance_after": row["balance_after"] - row["delta"],
        "seq": row["seq"] + 1,
        "reverses_id": row["id"],
        "batch_id": None,
        "reference": "R-7",
        "notes": "typed wrong",
    }
    assert {name: contra[name] for name in expected} == expected
    assert stock(client, row["product_id"]) == row["balance_after"] - row["delta"]
    assert_ledger_is_consistent(app)


def test_reversal_leaves_original_row_unchanged(client: FlaskClient) -> None:
    row = movement(client, "sale")
    response = send(client, row["id"])
    assert body(client.get(f"/transactions/{row['id']}")) == row
    assert body(client.get(response.headers["Location"])) == body(response)


def test_reversal_needs_no_body(client: FlaskClient) -> None:
    row = movement(client, "sale")
    response = client.post(f"/transactions/{row['id']}/reversal")
    assert response.status_code == 201
    assert (body(response)["reference"], body(response)["notes"]) == (None, None)


@pytest.mark.parametrize("fields", [{"quantity": 1}, {"reference": "x" * 101}, {"notes": 5}])
def test_reversal_rejects_invalid_fields(app: Flask, client: FlaskClient, fields: dict[str, Any]) -> None:
    row = movement(client, "sale")
    with nothing_changes(app):
        assert invalid_fields(send(client, row["id"], **fields)) == {"json": set(fields)}


def test_second_reversal_returns_409(app: Flask, client: FlaskClient) -> None:
    row = movement(client, "sale")
    reversal(client, row["id"])
    with nothing_changes(app):
        assert error_of(send(client, row["id"])) == ALREADY_REVERSED


def test_two_transactions_of_one_product_are_reversible(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    first, second = transaction(client, bolt, "sale", 4)["id"], transaction(client, bolt, "sale", 5)["id"]
    assert [reversal(client, first)["balance_after"], reversal(client, second)["balance_after"]] == [5, 10]
    assert_ledger_is_consistent(app)


def test_concurrent_reversals_record_one(app: Flask, client: FlaskClient) -> None:
    row = movement(client, "sale")
    with ThreadPoolExecutor(6) as pool:
        responses = list(pool.map(lambda _copy: send(app.test_client(), row["id"]), range(6)))
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [201, 409, 409, 409, 409, 409]
    assert {error_of(response) for response in responses if response.status_code == 409} == {ALREADY_REVERSED}
    assert stock(client, row["product_id"]) == 40
    assert_ledger_is_consistent(app)


def test_database_rejects_second_reversal_row(app: Flask, client: FlaskClient) -> None:
    row = movement(client, "sale")
    contra = reversal(client, row["id"])
    with app.app_context():
        stored = db.session.execute(select(Transaction.__table__).where(Transaction.id == contra["id"])).one()
        duplicate = {**stored._mapping, "id": contra["id"] + 1, "seq": contra["seq"] + 1}  # noqa: SLF001
        with pytest.raises(IntegrityError, match="reverses_id"):
            db.session.execute(insert(Transaction).values(duplicate))
        db.session.rollback()


def test_reversal_of_reversal_returns_409(app: Flask, client: FlaskClient) -> None:
    contra = reversal(client, movement(client, "sale")["id"])
    with nothing_changes(app):
        assert error_of(send(client, contra["id"])) == NOT_REVERSIBLE


def test_reversal_of_count_without_difference_returns_409(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=40)["id"]
    row = body(client.post(f"/products/{bolt}/counts", json={"counted_quantity": 40}))
    with nothing_changes(app):
        assert error_of(send(client, row["id"])) == NOT_REVERSIBLE


def test_reversal_of_sold_purchase_returns_400(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)["id"]
    purchase = transaction(client, bolt, "purchase", 10)["id"]
    transaction(client, bolt, "sale", 4)
    with nothing_changes(app):
        response = send(client, purchase)
    assert error_of(response) == (400, "insufficient_stock")
    assert body(response)["details"] == {"available": 6, "requested": 10}
    assert body(response)["message"] == "Cannot remove 10 units: only 6 available"


def test_reversal_accepts_inactive_product(client: FlaskClient) -> None:
    row = movement(client, "sale")
    assert client.patch(f"/products/{row['product_id']}", json={"is_active": False}).status_code == 200
    assert reversal(client, row["id"])["balance_after"] == 40


def test_reversal_of_sale_may_not_exceed_maximum_stock(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=1)["id"]
    sale = transaction(client, bolt, "sale", 1)["id"]
    batch(client, *[line(bolt, "purchase", 10**9)] * 1_000)
    assert stock(client, bolt) == MAX_STOCK
    with nothing_changes(app):
        assert invalid_fields(send(client, sale)) == {"json": {"quantity"}}


@pytest.mark.parametrize("transaction_id", [999, 0, 2**63 - 1, 2**63, 10**30])
def test_reversal_of_unknown_transaction_returns_404(app: Flask, client: FlaskClient, transaction_id: int) -> None:
    movement(client, "sale")
    with nothing_changes(app):
        assert error_of(send(client, transaction_id)) == NOT_FOUND


# Batches


def test_batch_reversal_records_opposite_batch(app: Flask, client: FlaskClient) -> None:
    bolt, nut = product(client, quantity_on_hand=10)["id"], product(client, quantity_on_hand=10)["id"]
    original = batch(client, line(bolt, "sale", 4), line(nut, "purchase", 5), line(bolt, "adjustment", -1))
    response = send_batch(client, original["batch_id"], reference="R-8", notes="all wrong")
    assert response.status_code == 201
    contra = body(response)
    rows = contra["transactions"]
    assert contra["batch_id"] != original["batch_id"]
    assert {row["batch_id"] for row in rows} == {contra["batch_id"]}
    assert {(row["transaction_type"], row["reason"], row["reference"], row["notes"]) for row in rows} == {
        ("adjustment", "reversal", "R-8", "all wrong")
    }
    expected = {row["id"]: (row["product_id"], -row["delta"]) for row in original["transactions"]}
    assert {row["reverses_id"]: (row["product_id"], row["delta"]) for row in rows} == expected
    assert body(client.get(response.headers["Location"])) == contra
    assert (stock(client, bolt), stock(client, nut)) == (10, 10)
    assert_ledger_is_consistent(app)


def test_batch_reversal_needs_no_body(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    original = batch(client, line(bolt, "sale", 4))
    assert client.post(f"/transactions/batch/{original['batch_id']}/reversal").status_code == 201
    assert stock(client, bolt) == 10


def test_batch_reversal_adds_stock_first_and_newest_rows_first(client: FlaskClient) -> None:
    """Reversed in its own order, this batch would take the stock below zero."""
    bolt = product(client, quantity_on_hand=5)["id"]
    original = batch(
        client, line(bolt, "purchase", 9), line(bolt, "sale", 6), line(bolt, "purchase", 1), line(bolt, "sale", 7)
    )
    purchase, sale, purchase_2, sale_2 = (row["id"] for row in original["transactions"])
    rows = body(send_batch(client, original["batch_id"]))["transactions"]
    assert [(row["reverses_id"], row["balance_after"]) for row in rows] == [
        (sale_2, 9),
        (sale, 15),
        (purchase_2, 14),
        (purchase, 5),
    ]


def test_second_batch_reversal_returns_409(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    original = batch(client, line(bolt, "sale", 4))
    assert send_batch(client, original["batch_id"]).status_code == 201
    with nothing_changes(app):
        assert error_of(send_batch(client, original["batch_id"])) == ALREADY_REVERSED
        assert error_of(send(client, original["transactions"][0]["id"])) == ALREADY_REVERSED


def test_concurrent_batch_reversals_record_one(app: Flask, client: FlaskClient) -> None:
    bolt, nut = product(client, quantity_on_hand=10)["id"], product(client, quantity_on_hand=10)["id"]
    original = batch(client, line(nut, "sale", 4), line(bolt, "sale", 4))
    with ThreadPoolExecutor(5) as pool:
        responses = list(pool.map(lambda _n: send_batch(app.test_client(), original["batch_id"]), range(5)))
    assert sorted(response.status_code for response in responses) == [201, 409, 409, 409, 409]
    assert (stock(client, bolt), stock(client, nut)) == (10, 10)
    assert_ledger_is_consistent(app)


def test_batch_reversal_returns_409_when_a_line_is_reversed(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    original = batch(client, line(bolt, "sale", 4), line(bolt, "sale", 3))
    contra = reversal(client, original["transactions"][1]["id"])
    with nothing_changes(app):
        response = send_batch(client, original["batch_id"])
    assert error_of(response) == ALREADY_REVERSED
    assert body(response)["details"] == {"transaction_ids": [contra["reverses_id"]]}


def test_batch_reversal_error_lists_first_100_reversed_rows(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=200)["id"]
    original = batch(client, *[line(bolt, "sale", 1)] * 102)
    numbers = [row["id"] for row in original["transactions"]]
    for number in reversed(numbers[1:]):
        reversal(client, number)
    assert body(send_batch(client, original["batch_id"]))["details"] == {"transaction_ids": numbers[1:101]}


def test_single_line_of_batch_is_reversible(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    original = batch(client, line(bolt, "sale", 4), line(bolt, "sale", 3))
    contra = reversal(client, original["transactions"][0]["id"])
    assert (contra["balance_after"], contra["batch_id"]) == (7, None)


def test_reversal_of_batch_reversal_returns_409(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    contra = body(send_batch(client, batch(client, line(bolt, "sale", 4))["batch_id"]))
    with nothing_changes(app):
        assert error_of(send_batch(client, contra["batch_id"])) == NOT_REVERSIBLE
        assert error_of(send(client, contra["transactions"][0]["id"])) == NOT_REVERSIBLE


def test_batch_reversal_lists_every_row_short_of_stock(app: Flask, client: FlaskClient) -> None:
    bolt, nut, washer = (product(client)["id"] for _product in range(3))
    original = batch(client, line(bolt, "purchase", 5), line(nut, "purchase", 6), line(washer, "purchase", 7))
    transaction(client, bolt, "sale", 1)
    transaction(client, washer, "sale", 2)
    with nothing_changes(app):
        response = send_batch(client, original["batch_id"])
    assert error_of(response) == (400, "batch_rejected")
    errors = body(response)["details"]["errors"]
    assert [(error["line"], error["error"], error["available"], error["requested"]) for error in errors] == [
        (0, "insufficient_stock", 4, 5),
        (2, "insufficient_stock", 5, 7),
    ]


def test_batch_reversal_reverses_import(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, sku="BOLT", quantity_on_hand=10)["id"]
    file = "sku,name,price,category,quantity_on_hand\nBOLT,Bolt,1,Metal,25\nNUT,Nut,1,Metal,7\n"
    assert client.post("/import/products", data=file, content_type="text/csv").status_code == 200
    row = history(client, bolt)[0]
    assert send_batch(client, row["batch_id"]).status_code == 201
    assert {p["sku"]: p["quantity_on_hand"] for p in listed(client.get("/products"))} == {"BOLT": 10, "NUT": 0}
    assert_ledger_is_consistent(app)


SERIES = {
    "postgresql": "SELECT n FROM generate_series(1, :count) AS g(n)",
    "sqlite": "WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < :count) SELECT n FROM g",
}


def import_at_once(app: Flask, batch_id: str, category_id: int, count: int) -> None:
    """Write the rows of an import of new products with 5 units each, in bulk in the database."""
    with app.app_context(), begin(WRITE) as connection:
        products = text(f"""
            INSERT INTO products (sku, sku_folded, name, name_folded, price, category_id, created_at,
                updated_at)
            SELECT 'S' || n, 's' || n, 'n', 'n', 1, :category_id, clock_timestamp(), clock_timestamp()
            FROM ({SERIES[db.engine.dialect.name]}) AS numbers
        """)
        batch = text("INSERT INTO batches (id, kind, rows, created_at) VALUES (:id, 'import', 1, clock_timestamp())")
        rows = text("""
            INSERT INTO transactions (product_id, sku, transaction_type, quantity, delta, balance_after, seq, reason,
                batch_id, xid, created_at)
            SELECT id, sku, 'adjustment', 5, 5, 5, 1, 'opening', :id, 0, updated_at FROM products ORDER BY id
        """)
        db.session.execute(products, {"category_id": category_id, "count": count})
        db.session.execute(text("UPDATE products SET quantity_on_hand = 5, last_seq = 1"))
        db.session.execute(batch, {"id": batch_id})
        db.session.execute(rows, {"id": batch_id})
        connection.commit()


@pytest.mark.slow
def test_batch_reversal_checks_import_beyond_parameter_limit(app: Flask, client: FlaskClient) -> None:
    batch_id = str(uuid4())
    import_at_once(app, batch_id, category(client)["id"], 66_000)
    (last,) = listed(client.get("/transactions?limit=1&sort=-id"))
    reversal(client, last["id"])
    assert error_of(send_batch(client, batch_id)) == ALREADY_REVERSED


def test_batch_reversal_of_import_without_transactions_returns_409(app: Flask, client: FlaskClient) -> None:
    product(client, sku="BOLT", quantity_on_hand=10)
    file = "sku,location\nBOLT,A1\n"
    assert client.post("/import/products", data=file, content_type="text/csv").status_code == 200
    with app.app_context():
        batch_id = db.session.scalars(select(db.metadata.tables["batches"].c.id)).one()
    with nothing_changes(app):
        assert error_of(send_batch(client, batch_id)) == NOT_REVERSIBLE


def test_batch_reversal_of_unknown_batch_returns_404(app: Flask, client: FlaskClient) -> None:
    with nothing_changes(app):
        response = send_batch(client, str(uuid4()))
        assert error_of(response) == NOT_FOUND
        assert body(response)["message"] == "Batch not found."
        assert error_of(send_batch(client, "no-uuid")) == (404, "not_found")


@on_postgresql
def test_batch_reversal_locks_products_in_id_order(app: Flask, client: FlaskClient, database_url: str) -> None:
    bolt, nut = product(client, quantity_on_hand=9)["id"], product(client, quantity_on_hand=9)["id"]
    original = batch(client, line(nut, "sale", 1), line(bolt, "sale", 1))
    with (
        psycopg.connect(database_url) as holder,
        psycopg.connect(database_url, autocommit=True) as observer,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [bolt])
        pending = pool.submit(send_batch, app.test_client(), original["batch_id"])
        postgresql.await_blocked(observer, 1)
        observer.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE NOWAIT", [nut])
        holder.rollback()
        assert pending.result().status_code == 201


@on_postgresql
def test_reversal_after_lock_wait_sees_concurrent_reversal(app: Flask, client: FlaskClient, database_url: str) -> None:
    row = movement(client, "sale")
    with (
        psycopg.connect(database_url) as holder,
        psycopg.connect(database_url, autocommit=True) as observer,
        ThreadPoolExecutor(2) as pool,
    ):
        holder.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [row["product_id"]])
        pending = [pool.submit(send, app.test_client(), row["id"]) for _copy in range(2)]
        postgresql.await_blocked(observer, 2)
        holder.rollback()
        statuses = sorted(one.result().status_code for one in pending)
    assert statuses == [201, 409]
    assert_ledger_is_consistent(app)
