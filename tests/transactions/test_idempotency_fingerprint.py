"""Fingerprints: which requests under the same key count as the same request."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, union_all

from inventory.database.base import db
from inventory.models.transaction import Batch, Transaction
from inventory.web.idempotency import fingerprint
from tests.builders import nothing_changes
from tests.transactions.endpoints import ENDPOINTS, FILE, Post, Shop, line, post_file, post_json, product_fields
from tests.transactions.idempotency import accepted, comparable, is_replay

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from flask.testing import FlaskClient


# The canonical form of a request to each endpoint. Ledgers hold the hashes of these: a release that changes one no
# longer recognises requests that clients have already sent.
CANONICAL = {
    "transaction": r"""["POST","/transactions",[{"dry_run":false},{"notes":"two\nlines","product_id":1,"quantity":4,"""
    """"reference":"A-1","transaction_type":"sale"}]]""",
    "batch": """["POST","/transactions/batch",[{"dry_run":false},{"lines":["""
    """{"product_id":1,"quantity":3,"transaction_type":"sale"},"""
    """{"product_id":2,"quantity":4,"reference":"B","transaction_type":"purchase"},"""
    """{"product_id":1,"quantity":-1,"reason":"other","transaction_type":"adjustment"}]}]]""",
    "reversal": """["POST","/transactions/3/reversal",[{"dry_run":false},{"notes":"came back"}]]""",
    "count": """["POST","/products/1/counts",[{"dry_run":false},{"counted_quantity":90,"expected_quantity":97}]]""",
    "product": """["POST","/products",[{"category_id":1,"is_active":true,"name":"Washer","price":"2.5","""
    """"quantity_on_hand":30,"reorder_point":10,"sku":"WASHER"}]]""",
    "update": """["PUT","/products/1",[{"price":"12.3456","quantity_on_hand":60}]]""",
    "import": f"""["POST","/import/products",[{{"dry_run":false,"mode":"upsert"}},"""
    f""""{hashlib.sha256(FILE.encode()).hexdigest()}"]]""",
}


@pytest.mark.parametrize("endpoint", CANONICAL)
def test_fingerprint_is_stable_across_releases(app: Flask, client: FlaskClient, shop: Shop, endpoint: str) -> None:
    accepted(ENDPOINTS[endpoint](shop).send(client, "k"))
    with app.app_context():
        fingerprints = [select(model.fingerprint).where(model.idempotency_key == "k") for model in (Transaction, Batch)]
        stored = db.session.scalars(union_all(*fingerprints)).one()
    assert stored == hashlib.sha256(CANONICAL[endpoint].encode()).hexdigest()


def test_fingerprint_ignores_null_fields() -> None:
    assert fingerprint([{"a": 1, "b": None, "c": [{"d": None}]}]) == fingerprint([{"a": 1, "c": [{}]}])
    assert fingerprint([None, 1]) != fingerprint([1, None])


# Equivalent requests


def raw(path: str, text: str) -> Post:
    return Post(path, {"data": text.encode(), "content_type": "application/json"})


EQUIVALENT_REQUESTS: dict[str, tuple[Callable[[Shop], Post], Callable[[Shop], Post]]] = {
    "integer as float": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5)),
        lambda shop: raw("/transactions", f'{{"product_id":{shop.bolt},"transaction_type":"sale","quantity":5.0}}'),
    ),
    "order of keys": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5)),
        lambda shop: raw("/transactions", f'{{"quantity":5, "transaction_type":"sale", "product_id":{shop.bolt}}}'),
    ),
    "escape sequences": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5, notes="Größe")),
        lambda shop: raw(
            "/transactions",
            f'{{"product_id":{shop.bolt},"transaction_type":"\\u0073ale","quantity":5,"notes":"Gr\\u00f6\\u00dfe"}}',
        ),
    ),
    "surrounding whitespace": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5, reference="A 1", notes="x")),
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5, reference="  A 1 ", notes=" x\n")),
    ),
    "explicit nulls": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5)),
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5, reason=None, reference=None, notes=None)),
    ),
    "blank text": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5, reference="", notes="  ")),
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5)),
    ),
    "explicit default reason": (
        lambda shop: post_json("/transactions", line(shop.bolt, "adjustment", -5)),
        lambda shop: post_json("/transactions", line(shop.bolt, "adjustment", -5, reason="other")),
    ),
    "dry_run=false": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5)),
        lambda shop: Post("/transactions?dry_run=false", {"json": line(shop.bolt, "sale", 5)}),
    ),
    "bare array of lines": (
        lambda shop: post_json("/transactions/batch", {"lines": [line(shop.bolt, "sale", 5)]}),
        lambda shop: post_json("/transactions/batch", [line(shop.bolt, "sale", 5, notes=None)]),
    ),
    "empty body": (
        lambda shop: Post(f"/transactions/{shop.sale}/reversal"),
        lambda shop: post_json(f"/transactions/{shop.sale}/reversal", {"notes": None, "reference": " "}),
    ),
    "leading zeros of an id": (
        lambda shop: Post(f"/transactions/{shop.sale}/reversal"),
        lambda shop: Post(f"/transactions/00{shop.sale}/reversal/"),
    ),
    "case of a batch id": (
        lambda shop: Post(f"/transactions/batch/{shop.batch_id}/reversal"),
        lambda shop: Post(f"/transactions/batch/{shop.batch_id.upper()}/reversal"),
    ),
    "blank fields of a count": (
        lambda shop: post_json(f"/products/{shop.bolt}/counts", {"counted_quantity": 5}),
        lambda shop: post_json(f"/products/{shop.bolt}/counts", {"notes": "", "counted_quantity": 5.0}),
    ),
    "notations of a price": (
        lambda shop: raw(
            "/products",
            f'{{"sku":"W","name":"W","category_id":{shop.category_id},"quantity_on_hand":1,"price":10,"cost":0}}',
        ),
        lambda shop: raw(
            "/products",
            f'{{"sku":"W","name":"W","category_id":{shop.category_id},"quantity_on_hand":1,"price":1e1,"cost":0.00}}',
        ),
    ),
    "explicit defaults of a product": (
        lambda shop: post_json("/products", product_fields(shop)),
        lambda shop: post_json(
            "/products",
            product_fields(
                shop, description=None, cost=None, reorder_point=10, location=None, is_active=True, sku=" WASHER "
            ),
        ),
    ),
    "explicit default mode of an import": (
        lambda _shop: post_file(FILE),
        lambda _shop: Post("/import/products?mode=upsert&dry_run=no", post_file(FILE).content),
    ),
    "file in a form": (
        lambda _shop: post_file(FILE),
        lambda _shop: Post("/import/products", {"data": {"file": (io.BytesIO(FILE.encode()), "any.csv")}}),
    ),
}


@pytest.mark.parametrize("notation", EQUIVALENT_REQUESTS)
def test_equivalent_request_is_replayed(app: Flask, client: FlaskClient, shop: Shop, notation: str) -> None:
    one, other = EQUIVALENT_REQUESTS[notation]
    first = accepted(one(shop).send(client, "k"))
    with nothing_changes(app):
        again = other(shop).send(client, "k")
    assert comparable(again) == comparable(first)
    assert is_replay(again)
