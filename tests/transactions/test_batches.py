"""Batches: many movements, all of them or none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from inventory.models.product import MAX_STOCK
from tests import postgresql
from tests.builders import (
    assert_ledger_is_sound,
    body,
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


def send(client: FlaskClient, lines: list[Any]) -> TestResponse:
    return client.post("/transactions/batch", json={"lines": lines})


def batch(client: FlaskClient, *lines: Any) -> dict[str, Any]:
    response = send(client, list(lines))
    assert response.status_code == 201, response.text
    return body(response)


def stock(client: FlaskClient, product_id: int) -> int:
    quantity: int = body(client.get(f"/products/{product_id}"))["quantity_on_hand"]
    return quantity


def rejected_lines(response: TestResponse) -> list[dict[str, Any]]:
    """The failing lines of a refused batch, without their sentences."""
    assert refusal(response) == (400, "batch_rejected")
    details = body(response)["details"]
    assert details["error_count"] == len(details["errors"])
    return [{name: value for name, value in error.items() if name != "message"} for error in details["errors"]]


def test_lines_are_recorded_in_the_order_given_under_one_id(app: Flask, client: FlaskClient) -> None:
    bolt, nut = product(client, quantity_on_hand=10)["id"], product(client)["id"]
    recorded = batch(
        client,
        line(nut, "purchase", 7, reference="R-1"),
        line(bolt, "sale", 4, notes="first"),
        line(nut, "adjustment", -2, reason="damage"),
        line(bolt, "adjustment", 1),
    )
    rows = recorded["transactions"]
    assert [
        (row["product_id"], row["transaction_type"], row["quantity"], row["delta"], row["balance_after"], row["seq"])
        for row in rows
    ] == [
        (nut, "purchase", 7, 7, 7, 1),
        (bolt, "sale", 4, -4, 6, 2),
        (nut, "adjustment", -2, -2, 5, 2),
        (bolt, "adjustment", 1, 1, 7, 3),
    ]
    assert [(row["reason"], row["reference"], row["notes"]) for row in rows] == [
        (None, "R-1", None),
        (None, None, "first"),
        ("damage", None, None),
        ("other", None, None),
    ]
    assert {row["batch_id"] for row in rows} == {recorded["batch_id"]}
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert_ledger_is_sound(app)


def test_the_location_leads_to_the_lines(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    response = send(client, [line(bolt, "sale", 1), line(bolt, "sale", 2)])
    assert response.status_code == 201
    found = listed(client.get(response.headers["Location"]))
    assert found == body(response)["transactions"][::-1]


def test_two_batches_have_two_ids(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    first, second = (batch(client, line(bolt, "sale", 1))["batch_id"] for _time in range(2))
    assert first != second


def test_a_bare_array_is_a_batch(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    response = client.post("/transactions/batch", json=[line(bolt, "sale", 4)])
    assert response.status_code == 201
    assert stock(client, bolt) == 6


def test_products_are_named_by_id_or_by_sku(client: FlaskClient) -> None:
    bolt = product(client, sku="Größe-1", quantity_on_hand=10)["id"]
    by_sku = {"transaction_type": "sale", "quantity": 3}
    recorded = batch(client, by_sku | {"sku": " GRÖSSE-1 "}, line(bolt, "sale", 2), by_sku | {"sku": "größe-1"})
    assert [row["balance_after"] for row in recorded["transactions"]] == [7, 5, 2]
    assert {row["sku"] for row in recorded["transactions"]} == {"Größe-1"}


def test_a_line_may_use_what_an_earlier_one_brought(client: FlaskClient) -> None:
    bolt = product(client)["id"]
    recorded = batch(client, line(bolt, "purchase", 5), line(bolt, "sale", 5))
    assert [row["balance_after"] for row in recorded["transactions"]] == [5, 0]


def test_a_line_may_not_use_what_a_later_one_brings(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)["id"]
    with nothing_changes(app):
        response = send(client, [line(bolt, "sale", 5), line(bolt, "purchase", 5)])
    assert rejected_lines(response) == [{"line": 0, "error": "insufficient_stock", "available": 0, "requested": 5}]


def test_the_same_product_twice_counts_twice(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        response = send(client, [line(bolt, "sale", 6), line(bolt, "sale", 6)])
    assert rejected_lines(response) == [{"line": 1, "error": "insufficient_stock", "available": 4, "requested": 6}]


def test_an_expectation_is_held_against_the_running_balance(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    batch(client, line(bolt, "sale", 6, expected_quantity=10), line(bolt, "sale", 4, expected_quantity=4))
    assert stock(client, bolt) == 0


def test_every_failing_line_is_listed_and_nothing_is_recorded(app: Flask, client: FlaskClient) -> None:
    bolt, nut = product(client, quantity_on_hand=10)["id"], product(client, quantity_on_hand=3)["id"]
    retired = product(client, quantity_on_hand=5, is_active=False)["id"]
    with nothing_changes(app):
        response = send(
            client,
            [
                line(bolt, "sale", 8),
                line(nut, "sale", 4),
                line(999, "sale", 1),
                {"sku": "none such", "transaction_type": "purchase", "quantity": 1},
                line(retired, "sale", 1),
                line(retired, "adjustment", -1),
                line(bolt, "sale", 1, expected_quantity=10),
                line(bolt, "adjustment", -3),
                line(bolt, "sale", 2),
            ],
        )
    assert rejected_lines(response) == [
        {"line": 1, "error": "insufficient_stock", "available": 3, "requested": 4},
        {"line": 2, "error": "unknown_product"},
        {"line": 3, "error": "unknown_product"},
        {"line": 4, "error": "product_inactive"},
        {"line": 6, "error": "stale_quantity", "expected": 10, "quantity_on_hand": 2},
        {"line": 7, "error": "insufficient_stock", "available": 2, "requested": 3},
    ]
    assert body(response)["message"] == "Nothing was recorded: 6 of 9 lines cannot be."


@pytest.mark.parametrize(
    "facts",
    [
        {"transaction_type": "sale", "quantity": 11},
        {"transaction_type": "adjustment", "quantity": -11},
        {"transaction_type": "adjustment", "quantity": -1, "expected_quantity": 9},
        {"product_id": 999, "transaction_type": "sale", "quantity": 1},
    ],
)
def test_a_line_is_refused_with_the_words_that_it_would_be_alone(client: FlaskClient, facts: dict[str, Any]) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    alone = body(client.post("/transactions", json={"product_id": bolt} | facts))
    error = body(send(client, [{"product_id": bolt} | facts]))["details"]["errors"][0]
    assert error == {"line": 0, "error": alone["error"], "message": alone["message"], **alone.get("details", {})}


def test_a_thousand_lines_are_taken(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)["id"]
    recorded = batch(client, *[line(bolt, "purchase", 1)] * 1_000)
    assert [row["seq"] for row in recorded["transactions"]] == list(range(1, 1_001))
    assert stock(client, bolt) == 1_000
    assert_ledger_is_sound(app)


def test_a_thousand_of_the_longest_lines_are_taken_also_as_python_escapes_them(client: FlaskClient) -> None:
    bolt = product(client)["id"]
    longest = line(bolt, "purchase", 10**9, reference="\U0001f529" * 100, notes="\U0001f529" * 500)
    recorded = batch(client, *[longest] * 1_000)
    assert recorded["transactions"][-1]["notes"] == "\U0001f529" * 500


@pytest.mark.parametrize("count", [0, 1_001])
def test_no_line_and_more_than_a_thousand_are_refused(app: Flask, client: FlaskClient, count: int) -> None:
    bolt = product(client)["id"]
    lines = [line(bolt, "purchase", 1)] * count
    with nothing_changes(app):
        assert refused_fields(send(client, lines)) == {"json": {"lines"}}
        assert refused_fields(client.post("/transactions/batch", json=lines)) == {"json": {"lines"}}


def test_a_line_that_cannot_be_read_is_named_by_its_position(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        response = send(client, [line(bolt, "sale", 1), line(bolt, "gift", 1), line(bolt, "sale", 0), 5])
    assert refusal(response) == (422, "validation_error")
    lines = body(response)["details"]["json"]["lines"]
    assert {number: set(fields) for number, fields in lines.items()} == {
        "1": {"transaction_type"},
        "2": {"quantity"},
        "3": {"_schema"},
    }


@pytest.mark.parametrize("content", [{}, {"lines": None}, {"lines": {}}, {"lines": [], "more": 1}, 5, "text"])
def test_what_is_no_list_of_lines_is_refused(app: Flask, client: FlaskClient, content: Any) -> None:
    with nothing_changes(app):
        assert refusal(client.post("/transactions/batch", json=content)) == (422, "validation_error")


def fill(client: FlaskClient, product_id: int) -> None:
    batch(client, *[line(product_id, "purchase", 10**9)] * 1_000)


def test_the_stock_may_reach_its_bound_and_not_pass_it(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)["id"]
    fill(client, bolt)
    assert stock(client, bolt) == MAX_STOCK
    with nothing_changes(app):
        response = send(client, [line(bolt, "purchase", 1), line(bolt, "sale", 1)])
    (error,) = rejected_lines(response)
    assert (error["line"], error["error"]) == (0, "validation_error")
    assert_ledger_is_sound(app)


def test_copies_of_a_batch_at_once_sell_no_more_than_there_is(app: Flask, client: FlaskClient) -> None:
    bolt, nut = product(client, quantity_on_hand=10)["id"], product(client, quantity_on_hand=10)["id"]

    def sell(number: int) -> int:
        lines = [line(bolt, "sale", 3), line(nut, "sale", 3)]
        return send(app.test_client(), lines if number % 2 else lines[::-1]).status_code

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(sell, range(6)))
    assert sorted(statuses) == [201, 201, 201, 400, 400, 400]
    assert (stock(client, bolt), stock(client, nut)) == (1, 1)
    assert_ledger_is_sound(app)


@on_postgresql
@pytest.mark.parametrize("by_sku", [False, True])
def test_products_are_locked_in_the_order_of_their_ids(
    app: Flask, client: FlaskClient, database_url: str, by_sku: bool
) -> None:
    """Whatever the order of the lines, a batch that waits for a product holds none with a higher id."""
    bolt, nut = (
        product(client, sku="BOLT", quantity_on_hand=9)["id"],
        product(client, sku="NUT", quantity_on_hand=9)["id"],
    )
    lines = [line(nut, "sale", 1), line(bolt, "sale", 1)]
    if by_sku:
        lines = [{"sku": sku, "transaction_type": "sale", "quantity": 1} for sku in ("NUT", "BOLT")]
    with (
        psycopg.connect(database_url) as holder,
        psycopg.connect(database_url, autocommit=True) as observer,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [bolt])
        pending = pool.submit(send, app.test_client(), lines)
        postgresql.await_blocked(observer, 1)
        observer.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE NOWAIT", [nut])
        holder.rollback()
        assert pending.result().status_code == 201


@on_postgresql
def test_the_lock_of_a_batch_lets_rows_that_refer_to_its_products_be_written(
    app: Flask, client: FlaskClient, database_url: str
) -> None:
    """It is no lock on the product's key."""
    bolt, nut = product(client, quantity_on_hand=9)["id"], product(client, quantity_on_hand=9)["id"]
    with (
        psycopg.connect(database_url) as holder,
        psycopg.connect(database_url, autocommit=True) as observer,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [nut])
        pending = pool.submit(send, app.test_client(), [line(bolt, "sale", 1), line(nut, "sale", 1)])
        postgresql.await_blocked(observer, 1)
        observer.execute("SELECT 1 FROM products WHERE id = %s FOR KEY SHARE NOWAIT", [bolt])
        holder.rollback()
        assert pending.result().status_code == 201


@on_postgresql
def test_a_batch_that_was_a_deadlocks_victim_is_run_again(app: Flask, client: FlaskClient, database_url: str) -> None:
    bolt, nut = product(client, quantity_on_hand=9)["id"], product(client, quantity_on_hand=9)["id"]
    with (
        psycopg.connect(database_url) as other,
        psycopg.connect(database_url, autocommit=True) as observer,
        ThreadPoolExecutor(1) as pool,
    ):
        # The other one never gives way, so that it is the batch which is chosen.
        other.execute("SET LOCAL deadlock_timeout = '60s'")
        other.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [nut])
        pending = pool.submit(send, app.test_client(), [line(bolt, "sale", 1), line(nut, "sale", 1)])
        postgresql.await_blocked(observer, 1)
        other.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [bolt])
        other.rollback()
        response = pending.result()
    assert response.status_code == 201
    assert (stock(client, bolt), stock(client, nut)) == (8, 8)
    assert_ledger_is_sound(app)


def test_a_batch_does_not_touch_other_products(client: FlaskClient) -> None:
    bolt, nut = product(client, quantity_on_hand=10)["id"], product(client, quantity_on_hand=10)["id"]
    before = body(client.get(f"/products/{nut}"))
    batch(client, line(bolt, "sale", 1))
    assert body(client.get(f"/products/{nut}")) == before


def test_single_movements_belong_to_no_batch(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    assert transaction(client, bolt, "sale", 1)["batch_id"] is None
