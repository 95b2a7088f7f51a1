"""Physical counts: the stock becomes what was counted, and a row proves it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from inventory.models.product import MAX_STOCK
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

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse


def send(client: FlaskClient, product_id: int, counted: Any, **facts: Any) -> TestResponse:
    return client.post(f"/products/{product_id}/counts", json={"counted_quantity": counted} | facts)


def count(client: FlaskClient, product_id: int, counted: int, **facts: Any) -> dict[str, Any]:
    response = send(client, product_id, counted, **facts)
    assert response.status_code == 201, response.text
    return body(response)


def read(client: FlaskClient, product_id: int) -> dict[str, Any]:
    return body(client.get(f"/products/{product_id}"))


@pytest.mark.parametrize("counted", [0, 7, 10, 25, 10**9])
def test_a_count_carries_the_difference(app: Flask, client: FlaskClient, counted: int) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    row = count(client, bolt, counted, reference="C-1", notes="shelf 3")
    expected = {
        "product_id": bolt,
        "transaction_type": "adjustment",
        "reason": "count",
        "quantity": counted - 10,
        "delta": counted - 10,
        "balance_after": counted,
        "seq": 2,
        "reference": "C-1",
        "notes": "shelf 3",
        "reverses_id": None,
        "batch_id": None,
    }
    assert {name: row[name] for name in expected} == expected
    assert read(client, bolt)["quantity_on_hand"] == counted
    assert_ledger_is_sound(app)


def test_the_location_of_a_count_is_its_row(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    response = send(client, bolt, 10)
    assert body(client.get(response.headers["Location"])) == body(response)


def test_a_count_that_agrees_leaves_a_row_and_its_moment(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    assert read(client, bolt)["last_counted_at"] is None
    row = count(client, bolt, 10)
    after = read(client, bolt)
    assert (row["quantity"], row["delta"], row["balance_after"]) == (0, 0, 10)
    assert after["transactions"][0] == row
    assert after["last_counted_at"] == row["created_at"]
    assert after["quantity_on_hand"] == 10


def test_each_count_moves_the_moment_of_the_last_one(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    count(client, bolt, 9)
    first = read(client, bolt)["last_counted_at"]
    count(client, bolt, 9)
    assert read(client, bolt)["last_counted_at"] > first


def test_other_movements_are_no_counts(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 1)
    transaction(client, bolt, "purchase", 1)
    transaction(client, bolt, "adjustment", 1, reason="return")
    assert read(client, bolt)["last_counted_at"] is None


def test_a_quantity_that_is_put_is_a_count(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    assert client.put(f"/products/{bolt}", json={"quantity_on_hand": 4}).status_code == 200
    after = read(client, bolt)
    row = after["transactions"][0]
    assert (row["transaction_type"], row["reason"], row["delta"], row["balance_after"]) == (
        "adjustment",
        "count",
        -6,
        4,
    )
    assert after["last_counted_at"] is not None
    assert_ledger_is_sound(app)


def test_a_quantity_that_is_put_and_the_same_leaves_no_row(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    assert client.put(f"/products/{bolt}", json={"quantity_on_hand": 10}).status_code == 200
    assert len(read(client, bolt)["transactions"]) == 1


def test_a_count_as_expected_is_recorded(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    assert count(client, bolt, 8, expected_quantity=10)["delta"] == -2


@pytest.mark.parametrize("counted", [8, 10, 11])
def test_a_count_of_other_stock_than_expected_is_refused_with_what_there_is(
    app: Flask, client: FlaskClient, counted: int
) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        response = send(client, bolt, counted, expected_quantity=11)
    assert refusal(response) == (409, "stale_quantity")
    assert body(response)["details"] == {"expected": 11, "quantity_on_hand": 10}
    assert body(response)["message"] == "Expected 11 units in stock, but there are 10"


def test_a_count_expecting_nothing_is_held_to_it(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        assert refusal(send(client, bolt, 5, expected_quantity=0)) == (409, "stale_quantity")


def test_an_inactive_product_is_counted(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10, is_active=False)["id"]
    assert count(client, bolt, 3)["balance_after"] == 3


def test_an_unknown_product_cannot_be_counted(app: Flask, client: FlaskClient) -> None:
    with nothing_changes(app):
        assert refusal(send(client, 999, 3)) == (404, "product_not_found")
        assert refusal(send(client, 2**63, 3)) == (404, "product_not_found")


@pytest.mark.parametrize("counted", [-1, MAX_STOCK + 1, 1.5, "5", None, True, [5]])
def test_only_a_whole_number_within_bounds_is_a_count(app: Flask, client: FlaskClient, counted: Any) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        assert refused_fields(send(client, bolt, counted)) == {"json": {"counted_quantity"}}


def test_a_count_moves_as_much_as_a_row_of_the_ledger_may(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    assert count(client, bolt, 10**9 + 10)["delta"] == 10**9
    with nothing_changes(app):
        assert refused_fields(send(client, bolt, 2 * 10**9 + 11)) == {"json": {"counted_quantity"}}
        assert refused_fields(send(client, bolt, 9)) == {"json": {"counted_quantity"}}
    assert count(client, bolt, 10)["delta"] == -(10**9)


def test_a_count_without_a_quantity_is_refused(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        assert refused_fields(client.post(f"/products/{bolt}/counts", json={})) == {"json": {"counted_quantity"}}


@pytest.mark.parametrize("field", ["quantity", "reason", "transaction_type"])
def test_a_count_has_no_other_fields(app: Flask, client: FlaskClient, field: str) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        assert refused_fields(send(client, bolt, 5, **{field: "count"})) == {"json": {field}}


def test_of_counts_at_once_that_expect_the_same_one_is_recorded(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with ThreadPoolExecutor(5) as pool:
        responses = list(
            pool.map(lambda counted: send(app.test_client(), bolt, counted, expected_quantity=10), range(11, 16))
        )
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [201, 409, 409, 409, 409]
    assert len(listed(client.get(f"/transactions/product/{bolt}"))) == 2
    assert_ledger_is_sound(app)


def test_counts_between_sales_at_once_leave_a_sound_ledger(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=1_000)["id"]

    def work(number: int) -> int:
        if number % 2:
            return send(app.test_client(), bolt, 500).status_code
        sale = {"product_id": bolt, "transaction_type": "sale", "quantity": 3}
        return app.test_client().post("/transactions", json=sale).status_code

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(work, range(24))) == {201}
    rows = listed(client.get(f"/transactions/product/{bolt}"))
    assert {row["balance_after"] for row in rows if row["reason"] == "count"} == {500}
    assert_ledger_is_sound(app)
