from __future__ import annotations

from typing import TYPE_CHECKING

from tests.builders import body, listed, product, transaction

if TYPE_CHECKING:
    from flask.testing import FlaskClient


def test_detail_shows_the_product_and_its_movements_newest_first(client: FlaskClient) -> None:
    bolt, other = product(client, quantity_on_hand=10), product(client, quantity_on_hand=3)
    transaction(client, bolt["id"], "sale", 4, reference="INV-1", notes="for the yard")
    transaction(client, other["id"], "sale", 1)
    transaction(client, bolt["id"], "adjustment", -1, reason="damage")
    detail = body(client.get(f"/products/{bolt['id']}"))
    assert [(row["seq"], row["delta"]) for row in detail["transactions"]] == [(3, -1), (2, -4), (1, 10)]
    assert detail.pop("transactions") == listed(client.get(f"/transactions?product_id={bolt['id']}"))
    assert [detail] == listed(client.get(f"/products?sku={bolt['sku']}"))


def test_detail_of_a_product_that_never_moved_has_no_movements(client: FlaskClient) -> None:
    bolt = product(client)
    assert body(client.get(f"/products/{bolt['id']}")) == bolt | {"transactions": []}


def test_detail_is_bounded_to_the_newest_50_movements(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=100)
    for _ in range(51):
        transaction(client, bolt["id"], "sale", 1)
    detail = body(client.get(f"/products/{bolt['id']}"))
    assert [row["seq"] for row in detail["transactions"]] == list(range(52, 2, -1))
