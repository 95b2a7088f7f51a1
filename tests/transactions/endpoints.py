"""Every POST that moves stock, on a small shop of two products."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.builders import body, category, product, transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse


@dataclass(frozen=True)
class Shop:
    category_id: int
    bolt: int
    nut: int
    sale: int
    batch_id: str


@dataclass(frozen=True)
class Post:
    """Where to and with what; ``content`` are the keyword arguments of a test client's ``post``."""

    path: str
    content: Mapping[str, Any] = field(default_factory=dict)

    def send(self, client: FlaskClient, key: str | None = None, **query: str) -> TestResponse:
        headers = {} if key is None else {"Idempotency-Key": key}
        return client.post(self.path, headers=headers, query_string=query or None, **self.content)


def post_json(path: str, content: Any) -> Post:
    return Post(path, {"json": content})


def post_file(text: str) -> Post:
    return Post("/import/products", {"data": text, "content_type": "text/csv"})


def open_shop(client: FlaskClient) -> Shop:
    """Bolts and nuts, 97 and 50 of them in stock, after one sale of 10 bolts and one batch."""
    home = category(client)["id"]
    bolt = product(client, sku="BOLT", quantity_on_hand=100, category_id=home)["id"]
    nut = product(client, sku="NUT", quantity_on_hand=55, category_id=home)["id"]
    sale = transaction(client, bolt, "sale", 10)["id"]
    lines = [line(bolt, "purchase", 7), line(nut, "sale", 5)]
    batch = body(client.post("/transactions/batch", json={"lines": lines}))
    return Shop(home, bolt, nut, sale, batch["batch_id"])


def line(product_id: int, transaction_type: str, quantity: int, **fields: Any) -> dict[str, Any]:
    return {"product_id": product_id, "transaction_type": transaction_type, "quantity": quantity} | fields


def product_facts(shop: Shop, **fields: Any) -> dict[str, Any]:
    facts = {"sku": "WASHER", "name": "Washer", "price": 2.5, "category_id": shop.category_id, "quantity_on_hand": 30}
    return facts | fields


FILE = "sku,name,price,category,quantity_on_hand\nBOLT,Bolt,3,Metal,80\nRIVET,Rivet,1,Metal,9\n"

DOORS: dict[str, Callable[[Shop], Post]] = {
    "transaction": lambda shop: post_json(
        "/transactions", line(shop.bolt, "sale", 4, reference="A-1", notes="two\nlines")
    ),
    "batch": lambda shop: post_json(
        "/transactions/batch",
        [line(shop.bolt, "sale", 3), line(shop.nut, "purchase", 4, reference="B"), line(shop.bolt, "adjustment", -1)],
    ),
    "reversal": lambda shop: post_json(f"/transactions/{shop.sale}/reversal", {"notes": "came back"}),
    "batch reversal": lambda shop: Post(f"/transactions/batch/{shop.batch_id}/reversal"),
    "count": lambda shop: post_json(f"/products/{shop.bolt}/counts", {"counted_quantity": 90, "expected_quantity": 97}),
    "product": lambda shop: post_json("/products", product_facts(shop)),
    "import": lambda _shop: post_file(FILE),
}
