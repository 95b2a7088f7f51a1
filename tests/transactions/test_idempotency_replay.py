"""Idempotent replay: a retried request has one effect and gets the first response again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import update

from inventory import create_app
from inventory.database.base import db
from inventory.models.product import Product
from tests.builders import (
    assert_ledger_is_consistent,
    body,
    category,
    error_of,
    listed,
    nothing_changes,
    product,
    transaction,
)
from tests.transactions.endpoints import ENDPOINTS, Shop, post_file, post_json
from tests.transactions.idempotency import accepted, comparable, each_endpoint, is_replay

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient


def change_everything(client: FlaskClient) -> None:
    """Rename, re-price, empty, move and deactivate every product, and delete the categories they were in."""
    old_categories = listed(client.get("/categories"))
    home = category(client)["id"]
    for old in listed(client.get("/products")):
        changes = {
            "sku": f"NEW-{old['id']}",
            "name": f"New {old['id']}",
            "description": "changed",
            "price": 99.99,
            "cost": 1,
            "reorder_point": 77,
            "location": "Z9",
            "category_id": home,
            "quantity_on_hand": 0,
            "is_active": False,
        }
        assert client.put(f"/products/{old['id']}", json=changes).status_code == 200
    for old in old_categories:
        assert client.delete(f"/categories/{old['id']}").status_code == 204


@each_endpoint
def test_retry_returns_first_response_without_second_effect(
    app: Flask, client: FlaskClient, shop: Shop, endpoint: str
) -> None:
    post = ENDPOINTS[endpoint](shop)
    first = accepted(post.send(client, "k"))
    with nothing_changes(app):
        again = post.send(client, "k")
        and_again = post.send(client, "k")
    assert comparable(again) == comparable(and_again) == comparable(first)
    assert is_replay(again)
    assert is_replay(and_again)
    assert_ledger_is_consistent(app)


@each_endpoint
def test_retry_returns_first_response_after_later_changes(
    app: Flask, client: FlaskClient, shop: Shop, endpoint: str
) -> None:
    post = ENDPOINTS[endpoint](shop)
    first = accepted(post.send(client, "k"))
    change_everything(client)
    with nothing_changes(app):
        again = post.send(client, "k")
    assert comparable(again) == comparable(first)
    assert is_replay(again)


@each_endpoint
def test_retry_is_replayed_after_restart(client: FlaskClient, database_url: str, shop: Shop, endpoint: str) -> None:
    post = ENDPOINTS[endpoint](shop)
    first = accepted(post.send(client, "k"))
    restarted = create_app({"DATABASE_URL": database_url, "TESTING": True})
    with nothing_changes(restarted):
        again = post.send(restarted.test_client(), "k")
    assert comparable(again) == comparable(first)
    with restarted.app_context():
        db.engine.dispose()


# What the second of two requests is refused with, if nothing shows that they are one.
REFUSED_AGAIN = {
    "reversal": "already_reversed",
    "batch reversal": "already_reversed",
    "count": "stale_quantity",
    "product": "duplicate_sku",
}


@each_endpoint
def test_retry_without_key_or_with_another_is_not_replayed(client: FlaskClient, shop: Shop, endpoint: str) -> None:
    post = ENDPOINTS[endpoint](shop)
    accepted(post.send(client, "k"))
    for again in (post.send(client), post.send(client, "l")):
        assert not is_replay(again)
        if endpoint in REFUSED_AGAIN:
            assert error_of(again) == (409, REFUSED_AGAIN[endpoint])
        else:
            accepted(again)


def test_sale_and_its_reversal_are_both_replayed(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = ENDPOINTS["transaction"](shop)
    first = accepted(post.send(client, "k"))
    reversal = post_json(f"/transactions/{body(first)['id']}/reversal", {})
    reversed_first = accepted(reversal.send(client, "undo"))
    with nothing_changes(app):
        assert comparable(post.send(client, "k")) == comparable(first)
        assert comparable(reversal.send(client, "undo")) == comparable(reversed_first)


def test_batch_replay_keeps_line_order_when_timestamps_are_unordered(
    app: Flask, client: FlaskClient, shop: Shop
) -> None:
    """As after the clock was set back: the timestamp of one product is ahead of the other."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with app.app_context():
        db.session.execute(update(Product).where(Product.id == shop.bolt).values(updated_at=tomorrow))
        db.session.commit()
    post = ENDPOINTS["batch"](shop)
    first = accepted(post.send(client, "k"))
    timestamps = [row["created_at"] for row in body(first)["transactions"]]
    assert timestamps != sorted(timestamps)
    assert comparable(post.send(client, "k")) == comparable(first)


def test_same_request_with_two_keys_is_recorded_twice(client: FlaskClient, shop: Shop) -> None:
    post = ENDPOINTS["transaction"](shop)
    first, second = body(accepted(post.send(client, "k"))), body(accepted(post.send(client, "l")))
    assert (second["seq"], second["balance_after"]) == (first["seq"] + 1, first["balance_after"] - 4)


def test_update_is_replayed_after_its_preconditions_became_stale(app: Flask, client: FlaskClient, shop: Shop) -> None:
    address = f"/products/{shop.bolt}"
    seen = client.get(address)
    fields = {"name": "Big bolt", "quantity_on_hand": 60, "version": 1, "updated_at": body(seen)["updated_at"]}
    headers = {"Idempotency-Key": "k", "If-Match": seen.headers["ETag"]}
    first = accepted(client.put(address, json=fields, headers=headers))
    transaction(client, shop.bolt, "sale", 5)
    with nothing_changes(app):
        again = client.put(address, json=fields, headers=headers)
    assert (comparable(again), is_replay(again)) == (comparable(first), True)


def test_sale_by_sku_is_replayed_after_sku_changed_product(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = post_json("/transactions", {"sku": "bolt", "transaction_type": "sale", "quantity": 2})
    first = accepted(post.send(client, "k"))
    assert client.patch(f"/products/{shop.bolt}", json={"sku": "SCREW"}).status_code == 200
    product(client, sku="BOLT", quantity_on_hand=5, category_id=shop.category_id)
    with nothing_changes(app):
        assert comparable(post.send(client, "k")) == comparable(first)


def test_import_without_stock_changes_is_replayed(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = post_file("sku,location\nBOLT,A1\nNUT,\n")
    first = accepted(post.send(client, "k"))
    assert body(first) == {
        "rows": 2,
        "created": 0,
        "updated": 1,
        "unchanged": 1,
        "stock_transactions": 0,
        "dry_run": False,
    }
    assert client.patch(f"/products/{shop.bolt}", json={"location": "B2"}).status_code == 200
    with nothing_changes(app):
        again = post.send(client, "k")
    assert comparable(again) == comparable(first)


def test_replayed_header_is_absent_from_other_responses(client: FlaskClient, shop: Shop) -> None:
    post = ENDPOINTS["transaction"](shop)
    accepted(post.send(client, "k"))
    assert is_replay(post.send(client, "k"))
    accepted(client.get("/transactions"))
    accepted(ENDPOINTS["batch"](shop).send(client))
    accepted(ENDPOINTS["batch"](shop).send(client, "l"))
