"""Every endpoint that changes stock, with an example request to a small shop of two products."""

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
    """A request; ``content`` holds the keyword arguments of the test client's ``open``."""

    path: str
    content: Mapping[str, Any] = field(default_factory=dict)
    method: str = "POST"

    def send(self, client: FlaskClient, key: str | None = None, **query: str) -> TestResponse:
        headers = {} if key is None else {"Idempotency-Key": key}
        return client.open(self.path, method=self.method, headers=headers, query_string=query or None, **self.content)


def post_json(path: str, content: Any) -> Post:
    return Post(path, {"json": content})


def change(product_id: int, fields: Any, method: str = "PUT") -> Post:
    return Post(f"/products/{product_id}", {"json": fields}, method)


def post_file(text: str) -> Post:
    return Post("/import/products", {"data": text, "content_type": "text/csv"})


def open_shop(client: FlaskClient) -> Shop:
    """Create two products, BOLT with a stock of 97 and NUT with 50, after a sale of 10 bolts and a batch."""
    home = category(client)["id"]
    bolt = product(client, sku="BOLT", quantity_on_hand=100, category_id=home)["id"]
    nut = product(client, sku="NUT", quantity_on_hand=55, category_id=home)["id"]
    sale = transaction(client, bolt, "sale", 10)["id"]
    lines = [line(bolt, "purchase", 7), line(nut, "sale", 5)]
    batch = body(client.post("/transactions/batch", json={"lines": lines}))
    return Shop(home, bolt, nut, sale, batch["batch_id"])


def line(product_id: int, transaction_type: str, quantity: int, **fields: Any) -> dict[str, Any]:
    return {"product_id": product_id, "transaction_type": transaction_type, "quantity": quantity} | fields


def product_fields(shop: Shop, **fields: Any) -> dict[str, Any]:
    defaults = {
        "sku": "WASHER",
        "name": "Washer",
        "price": 2.5,
        "category_id": shop.category_id,
        "quantity_on_hand": 30,
    }
    return defaults | fields


FILE = "sku,name,price,category,quantity_on_hand\nBOLT,Bolt,3,Metal,80\nRIVET,Rivet,1,Metal,9\n"

ENDPOINTS: dict[str, Callable[[Shop], Post]] = {
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
    "product": lambda shop: post_json("/products", product_fields(shop)),
    "update": lambda shop: change(shop.bolt, {"price": 12.3456, "cost": None, "quantity_on_hand": 60}),
    "import": lambda _shop: post_file(FILE),
}
WITHOUT_DRY_RUN = {"product", "update"}
