"""Batches: many transactions, recorded all or none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from inventory import create_app
from inventory.database.base import engine_of
from inventory.fields import MAX_STOCK
from tests import postgresql
from tests.builders import (
    assert_ledger_is_consistent,
    body,
    error_of,
    invalid_fields,
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
    """The failing lines of a rejected batch, without their messages."""
    assert error_of(response) == (400, "batch_rejected")
    details = body(response)["details"]
    assert details["error_count"] == len(details["errors"])
    return [{name: value for name, value in error.items() if name != "message"} for error in details["errors"]]


def test_batch_records_lines_in_order_under_one_id(app: Flask, client: FlaskClient) -> None:
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
    assert_ledger_is_consistent(app)


def test_batch_location_returns_the_batch(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    response = send(client, [line(bolt, "sale", 1), line(bolt, "sale", 2)])
    assert response.status_code == 201
    assert body(client.get(response.headers["Location"])) == body(response)


def test_get_batch_returns_same_body_as_creation(client: FlaskClient) -> None:
    bolt, nut = product(client)["id"], product(client)["id"]
    recorded = batch(client, line(nut, "purchase", 5), line(bolt, "purchase", 5), line(nut, "sale", 2))
    transaction(client, nut, "sale", 1)
    assert body(client.get(f"/transactions/batch/{recorded['batch_id']}")) == recorded


def test_get_batch_returns_same_body_as_reversal(client: FlaskClient) -> None:
    recorded = batch(client, line(product(client)["id"], "purchase", 5))
    reversal = body(client.post(f"/transactions/batch/{recorded['batch_id']}/reversal"))
    assert body(client.get(f"/transactions/batch/{reversal['batch_id']}")) == reversal


def test_get_unknown_batch_returns_404(client: FlaskClient) -> None:
    batch(client, line(product(client)["id"], "purchase", 5))
    unknown = f"/transactions/batch/{'0' * 8}-0000-4000-8000-{'0' * 12}"
    assert error_of(client.get(unknown)) == (404, "transaction_not_found")


def test_batch_ids_are_unique(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    first, second = (batch(client, line(bolt, "sale", 1))["batch_id"] for _time in range(2))
    assert first != second


def test_batch_accepts_bare_array(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    response = client.post("/transactions/batch", json=[line(bolt, "sale", 4)])
    assert response.status_code == 201
    assert stock(client, bolt) == 6


def test_batch_lines_accept_product_id_or_sku(client: FlaskClient) -> None:
    bolt = product(client, sku="Größe-1", quantity_on_hand=10)["id"]
    by_sku = {"transaction_type": "sale", "quantity": 3}
    recorded = batch(client, by_sku | {"sku": " GRÖSSE-1 "}, line(bolt, "sale", 2), by_sku | {"sku": "größe-1"})
    assert [row["balance_after"] for row in recorded["transactions"]] == [7, 5, 2]
    assert {row["sku"] for row in recorded["transactions"]} == {"Größe-1"}


def test_batch_line_may_use_stock_of_earlier_line(client: FlaskClient) -> None:
    bolt = product(client)["id"]
    recorded = batch(client, line(bolt, "purchase", 5), line(bolt, "sale", 5))
    assert [row["balance_after"] for row in recorded["transactions"]] == [5, 0]


def test_batch_line_may_not_use_stock_of_later_line(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)["id"]
    with nothing_changes(app):
        response = send(client, [line(bolt, "sale", 5), line(bolt, "purchase", 5)])
    assert rejected_lines(response) == [{"line": 0, "error": "insufficient_stock", "available": 0, "requested": 5}]


def test_batch_checks_stock_across_lines_of_one_product(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        response = send(client, [line(bolt, "sale", 6), line(bolt, "sale", 6)])
    assert rejected_lines(response) == [{"line": 1, "error": "insufficient_stock", "available": 4, "requested": 6}]


def test_batch_compares_expected_quantity_with_running_balance(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    batch(client, line(bolt, "sale", 6, expected_quantity=10), line(bolt, "sale", 4, expected_quantity=4))
    assert stock(client, bolt) == 0


def test_batch_lists_every_failing_line_and_records_nothing(app: Flask, client: FlaskClient) -> None:
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
    assert body(response)["message"] == "Nothing was recorded: 6 of 9 lines were rejected."


@pytest.mark.parametrize(
    "fields",
    [
        {"transaction_type": "sale", "quantity": 11},
        {"transaction_type": "adjustment", "quantity": -11},
        {"transaction_type": "adjustment", "quantity": -1, "expected_quantity": 9},
        {"product_id": 999, "transaction_type": "sale", "quantity": 1},
    ],
)
def test_batch_line_error_equals_error_of_single_request(client: FlaskClient, fields: dict[str, Any]) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    alone = body(client.post("/transactions", json={"product_id": bolt} | fields))
    error = body(send(client, [{"product_id": bolt} | fields]))["details"]["errors"][0]
    assert error == {"line": 0, "error": alone["error"], "message": alone["message"], **alone.get("details", {})}


def test_batch_accepts_1000_lines(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)["id"]
    recorded = batch(client, *[line(bolt, "purchase", 1)] * 1_000)
    assert [row["seq"] for row in recorded["transactions"]] == list(range(1, 1_001))
    assert stock(client, bolt) == 1_000
    assert_ledger_is_consistent(app)


def test_batch_accepts_1000_longest_lines_with_raised_body_limit(app: Flask, client: FlaskClient) -> None:
    app.config["MAX_CONTENT_LENGTH"] = 8 * 1024 * 1024
    bolt = product(client)["id"]
    longest = line(bolt, "purchase", 10**9, reference="\U0001f529" * 100, notes="\U0001f529" * 500)
    recorded = batch(client, *[longest] * 1_000)
    assert recorded["transactions"][-1]["notes"] == "\U0001f529" * 500


def test_batch_rejects_reserved_reason(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)["id"]
    lines = [line(bolt, "purchase", 5), line(bolt, "adjustment", 1, reason="import")]
    with nothing_changes(app):
        assert invalid_fields(send(client, lines)) == {"json": {"lines"}}


@pytest.mark.parametrize("count", [0, 1_001])
def test_batch_rejects_zero_or_1001_lines(app: Flask, client: FlaskClient, count: int) -> None:
    bolt = product(client)["id"]
    lines = [line(bolt, "purchase", 1)] * count
    with nothing_changes(app):
        assert invalid_fields(send(client, lines)) == {"json": {"lines"}}
        assert invalid_fields(client.post("/transactions/batch", json=lines)) == {"json": {"lines"}}


def test_batch_validation_errors_are_keyed_by_line_index(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        response = send(client, [line(bolt, "sale", 1), line(bolt, "gift", 1), line(bolt, "sale", 0), 5])
    assert error_of(response) == (422, "validation_error")
    lines = body(response)["details"]["json"]["lines"]
    assert {number: set(fields) for number, fields in lines.items()} == {
        "1": {"transaction_type"},
        "2": {"quantity"},
        "3": {"_schema"},
    }


@pytest.mark.parametrize("content", [{}, {"lines": None}, {"lines": {}}, {"lines": [], "more": 1}, 5, "text"])
def test_batch_rejects_malformed_body(app: Flask, client: FlaskClient, content: Any) -> None:
    with nothing_changes(app):
        assert error_of(client.post("/transactions/batch", json=content)) == (422, "validation_error")


def fill(client: FlaskClient, product_id: int) -> None:
    batch(client, *[line(product_id, "purchase", 10**9)] * 1_000)


def test_batch_may_reach_but_not_exceed_maximum_stock(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)["id"]
    fill(client, bolt)
    assert stock(client, bolt) == MAX_STOCK
    with nothing_changes(app):
        response = send(client, [line(bolt, "purchase", 1), line(bolt, "sale", 1)])
    (error,) = rejected_lines(response)
    assert (error["line"], error["error"]) == (0, "validation_error")
    assert_ledger_is_consistent(app)


def test_concurrent_batches_do_not_oversell(app: Flask, client: FlaskClient) -> None:
    bolt, nut = product(client, quantity_on_hand=10)["id"], product(client, quantity_on_hand=10)["id"]

    def sell(number: int) -> int:
        lines = [line(bolt, "sale", 3), line(nut, "sale", 3)]
        return send(app.test_client(), lines if number % 2 else lines[::-1]).status_code

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(sell, range(6)))
    assert sorted(statuses) == [201, 201, 201, 400, 400, 400]
    assert (stock(client, bolt), stock(client, nut)) == (1, 1)
    assert_ledger_is_consistent(app)


@on_postgresql
@pytest.mark.parametrize("by_sku", [False, True])
def test_batch_locks_products_in_id_order(app: Flask, client: FlaskClient, database_url: str, by_sku: bool) -> None:
    """A batch that waits for a product holds no lock on one with a higher id, whatever the order of its lines."""
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
def test_batch_lock_does_not_block_foreign_key_references(app: Flask, client: FlaskClient, database_url: str) -> None:
    """The batch does not lock the key of the product, so rows that reference it can be written."""
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
def test_batch_is_retried_after_deadlock(app: Flask, client: FlaskClient, database_url: str) -> None:
    bolt, nut = product(client, quantity_on_hand=9)["id"], product(client, quantity_on_hand=9)["id"]
    # The batch checks for a deadlock once, after 4 s, and the other transaction after a minute. So the batch is the
    # victim.
    url = f"{database_url}?options=-c%20deadlock_timeout%3D4s"
    slow = create_app({"DATABASE_URL": url, "INVENTORY_BUSY_TIMEOUT_MS": 60_000})
    with (
        psycopg.connect(database_url) as other,
        psycopg.connect(database_url, autocommit=True) as observer,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("SET LOCAL deadlock_timeout = '60s'")
        other.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [nut])
        pending = pool.submit(send, slow.test_client(), [line(bolt, "sale", 1), line(nut, "sale", 1)])
        postgresql.await_blocked(observer, 1)
        other.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [bolt])
        other.rollback()
        response = pending.result()
    engine_of(slow).dispose()
    assert response.status_code == 201
    assert (stock(client, bolt), stock(client, nut)) == (8, 8)
    assert_ledger_is_consistent(app)


def test_batch_leaves_other_products_unchanged(client: FlaskClient) -> None:
    bolt, nut = product(client, quantity_on_hand=10)["id"], product(client, quantity_on_hand=10)["id"]
    before = body(client.get(f"/products/{nut}"))
    batch(client, line(bolt, "sale", 1))
    assert body(client.get(f"/products/{nut}")) == before


def test_single_transaction_has_no_batch_id(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    assert transaction(client, bolt, "sale", 1)["batch_id"] is None
