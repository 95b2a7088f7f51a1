"""Physical counts: stock is set to the counted quantity, and a transaction records it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from inventory.fields import MAX_STOCK
from tests.builders import (
    assert_ledger_is_consistent,
    body,
    error_of,
    invalid_fields,
    listed,
    nothing_changes,
    product,
    transaction,
)

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse


def send(client: FlaskClient, product_id: int, counted: Any, **fields: Any) -> TestResponse:
    return client.post(f"/products/{product_id}/counts", json={"counted_quantity": counted} | fields)


def count(client: FlaskClient, product_id: int, counted: int, **fields: Any) -> dict[str, Any]:
    response = send(client, product_id, counted, **fields)
    assert response.status_code == 201, response.text
    return body(response)


def read(client: FlaskClient, product_id: int) -> dict[str, Any]:
    return body(client.get(f"/products/{product_id}"))


@pytest.mark.parametrize("counted", [0, 7, 10, 25, 10**9])
def test_count_records_difference_as_adjustment(app: Flask, client: FlaskClient, counted: int) -> None:
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
    assert_ledger_is_consistent(app)


def test_count_location_returns_its_transaction(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    response = send(client, bolt, 10)
    assert body(client.get(response.headers["Location"])) == body(response)


def test_count_without_difference_records_row_and_last_counted_at(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    assert read(client, bolt)["last_counted_at"] is None
    row = count(client, bolt, 10)
    after = read(client, bolt)
    assert (row["quantity"], row["delta"], row["balance_after"]) == (0, 0, 10)
    assert after["transactions"][0] == row
    assert after["last_counted_at"] == row["created_at"]
    assert after["quantity_on_hand"] == 10


def test_each_count_updates_last_counted_at(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    count(client, bolt, 9)
    first = read(client, bolt)["last_counted_at"]
    count(client, bolt, 9)
    assert read(client, bolt)["last_counted_at"] > first


def test_other_transactions_leave_last_counted_at_null(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 1)
    transaction(client, bolt, "purchase", 1)
    transaction(client, bolt, "adjustment", 1, reason="return")
    assert read(client, bolt)["last_counted_at"] is None


def test_put_quantity_is_recorded_as_count(app: Flask, client: FlaskClient) -> None:
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
    assert_ledger_is_consistent(app)


def test_put_unchanged_quantity_records_nothing(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    assert client.put(f"/products/{bolt}", json={"quantity_on_hand": 10}).status_code == 200
    assert read(client, bolt)["transactions"] == []


def test_count_with_matching_expected_quantity_is_recorded(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    assert count(client, bolt, 8, expected_quantity=10)["delta"] == -2


@pytest.mark.parametrize("counted", [8, 10, 11])
def test_count_with_stale_expected_quantity_returns_409(app: Flask, client: FlaskClient, counted: int) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        response = send(client, bolt, counted, expected_quantity=11)
    assert error_of(response) == (409, "stale_quantity")
    assert body(response)["details"] == {"expected": 11, "quantity_on_hand": 10}
    assert body(response)["message"] == "Expected a stock of 11, found 10. Fetch the product again and retry."


def test_count_compares_expected_quantity_of_zero(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        assert error_of(send(client, bolt, 5, expected_quantity=0)) == (409, "stale_quantity")


def test_count_accepts_inactive_product(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10, is_active=False)["id"]
    assert count(client, bolt, 3)["balance_after"] == 3


def test_count_of_unknown_product_returns_404(app: Flask, client: FlaskClient) -> None:
    with nothing_changes(app):
        assert error_of(send(client, 999, 3)) == (404, "product_not_found")
        assert error_of(send(client, 2**63, 3)) == (404, "product_not_found")


@pytest.mark.parametrize("counted", [-1, MAX_STOCK + 1, 1.5, "5", None, True, [5]])
def test_count_rejects_invalid_counted_quantity(app: Flask, client: FlaskClient, counted: Any) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        assert invalid_fields(send(client, bolt, counted)) == {"json": {"counted_quantity"}}


def test_count_difference_may_reach_but_not_exceed_limit(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    assert count(client, bolt, 10**9 + 10)["delta"] == 10**9
    with nothing_changes(app):
        assert invalid_fields(send(client, bolt, 2 * 10**9 + 11)) == {"json": {"counted_quantity"}}
        assert invalid_fields(send(client, bolt, 9)) == {"json": {"counted_quantity"}}
    assert count(client, bolt, 10)["delta"] == -(10**9)


def test_count_requires_counted_quantity(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        assert invalid_fields(client.post(f"/products/{bolt}/counts", json={})) == {"json": {"counted_quantity"}}


@pytest.mark.parametrize("field", ["quantity", "reason", "transaction_type"])
def test_count_rejects_unknown_fields(app: Flask, client: FlaskClient, field: str) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        assert invalid_fields(send(client, bolt, 5, **{field: "count"})) == {"json": {field}}


def test_concurrent_counts_with_same_expectation_record_one(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with ThreadPoolExecutor(5) as pool:
        responses = list(
            pool.map(lambda counted: send(app.test_client(), bolt, counted, expected_quantity=10), range(11, 16))
        )
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [201, 409, 409, 409, 409]
    assert len(listed(client.get(f"/transactions?product_id={bolt}"))) == 2
    assert_ledger_is_consistent(app)


def test_concurrent_counts_and_sales_keep_ledger_consistent(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=1_000)["id"]

    def work(number: int) -> int:
        if number % 2:
            return send(app.test_client(), bolt, 500).status_code
        sale = {"product_id": bolt, "transaction_type": "sale", "quantity": 3}
        return app.test_client().post("/transactions", json=sale).status_code

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(work, range(24))) == {201}
    rows = listed(client.get(f"/transactions?product_id={bolt}"))
    assert {row["balance_after"] for row in rows if row["reason"] == "count"} == {500}
    assert_ledger_is_consistent(app)
