"""Stored responses: errors are not stored, nor responses to creations and updates that change no stock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import body, contents, error_of, nothing_changes, transaction
from tests.transactions.endpoints import ENDPOINTS, FILE, Post, Shop, change, line, post_file, post_json, product_fields
from tests.transactions.idempotency import accepted, comparable, is_replay

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from flask.testing import FlaskClient


@pytest.mark.parametrize("fields", [{"price": 11}, {"price": 11, "quantity_on_hand": 97}])
def test_update_without_stock_change_does_not_use_key(client: FlaskClient, shop: Shop, fields: dict[str, Any]) -> None:
    post = change(shop.bolt, fields, "PATCH")
    accepted(post.send(client, "k"))
    accepted(post.send(client, "k"))
    accepted(ENDPOINTS["transaction"](shop).send(client, "k"))


def test_no_response_is_stored_without_key(app: Flask, client: FlaskClient, shop: Shop) -> None:
    accepted(ENDPOINTS["update"](shop).send(client))
    assert contents(app)["answers"] == []


def test_creation_without_stock_does_not_use_key(client: FlaskClient, shop: Shop) -> None:
    accepted(post_json("/products", product_fields(shop, quantity_on_hand=0)).send(client, "k"))
    accepted(ENDPOINTS["transaction"](shop).send(client, "k"))


# Errors are not stored


FAILING: dict[str, tuple[Callable[[Shop], Post], str]] = {
    "transaction": (lambda shop: post_json("/transactions", line(shop.bolt, "sale", 200)), "insufficient_stock"),
    "batch": (
        lambda shop: post_json("/transactions/batch", [line(shop.nut, "sale", 1), line(shop.bolt, "sale", 200)]),
        "batch_rejected",
    ),
    "count": (
        lambda shop: post_json(f"/products/{shop.bolt}/counts", {"counted_quantity": 1, "expected_quantity": 597}),
        "stale_quantity",
    ),
}


@pytest.mark.parametrize("endpoint", FAILING)
def test_error_is_not_stored_and_retry_is_processed_again(
    app: Flask, client: FlaskClient, shop: Shop, endpoint: str
) -> None:
    make, slug = FAILING[endpoint]
    post = make(shop)
    with nothing_changes(app):
        assert error_of(post.send(client, "k"))[1] == slug
        assert error_of(post.send(client, "k"))[1] == slug
    transaction(client, shop.bolt, "purchase", 500)
    first = accepted(post.send(client, "k"))
    with nothing_changes(app):
        assert comparable(post.send(client, "k")) == comparable(first)


def test_failed_reversal_succeeds_on_retry_when_stock_suffices(app: Flask, client: FlaskClient, shop: Shop) -> None:
    purchase = transaction(client, shop.bolt, "purchase", 20)
    transaction(client, shop.bolt, "sale", 110)
    post = Post(f"/transactions/{purchase['id']}/reversal")
    with nothing_changes(app):
        assert error_of(post.send(client, "k")) == (400, "insufficient_stock")
    transaction(client, shop.bolt, "purchase", 13)
    first = accepted(post.send(client, "k"))
    assert body(first)["balance_after"] == 0
    assert is_replay(post.send(client, "k"))


def test_failed_creation_succeeds_on_retry_when_sku_is_free(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = post_json("/products", product_fields(shop, sku="bolt"))
    with nothing_changes(app):
        assert error_of(post.send(client, "k")) == (409, "duplicate_sku")
    assert client.patch(f"/products/{shop.bolt}", json={"sku": "SCREW"}).status_code == 200
    accepted(post.send(client, "k"))
    assert is_replay(post.send(client, "k"))


def test_failed_import_succeeds_on_retry_when_sku_is_free(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = Post("/import/products?mode=create", post_file(FILE).content)
    with nothing_changes(app):
        assert error_of(post.send(client, "k")) == (422, "import_invalid")
    assert client.patch(f"/products/{shop.bolt}", json={"sku": "SCREW"}).status_code == 200
    accepted(post.send(client, "k"))
    assert is_replay(post.send(client, "k"))


def test_key_of_failed_requests_is_free_for_another(client: FlaskClient, shop: Shop) -> None:
    too_much = post_json("/transactions", line(shop.bolt, "sale", 200))
    assert error_of(too_much.send(client, "k")) == (400, "insufficient_stock")
    unreadable = post_json("/transactions", {"quantity": "many"})
    assert error_of(unreadable.send(client, "k")) == (422, "validation_error")
    accepted(ENDPOINTS["count"](shop).send(client, "k"))
