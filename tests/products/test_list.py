from __future__ import annotations

from datetime import datetime, timedelta
from itertools import combinations
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.builders import category, insert_products, invalid_fields, listed, product, transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from flask.testing import FlaskClient

PRODUCTS: list[dict[str, Any]] = [
    {"sku": "BOLT-8", "name": "Bolt 8 mm", "price": 0.1, "quantity_on_hand": 10, "reorder_point": 10},
    {"sku": "BOLT-10", "name": "bolt 10 mm", "price": 0.2, "quantity_on_hand": 11, "reorder_point": 10},
    {"sku": "NUT-8", "name": "Nut for BOLT-8", "price": 0.2, "quantity_on_hand": 0, "reorder_point": 0},
    {"sku": "straße-1", "name": "Kerb, straight", "price": 99.9999, "quantity_on_hand": 3, "reorder_point": 5},
    {"sku": "OLD-1", "name": "Bolt, old", "price": 5, "quantity_on_hand": 1, "reorder_point": 5, "is_active": False},
    {"sku": "OLD-2", "name": "Rail, old", "price": 5, "quantity_on_hand": 1000, "is_active": False},
]
# Query parameters, each with its meaning as a Python predicate. The first category has the first three products.
FILTERS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "category_id=1": lambda row: row["category_id"] == 1,
    "category_id=2": lambda row: row["category_id"] == 2,
    "category_id=99": lambda row: row["category_id"] == 99,
    "is_active=true": lambda row: row["is_active"],
    "is_active=false": lambda row: not row["is_active"],
    "search=bolt": lambda row: "bolt" in (row["name"] + row["sku"]).lower(),
    "search=8": lambda row: "8" in row["name"] + row["sku"],
    "search=STRASSE": lambda row: row["sku"] == "straße-1",
    "id=2&id=1&id=99": lambda row: row["id"] in {1, 2},
    "sku=none&sku=bolt-8&sku=STRASSE-1": lambda row: row["sku"] in {"BOLT-8", "straße-1"},
    "sku=bolt-8": lambda row: row["sku"] == "BOLT-8",
    "sku=STRASSE-1": lambda row: row["sku"] == "straße-1",
    "low_stock=true": lambda row: row["quantity_on_hand"] <= row["reorder_point"],
    "low_stock=false": lambda row: row["quantity_on_hand"] > row["reorder_point"],
    "min_price=0.2": lambda row: row["price"] >= 0.2,
    "min_price=99.9999": lambda row: row["price"] >= 99.9999,
    "max_price=0.2": lambda row: row["price"] <= 0.2,
    "max_price=99.9998": lambda row: row["price"] <= 99.9998,
    "min_quantity=10": lambda row: row["quantity_on_hand"] >= 10,
    "max_quantity=10": lambda row: row["quantity_on_hand"] <= 10,
    "max_quantity=0": lambda row: row["quantity_on_hand"] == 0,
}
BAD_QUERIES = {
    "category_id": ["0", "-1", "x", "1.5", str(2**63), ""],
    "is_active": ["maybe", "", "2"],
    "search": ["x" * 201, "%00", "%0A"],
    "sku": ["", "%20", "x" * 51],
    "low_stock": ["maybe", ""],
    "min_price": ["-1", "13,75", "x", "1e3", "NaN", "Infinity", "0.00001", "1" * 41],
    "max_price": ["-0.01", "", "10000000000"],
    "min_quantity": ["-1", "1.5", "1_000", "x", str(10**12 + 1)],
    "max_quantity": ["", "9" * 60],
    "updated_since": ["yesterday", "2024-13-01", "", "0001-01-01T00:00:00%2B14:00"],
    "sort": ["", "cost", "sku_folded", "-", "--name", "name,", "name,-name", "name;DROP TABLE products"],
    "skip": ["-1", "x", "1.5", str(10**9 + 1)],
    "limit": ["0", "-1", "1001", "x"],
    "include_total": ["maybe"],
    "serch": ["bolt"],
    "page": ["2"],
}


@pytest.fixture
def products(client: FlaskClient) -> list[dict[str, Any]]:
    """Creates the products above. Returns them as a list shows them."""
    categories = [category(client)["id"] for _ in range(2)]
    return [product(client, category_id=categories[number // 3], **fields) for number, fields in enumerate(PRODUCTS)]


def skus(client: FlaskClient, query: str) -> list[str]:
    return [row["sku"] for row in listed(client.get(f"/products?{query}"))]


def test_list_returns_all_products_by_id(client: FlaskClient, products: list[dict[str, Any]]) -> None:
    assert listed(client.get("/products")) == products


def test_filters_alone_and_in_pairs(client: FlaskClient, products: list[dict[str, Any]]) -> None:
    chosen = [(name,) for name in FILTERS] + list(combinations(FILTERS, 2))
    queries = [names for names in chosen if len({name.partition("=")[0] for name in names}) == len(names)]
    found = {names: skus(client, "&".join(names)) for names in queries}
    assert found == {
        names: [row["sku"] for row in products if all(FILTERS[name](row) for name in names)] for names in queries
    }


def test_all_filters_combined(client: FlaskClient, products: list[dict[str, Any]]) -> None:
    query = (
        "category_id=1&is_active=true&search=bolt&sku=bolt-8&low_stock=true&min_price=0.1&max_price=0.1"
        f"&min_quantity=10&max_quantity=10&updated_since={quote(products[0]['updated_at'])}"
    )
    assert skus(client, query) == ["BOLT-8"]


def test_updated_since_is_inclusive_and_covers_fields_and_stock(
    client: FlaskClient, products: list[dict[str, Any]]
) -> None:
    client.patch(f"/products/{products[2]['id']}", json={"name": "New"})
    transaction(client, products[1]["id"], "sale", 1)
    updated_at = listed(client.get("/products?sku=nut-8"))[0]["updated_at"]
    assert skus(client, f"updated_since={quote(updated_at)}") == ["BOLT-10", "NUT-8"]
    later = datetime.fromisoformat(updated_at) + timedelta(microseconds=1)
    assert skus(client, f"updated_since={quote(later.isoformat())}") == ["BOLT-10"]


def test_updated_since_accepts_date_and_any_offset(client: FlaskClient, products: list[dict[str, Any]]) -> None:
    updated_at = datetime.fromisoformat(products[3]["updated_at"])
    shifted = (updated_at + timedelta(hours=5, minutes=30)).replace(tzinfo=None).isoformat()
    naive = updated_at.replace(tzinfo=None).isoformat()
    expected = skus(client, f"updated_since={quote(products[3]['updated_at'])}")
    assert expected == [row["sku"] for row in products[3:]]
    assert [skus(client, f"updated_since={form}") for form in (f"{shifted}%2B05:30", f"{shifted}+05:30", naive)] == [
        expected
    ] * 3
    assert len(skus(client, f"updated_since={products[0]['updated_at'][:10]}")) == len(products)
    assert skus(client, f"updated_since={updated_at.date() + timedelta(days=2)}") == []


def test_search_treats_special_characters_literally(app: Flask, client: FlaskClient) -> None:
    names = ["50% off", "50 off", "a_b", "axb", "a/b", "a\\b", "a'b", 'a"b', "a  b", "a*b", "a?b", "[ab]"]
    insert_products(
        app, category(client)["id"], [{"name": name, "sku": f"{number:03}"} for number, name in enumerate(names)]
    )
    texts = ["0%", "%", "_", "a_b", "/", "\\", "'", '"', "  ", "*", "?", "[", "x%"]
    found = {
        text: [row["name"] for row in listed(client.get("/products", query_string={"search": text}))] for text in texts
    }
    assert found == {text: [name for name in names if text in name] for text in texts}


def test_search_is_case_insensitive_in_every_script(app: Flask, client: FlaskClient) -> None:
    names = ["Straße", "STRASSE", "Σίσυφος", "ÄRMEL", "ﬁttings", "Ёлка", "İzmir", "ᏣᎳᎩ"]
    insert_products(
        app, category(client)["id"], [{"name": name, "sku": f"{number:03}"} for number, name in enumerate(names)]
    )
    texts = {
        "strasse": ["Straße", "STRASSE"],
        "AßE": ["Straße", "STRASSE"],
        "ΣΊΣΥΦΟΣ": ["Σίσυφος"],
        "ärmel": ["ÄRMEL"],
        "FIT": ["ﬁttings"],
        "ёЛКА": ["Ёлка"],
        "i̇ZMIR": ["İzmir"],
        "ꮳꮃꭹ": ["ᏣᎳᎩ"],
        "armel": [],
    }
    found = {
        text: [row["name"] for row in listed(client.get("/products", query_string={"search": text}))] for text in texts
    }
    assert found == texts


def test_search_matches_only_name_and_sku(client: FlaskClient) -> None:
    product(client, sku="needle-1", name="First")
    product(client, sku="B", name="Second Needle")
    product(client, sku="C", name="Third", description="needle", location="needle")
    assert skus(client, "search=needle") == ["needle-1", "B"]


def test_empty_search_returns_all_products(client: FlaskClient, products: list[dict[str, Any]]) -> None:
    assert len(skus(client, "search=")) == len(products)


@pytest.mark.usefixtures("products")
def test_boolean_parameters_accept_words_and_digits(client: FlaskClient) -> None:
    active, inactive = skus(client, "is_active=true"), skus(client, "is_active=false")
    assert [skus(client, f"is_active={word}") for word in ("1", "yes", "TRUE", "True")] == [active] * 4
    assert [skus(client, f"is_active={word}") for word in ("0", "no", "FALSE")] == [inactive] * 3


def test_invalid_query_parameter_is_rejected_by_name(client: FlaskClient) -> None:
    asked = [(name, value) for name, values in BAD_QUERIES.items() for value in values]
    answers = {pair: invalid_fields(client.get(f"/products?{pair[0]}={pair[1]}")) for pair in asked}
    assert answers == {(name, value): {"query": {name}} for name, value in asked}


def test_repeated_query_parameter_is_rejected(client: FlaskClient) -> None:
    assert invalid_fields(client.get("/products?search=a&search=b")) == {"query": {"search"}}


def test_all_query_errors_are_reported_together(client: FlaskClient) -> None:
    response = client.get("/products?limit=0&min_price=x&nmae=y")
    assert invalid_fields(response) == {"query": {"limit", "min_price", "nmae"}}


def test_detail_rejects_unknown_query_parameter(client: FlaskClient) -> None:
    bolt = product(client)
    assert invalid_fields(client.get(f"/products/{bolt['id']}?expand=all")) == {"query": {"expand"}}


def test_low_stock_lists_active_products_at_or_below_reorder_point(
    client: FlaskClient, products: list[dict[str, Any]]
) -> None:
    found = listed(client.get("/products/low-stock"))
    assert {row["sku"] for row in found} == {"BOLT-8", "NUT-8", "straße-1"}
    assert all(row in products for row in found)


def test_low_stock_lists_largest_shortage_first(client: FlaskClient) -> None:
    stock = {"enough": (11, 10), "at": (10, 10), "low": (9, 10), "also low": (4, 5), "out": (0, 10), "huge": (0, 10**9)}
    for sku, (quantity, reorder_point) in stock.items():
        product(client, sku=sku, quantity_on_hand=quantity, reorder_point=reorder_point)
    found = listed(client.get("/products/low-stock"))
    assert [row["sku"] for row in found] == ["huge", "out", "low", "also low", "at"]


@pytest.mark.usefixtures("products")
def test_low_stock_supports_filters(client: FlaskClient) -> None:
    queries = {
        "category_id=1": ["BOLT-8", "NUT-8"],
        "search=bolt": ["BOLT-8", "NUT-8"],
        "search=STRASSE&category_id=2": ["straße-1"],
        "category_id=2&search=bolt": [],
    }
    found = {query: [row["sku"] for row in listed(client.get(f"/products/low-stock?{query}"))] for query in queries}
    assert found == queries


def test_low_stock_rejects_unknown_query_parameters(client: FlaskClient) -> None:
    for name in ("sort", "is_active", "low_stock", "serch"):
        assert invalid_fields(client.get(f"/products/low-stock?{name}=id")) == {"query": {name}}
