from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.builders import body, error_of, listed, product, transaction

if TYPE_CHECKING:
    from flask.testing import FlaskClient


def test_detail_includes_transactions_newest_first(client: FlaskClient) -> None:
    bolt, other = product(client, quantity_on_hand=10), product(client, quantity_on_hand=3)
    transaction(client, bolt["id"], "sale", 4, reference="INV-1", notes="for the yard")
    transaction(client, other["id"], "sale", 1)
    transaction(client, bolt["id"], "adjustment", -1, reason="damage")
    detail = body(client.get(f"/products/{bolt['id']}"))
    assert [(row["seq"], row["delta"]) for row in detail["transactions"]] == [(3, -1), (2, -4)]
    assert detail.pop("transactions") == listed(client.get(f"/transactions?product_id={bolt['id']}"))[:2]
    assert [detail] == listed(client.get(f"/products?sku={bolt['sku']}"))


def test_detail_without_movements_has_empty_transactions(client: FlaskClient) -> None:
    bolt = product(client)
    assert body(client.get(f"/products/{bolt['id']}")) == bolt | {"transactions": []}


def test_detail_is_limited_to_newest_50_transactions(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=100)
    for _ in range(51):
        transaction(client, bolt["id"], "sale", 1)
    detail = body(client.get(f"/products/{bolt['id']}"))
    assert [row["seq"] for row in detail["transactions"]] == list(range(52, 2, -1))


def test_detail_include_opening_adds_opening_transaction(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 4)
    shown = body(client.get(f"/products/{bolt}?include_opening=true"))["transactions"]
    assert [(row["seq"], row["reason"]) for row in shown] == [(2, None), (1, "opening")]


@pytest.mark.parametrize("sku", ["BOLT-8", "A/B", "/", "A/", "A B", "x//y", "..", "50%?#&", "Straße", "螺母"])
def test_by_sku_returns_same_response_as_by_id(client: FlaskClient, sku: str) -> None:
    product(client)
    bolt = product(client, sku=sku, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 4)
    for query in ("", "?include_opening=true"):
        found = client.get(f"/products/by-sku/{quote(sku, safe='')}{query}")
        expected = client.get(f"/products/{bolt}{query}")
        assert (found.status_code, found.data) == (200, expected.data)
        assert found.headers["ETag"] == expected.headers["ETag"]


def test_by_sku_ignores_case_and_surrounding_whitespace(client: FlaskClient) -> None:
    product(client, sku="Straße 7")
    for written in ("STRASSE%207", "stra%C3%9Fe%207", "%20Stra%C3%9Fe%207%20"):
        assert body(client.get(f"/products/by-sku/{written}"))["sku"] == "Straße 7"


def test_by_sku_if_none_match_returns_304_when_unchanged(client: FlaskClient) -> None:
    product(client, sku="BOLT")
    current = client.get("/products/by-sku/bolt").headers["ETag"]
    response = client.get("/products/by-sku/bolt", headers={"If-None-Match": current})
    assert (response.status_code, response.data) == (304, b"")


def test_by_sku_returns_404_for_unknown_sku(client: FlaskClient) -> None:
    product(client, sku="BOLT")
    for sku in ("BOL", "BOLT/", "%25", "x" * 5_000, "%FF"):
        assert error_of(client.get(f"/products/by-sku/{sku}")) == (404, "product_not_found")
    assert client.get("/products/by-sku/a%00b").status_code == 404
