"""Dry runs: a request is checked in full and answered as if it were recorded, and nothing is recorded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests import postgresql
from tests.builders import body, error_of, invalid_fields, nothing_changes, transaction
from tests.conftest import on_postgresql
from tests.transactions.endpoints import ENDPOINTS, WITHOUT_DRY_RUN, Post, Shop, line, post_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

# The response to an import holds counts instead of rows; creating or updating a product has no dry run.
WITH_DRY_RUN = sorted(ENDPOINTS.keys() - WITHOUT_DRY_RUN - {"import"})

each_endpoint = pytest.mark.parametrize("endpoint", WITH_DRY_RUN)


def rows_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = content.get("transactions", [content])
    return rows


def predictable(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a response without the fields that a dry run cannot know."""
    return [
        {name: value for name, value in row.items() if name not in {"id", "batch_id", "created_at"}}
        for row in rows_of(content)
    ]


@each_endpoint
def test_dry_run_records_nothing(app: Flask, client: FlaskClient, shop: Shop, endpoint: str) -> None:
    with nothing_changes(app):
        for _time in range(2):
            assert ENDPOINTS[endpoint](shop).send(client, dry_run="true").status_code == 200


@each_endpoint
def test_dry_run_response_equals_recorded_response(client: FlaskClient, shop: Shop, endpoint: str) -> None:
    post = ENDPOINTS[endpoint](shop)
    dry_run = post.send(client, dry_run="true")
    recorded = post.send(client)
    assert (dry_run.status_code, recorded.status_code) == (200, 201)
    assert predictable(body(dry_run)) == predictable(body(recorded))
    assert body(dry_run).keys() == body(recorded).keys()


@each_endpoint
def test_dry_run_response_has_no_ids_and_no_location(client: FlaskClient, shop: Shop, endpoint: str) -> None:
    response = ENDPOINTS[endpoint](shop).send(client, dry_run="true")
    assert "Location" not in response.headers
    assert {row["id"] for row in rows_of(body(response))} == {None}
    assert {row["batch_id"] for row in rows_of(body(response))} == {None}
    assert body(response).get("batch_id") is None


@pytest.mark.parametrize(("word", "status"), [("true", 200), ("1", 200), ("yes", 200), ("false", 201), ("0", 201)])
def test_dry_run_accepts_boolean_words(client: FlaskClient, shop: Shop, word: str, status: int) -> None:
    assert ENDPOINTS["transaction"](shop).send(client, dry_run=word).status_code == status


@pytest.mark.parametrize("word", ["", "maybe", "2"])
def test_dry_run_rejects_other_values(app: Flask, client: FlaskClient, shop: Shop, word: str) -> None:
    with nothing_changes(app):
        assert invalid_fields(ENDPOINTS["transaction"](shop).send(client, dry_run=word)) == {"query": {"dry_run"}}


def test_dry_run_is_unsupported_for_product_creation(app: Flask, client: FlaskClient, shop: Shop) -> None:
    with nothing_changes(app):
        assert invalid_fields(ENDPOINTS["product"](shop).send(client, dry_run="true")) == {"query": {"dry_run"}}


ERRORS: dict[str, tuple[Callable[[Shop], Post], tuple[int, str]]] = {
    "insufficient stock": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 98)),
        (400, "insufficient_stock"),
    ),
    "stale quantity": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 1, expected_quantity=1)),
        (409, "stale_quantity"),
    ),
    "rejected batch": (
        lambda shop: post_json("/transactions/batch", [line(shop.bolt, "sale", 97), line(shop.bolt, "sale", 1)]),
        (400, "batch_rejected"),
    ),
    "stale count": (
        lambda shop: post_json(f"/products/{shop.bolt}/counts", {"counted_quantity": 1, "expected_quantity": 2}),
        (409, "stale_quantity"),
    ),
    "unknown product": (lambda _shop: post_json("/transactions", line(999, "sale", 1)), (400, "unknown_product")),
    "unknown transaction": (lambda _shop: Post("/transactions/999/reversal"), (404, "transaction_not_found")),
    "invalid body": (lambda shop: post_json("/transactions", line(shop.bolt, "sale", 0)), (422, "validation_error")),
}


@pytest.mark.parametrize("case", ERRORS)
def test_dry_run_returns_same_error_as_real_request(app: Flask, client: FlaskClient, shop: Shop, case: str) -> None:
    make, expected = ERRORS[case]
    with nothing_changes(app):
        dry_run = make(shop).send(client, dry_run="true")
        real = make(shop).send(client)
    assert error_of(dry_run) == expected
    assert dry_run.data == real.data


def test_dry_run_of_second_reversal_returns_409(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = ENDPOINTS["reversal"](shop)
    assert post.send(client, dry_run="true").status_code == 200
    assert post.send(client).status_code == 201
    with nothing_changes(app):
        assert error_of(post.send(client, dry_run="true")) == (409, "already_reversed")


@each_endpoint
def test_dry_run_does_not_use_its_key(app: Flask, client: FlaskClient, shop: Shop, endpoint: str) -> None:
    with nothing_changes(app):
        dry_run = ENDPOINTS[endpoint](shop).send(client, "k", dry_run="true")
    assert dry_run.status_code == 200
    other = ENDPOINTS["import"](shop).send(client, "k")
    assert other.status_code == 200
    assert not replayed(dry_run)
    assert not replayed(other)


def replayed(response: TestResponse) -> bool:
    return "Idempotent-Replayed" in response.headers


def test_dry_run_with_used_key_is_not_replayed(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = ENDPOINTS["transaction"](shop)
    recorded = body(post.send(client, "k"))
    with nothing_changes(app):
        dry_run = post.send(client, "k", dry_run="true")
    assert dry_run.status_code == 200
    assert not replayed(dry_run)
    assert body(dry_run)["balance_after"] == recorded["balance_after"] - 4
    assert replayed(post.send(client, "k"))


def test_dry_run_leaves_no_gap_in_seq(client: FlaskClient, shop: Shop) -> None:
    last = transaction(client, shop.bolt, "sale", 1)["seq"]
    for _time in range(3):
        ENDPOINTS["batch"](shop).send(client, dry_run="true")
    assert transaction(client, shop.bolt, "sale", 1)["seq"] == last + 1


@on_postgresql
@each_endpoint
def test_dry_run_waits_for_product_lock(app: Flask, database_url: str, shop: Shop, endpoint: str) -> None:
    with (
        psycopg.connect(database_url) as holder,
        psycopg.connect(database_url, autocommit=True) as observer,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [shop.bolt])
        pending = pool.submit(ENDPOINTS[endpoint](shop).send, app.test_client(), dry_run="true")
        postgresql.await_blocked(observer, 1)
        holder.rollback()
        assert pending.result().status_code == 200
