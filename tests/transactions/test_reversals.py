"""Reversals: a movement or a batch is undone by contra rows, once only."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from inventory.database.base import db
from inventory.database.engines import begin_write
from inventory.models.product import MAX_STOCK
from inventory.models.transaction import Transaction
from tests import postgresql
from tests.builders import (
    assert_ledger_is_sound,
    body,
    category,
    listed,
    nothing_changes,
    product,
    refusal,
    refused_fields,
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


def send(client: FlaskClient, transaction_id: int, **facts: Any) -> TestResponse:
    return client.post(f"/transactions/{transaction_id}/reversal", json=facts)


def reversal(client: FlaskClient, transaction_id: int, **facts: Any) -> dict[str, Any]:
    response = send(client, transaction_id, **facts)
    assert response.status_code == 201, response.text
    return body(response)


def batch(client: FlaskClient, *lines: Any) -> dict[str, Any]:
    response = client.post("/transactions/batch", json=lines)
    assert response.status_code == 201, response.text
    return body(response)


def send_batch(client: FlaskClient, batch_id: str, **facts: Any) -> TestResponse:
    return client.post(f"/transactions/batch/{batch_id}/reversal", json=facts)


def stock(client: FlaskClient, product_id: int) -> int:
    quantity: int = body(client.get(f"/products/{product_id}"))["quantity_on_hand"]
    return quantity


def history(client: FlaskClient, product_id: int) -> list[dict[str, Any]]:
    return listed(client.get(f"/transactions/product/{product_id}"))


def movement(client: FlaskClient, kind: str) -> dict[str, Any]:
    """The newest row of a product of which 40 are in stock, made by a movement of some kind."""
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
def test_a_movement_is_undone_by_its_opposite(app: Flask, client: FlaskClient, kind: str) -> None:
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
    assert_ledger_is_sound(app)


def test_the_row_that_is_undone_stays_as_it_was(client: FlaskClient) -> None:
    row = movement(client, "sale")
    response = send(client, row["id"])
    assert body(client.get(f"/transactions/{row['id']}")) == row
    assert body(client.get(response.headers["Location"])) == body(response)


def test_a_reversal_needs_no_body(client: FlaskClient) -> None:
    row = movement(client, "sale")
    response = client.post(f"/transactions/{row['id']}/reversal")
    assert response.status_code == 201
    assert (body(response)["reference"], body(response)["notes"]) == (None, None)


@pytest.mark.parametrize("facts", [{"quantity": 1}, {"reference": "x" * 101}, {"notes": 5}])
def test_a_reversal_takes_reference_and_notes_only(app: Flask, client: FlaskClient, facts: dict[str, Any]) -> None:
    row = movement(client, "sale")
    with nothing_changes(app):
        assert refused_fields(send(client, row["id"], **facts)) == {"json": set(facts)}


def test_a_movement_is_undone_once_only(app: Flask, client: FlaskClient) -> None:
    row = movement(client, "sale")
    reversal(client, row["id"])
    with nothing_changes(app):
        assert refusal(send(client, row["id"])) == ALREADY_REVERSED


def test_two_movements_of_one_product_are_undone_each(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    first, second = transaction(client, bolt, "sale", 4)["id"], transaction(client, bolt, "sale", 5)["id"]
    assert [reversal(client, first)["balance_after"], reversal(client, second)["balance_after"]] == [5, 10]
    assert_ledger_is_sound(app)


def test_of_many_reversals_at_once_one_succeeds(app: Flask, client: FlaskClient) -> None:
    row = movement(client, "sale")
    with ThreadPoolExecutor(6) as pool:
        responses = list(pool.map(lambda _copy: send(app.test_client(), row["id"]), range(6)))
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [201, 409, 409, 409, 409, 409]
    assert {refusal(response) for response in responses if response.status_code == 409} == {ALREADY_REVERSED}
    assert stock(client, row["product_id"]) == 40
    assert_ledger_is_sound(app)


def test_the_database_refuses_a_second_contra_row(app: Flask, client: FlaskClient) -> None:
    row = movement(client, "sale")
    contra = reversal(client, row["id"])
    with app.app_context():
        stored = db.session.execute(select(Transaction.__table__).where(Transaction.id == contra["id"])).one()
        twin = {**stored._mapping, "id": contra["id"] + 1, "seq": contra["seq"] + 1}  # noqa: SLF001
        with pytest.raises(IntegrityError, match="reverses_id"):
            db.session.execute(insert(Transaction).values(twin))
        db.session.rollback()


def test_a_reversal_is_never_reversed(app: Flask, client: FlaskClient) -> None:
    contra = reversal(client, movement(client, "sale")["id"])
    with nothing_changes(app):
        assert refusal(send(client, contra["id"])) == NOT_REVERSIBLE


def test_a_count_that_changed_nothing_cannot_be_undone(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=40)["id"]
    row = body(client.post(f"/products/{bolt}/counts", json={"counted_quantity": 40}))
    with nothing_changes(app):
        assert refusal(send(client, row["id"])) == NOT_REVERSIBLE


def test_a_purchase_that_was_sold_since_cannot_be_undone(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)["id"]
    purchase = transaction(client, bolt, "purchase", 10)["id"]
    transaction(client, bolt, "sale", 4)
    with nothing_changes(app):
        response = send(client, purchase)
    assert refusal(response) == (400, "insufficient_stock")
    assert body(response)["details"] == {"available": 6, "requested": 10}
    assert body(response)["message"] == "Cannot remove 10 units: only 6 available"


def test_a_movement_of_an_inactive_product_can_be_undone(client: FlaskClient) -> None:
    row = movement(client, "sale")
    assert client.patch(f"/products/{row['product_id']}", json={"is_active": False}).status_code == 200
    assert reversal(client, row["id"])["balance_after"] == 40


def test_undoing_a_sale_may_not_pass_the_bound_of_stock(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=1)["id"]
    sale = transaction(client, bolt, "sale", 1)["id"]
    batch(client, *[line(bolt, "purchase", 10**9)] * 1_000)
    assert stock(client, bolt) == MAX_STOCK
    with nothing_changes(app):
        assert refused_fields(send(client, sale)) == {"json": {"quantity"}}


@pytest.mark.parametrize("transaction_id", [999, 0, 2**63 - 1, 2**63, 10**30])
def test_what_does_not_exist_cannot_be_undone(app: Flask, client: FlaskClient, transaction_id: int) -> None:
    movement(client, "sale")
    with nothing_changes(app):
        assert refusal(send(client, transaction_id)) == NOT_FOUND


# Batches


def test_a_batch_is_undone_by_a_batch(app: Flask, client: FlaskClient) -> None:
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
    undone = {row["id"]: (row["product_id"], -row["delta"]) for row in original["transactions"]}
    assert {row["reverses_id"]: (row["product_id"], row["delta"]) for row in rows} == undone
    assert listed(client.get(response.headers["Location"])) == rows[::-1]
    assert (stock(client, bolt), stock(client, nut)) == (10, 10)
    assert_ledger_is_sound(app)


def test_undoing_a_batch_needs_no_body(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    original = batch(client, line(bolt, "sale", 4))
    assert client.post(f"/transactions/batch/{original['batch_id']}/reversal").status_code == 201
    assert stock(client, bolt) == 10


def test_rows_that_give_back_are_undone_first_and_the_newest_before_the_older(client: FlaskClient) -> None:
    """Undone in its own order or backwards, this batch would fall below zero on its way."""
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


def test_a_batch_is_undone_once_only(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    original = batch(client, line(bolt, "sale", 4))
    assert send_batch(client, original["batch_id"]).status_code == 201
    with nothing_changes(app):
        assert refusal(send_batch(client, original["batch_id"])) == ALREADY_REVERSED
        assert refusal(send(client, original["transactions"][0]["id"])) == ALREADY_REVERSED


def test_of_many_reversals_of_a_batch_at_once_one_succeeds(app: Flask, client: FlaskClient) -> None:
    bolt, nut = product(client, quantity_on_hand=10)["id"], product(client, quantity_on_hand=10)["id"]
    original = batch(client, line(nut, "sale", 4), line(bolt, "sale", 4))
    with ThreadPoolExecutor(5) as pool:
        responses = list(pool.map(lambda _n: send_batch(app.test_client(), original["batch_id"]), range(5)))
    assert sorted(response.status_code for response in responses) == [201, 409, 409, 409, 409]
    assert (stock(client, bolt), stock(client, nut)) == (10, 10)
    assert_ledger_is_sound(app)


def test_a_batch_of_which_a_line_was_undone_already_cannot_be_undone(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    original = batch(client, line(bolt, "sale", 4), line(bolt, "sale", 3))
    undone = reversal(client, original["transactions"][1]["id"])
    with nothing_changes(app):
        response = send_batch(client, original["batch_id"])
    assert refusal(response) == ALREADY_REVERSED
    assert body(response)["details"] == {"transaction_ids": [undone["reverses_id"]]}


def test_of_the_rows_that_were_undone_already_the_first_hundred_are_named(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=200)["id"]
    original = batch(client, *[line(bolt, "sale", 1)] * 102)
    numbers = [row["id"] for row in original["transactions"]]
    for number in reversed(numbers[1:]):
        reversal(client, number)
    assert body(send_batch(client, original["batch_id"]))["details"] == {"transaction_ids": numbers[1:101]}


def test_a_line_of_a_batch_can_be_undone_alone(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    original = batch(client, line(bolt, "sale", 4), line(bolt, "sale", 3))
    contra = reversal(client, original["transactions"][0]["id"])
    assert (contra["balance_after"], contra["batch_id"]) == (7, None)


def test_the_reversal_of_a_batch_is_never_reversed(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    contra = body(send_batch(client, batch(client, line(bolt, "sale", 4))["batch_id"]))
    with nothing_changes(app):
        assert refusal(send_batch(client, contra["batch_id"])) == NOT_REVERSIBLE
        assert refusal(send(client, contra["transactions"][0]["id"])) == NOT_REVERSIBLE


def test_a_batch_that_was_sold_since_is_not_undone_and_every_row_that_cannot_be_is_listed(
    app: Flask, client: FlaskClient
) -> None:
    bolt, nut, washer = (product(client)["id"] for _product in range(3))
    original = batch(client, line(bolt, "purchase", 5), line(nut, "purchase", 6), line(washer, "purchase", 7))
    transaction(client, bolt, "sale", 1)
    transaction(client, washer, "sale", 2)
    with nothing_changes(app):
        response = send_batch(client, original["batch_id"])
    assert refusal(response) == (400, "batch_rejected")
    errors = body(response)["details"]["errors"]
    assert [(error["line"], error["error"], error["available"], error["requested"]) for error in errors] == [
        (0, "insufficient_stock", 4, 5),
        (2, "insufficient_stock", 5, 7),
    ]


def test_an_import_can_be_undone_like_a_batch(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, sku="BOLT", quantity_on_hand=10)["id"]
    file = "sku,name,price,category,quantity_on_hand\nBOLT,Bolt,1,Metal,25\nNUT,Nut,1,Metal,7\n"
    assert client.post("/import/products", data=file, content_type="text/csv").status_code == 200
    row = history(client, bolt)[0]
    assert send_batch(client, row["batch_id"]).status_code == 201
    assert {p["sku"]: p["quantity_on_hand"] for p in listed(client.get("/products"))} == {"BOLT": 10, "NUT": 0}
    assert_ledger_is_sound(app)


SERIES = {
    "postgresql": "SELECT n FROM generate_series(1, :count) AS g(n)",
    "sqlite": "WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < :count) SELECT n FROM g",
}


def import_at_once(app: Flask, batch_id: str, category_id: int, count: int) -> None:
    """What an import of new products with 5 units each leaves, written by the database alone."""
    with app.app_context():
        begin_write(db.session())
        products = text(f"""
            INSERT INTO products (sku, sku_folded, name, name_folded, price, category_id, quantity_on_hand, last_seq,
                created_at, updated_at)
            SELECT 'S' || n, 's' || n, 'n', 'n', 1, :category_id, 5, 1, clock_timestamp(), clock_timestamp()
            FROM ({SERIES[db.engine.dialect.name]}) AS numbers
        """)
        batch = text("INSERT INTO batches (id, kind, rows, created_at) VALUES (:id, 'import', 1, clock_timestamp())")
        rows = text("""
            INSERT INTO transactions (product_id, sku, transaction_type, quantity, delta, balance_after, seq, reason,
                batch_id, xid, created_at)
            SELECT id, sku, 'adjustment', 5, 5, 5, 1, 'opening', :id, 0, updated_at FROM products ORDER BY id
        """)
        db.session.execute(products, {"category_id": category_id, "count": count})
        db.session.execute(batch, {"id": batch_id})
        db.session.execute(rows, {"id": batch_id})
        db.session.commit()


def test_an_import_of_more_rows_than_a_statement_takes_is_judged_as_a_whole(app: Flask, client: FlaskClient) -> None:
    batch_id = str(uuid4())
    import_at_once(app, batch_id, category(client)["id"], 66_000)
    (last,) = listed(client.get("/transactions?limit=1&sort=-id"))
    reversal(client, last["id"])
    assert refusal(send_batch(client, batch_id)) == ALREADY_REVERSED


def test_an_import_that_moved_nothing_cannot_be_undone(app: Flask, client: FlaskClient) -> None:
    product(client, sku="BOLT", quantity_on_hand=10)
    file = "sku,location\nBOLT,A1\n"
    assert client.post("/import/products", data=file, content_type="text/csv").status_code == 200
    with app.app_context():
        batch_id = db.session.scalars(select(db.metadata.tables["batches"].c.id)).one()
    with nothing_changes(app):
        assert refusal(send_batch(client, batch_id)) == NOT_REVERSIBLE


def test_an_unknown_batch_cannot_be_undone(app: Flask, client: FlaskClient) -> None:
    with nothing_changes(app):
        response = send_batch(client, str(uuid4()))
        assert refusal(response) == NOT_FOUND
        assert body(response)["message"] == "There is no batch with this id."
        assert refusal(send_batch(client, "no-uuid")) == (404, "not_found")


@on_postgresql
def test_a_reversal_of_a_batch_locks_in_the_order_of_ids(app: Flask, client: FlaskClient, database_url: str) -> None:
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
def test_a_reversal_waits_for_the_product_and_then_finds_that_another_came_first(
    app: Flask, client: FlaskClient, database_url: str
) -> None:
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
    assert_ledger_is_sound(app)
