from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import (
    assert_ledger_is_sound,
    body,
    category,
    listed,
    nothing_changes,
    product,
    refusal,
    refused_fields,
    transaction,
)

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

CHANGES: dict[str, Any] = {
    "sku": "Neu-ß",
    "name": "New name",
    "description": "New",
    "price": 99.9999,
    "cost": 0.0001,
    "reorder_point": 0,
    "location": "Z-1",
    "is_active": False,
}
REQUIRED = ["sku", "name", "price", "quantity_on_hand", "reorder_point", "category_id", "is_active"]

either_method = pytest.mark.parametrize("method", ["PUT", "PATCH"])


def put(client: FlaskClient, product_id: int, changes: Any, method: str = "PUT") -> TestResponse:
    return client.open(f"/products/{product_id}", method=method, json=changes)


def read(client: FlaskClient, product_id: int) -> dict[str, Any]:
    (found,) = [row for row in listed(client.get("/products?limit=1000")) if row["id"] == product_id]
    return found


def ledger(client: FlaskClient, product_id: int) -> list[tuple[str, int, int]]:
    """The product's movements, oldest first: reason or type, delta, balance."""
    rows = listed(client.get(f"/transactions/product/{product_id}"))[::-1]
    return [(row["reason"] or row["transaction_type"], row["delta"], row["balance_after"]) for row in rows]


@either_method
def test_each_field_changes_alone(client: FlaskClient, method: str) -> None:
    for field, value in CHANGES.items():
        before = product(client, description="Old", cost=1, location="A-1", quantity_on_hand=5)
        response = put(client, before["id"], {field: value}, method)
        assert response.status_code == 200
        after = body(response)
        assert after == before | {field: value, "version": 2, "updated_at": after["updated_at"]}
        assert after["updated_at"] > before["updated_at"]
        assert read(client, before["id"]) == after


@either_method
def test_all_fields_change_together(app: Flask, client: FlaskClient, method: str) -> None:
    before, elsewhere = product(client, quantity_on_hand=5), category(client)["id"]
    changes = CHANGES | {"quantity_on_hand": 3, "category_id": elsewhere}
    put(client, before["id"], changes, method)
    assert read(client, before["id"]).items() >= changes.items()
    assert_ledger_is_sound(app)


def test_null_clears_what_may_be_null(client: FlaskClient) -> None:
    cleared: dict[str, Any] = {"description": None, "cost": None, "location": None}
    before = product(client, description="Old", cost=1, location="A-1")
    put(client, before["id"], cleared)
    after = read(client, before["id"])
    assert after == before | cleared | {"version": 2, "updated_at": after["updated_at"]}


@either_method
def test_null_is_refused_where_a_value_must_be(app: Flask, client: FlaskClient, method: str) -> None:
    bolt = product(client)
    with nothing_changes(app):
        answers = [refused_fields(put(client, bolt["id"], {field: None}, method)) for field in REQUIRED]
    assert answers == [{"json": {field}} for field in REQUIRED]


@either_method
def test_unacceptable_and_unknown_fields_are_refused(app: Flask, client: FlaskClient, method: str) -> None:
    bolt = product(client, quantity_on_hand=3)
    bad: dict[str, Any] = {
        "sku": "x" * 51,
        "name": " ",
        "price": 0,
        "cost": -1,
        "quantity_on_hand": -1,
        "reorder_point": -1,
        "location": "x" * 51,
        "category_id": 0,
        "is_active": "no",
        "version": 2,
        "id": 5,
        "nmae": "x",
    }
    with nothing_changes(app):
        for field, value in bad.items():
            sent = {"description": "Changed", field: value}
            assert refused_fields(put(client, bolt["id"], sent, method)) == {"json": {field}}


@either_method
def test_update_that_says_nothing_new_changes_nothing(app: Flask, client: FlaskClient, method: str) -> None:
    bolt = product(client, cost=1.5, quantity_on_hand=5)
    same = {name: bolt[name] for name in (*CHANGES, "quantity_on_hand", "category_id")}
    with nothing_changes(app):
        for changes in ({}, same):
            response = put(client, bolt["id"], changes, method)
            assert (response.status_code, body(response)) == (200, bolt)


def test_version_counts_changes_of_the_facts_and_not_of_the_stock(client: FlaskClient) -> None:
    bolt = product(client)
    transaction(client, bolt["id"], "purchase", 5)
    put(client, bolt["id"], {"quantity_on_hand": 4})
    assert read(client, bolt["id"])["version"] == 1
    for number in (2, 3):
        put(client, bolt["id"], {"name": f"Version {number}"})
        assert read(client, bolt["id"])["version"] == number


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"price": 7.9999}, "price"),
        ({"cost": 10.0001}, "cost"),
        ({"price": 5, "cost": 6}, "price"),
    ],
)
def test_price_below_cost_is_refused_also_when_only_one_of_them_is_sent(
    app: Flask, client: FlaskClient, change: dict[str, Any], named: str
) -> None:
    bolt = product(client, price=10, cost=8)
    with nothing_changes(app):
        assert refused_fields(put(client, bolt["id"], {"name": "New", **change})) == {"json": {named}}


def test_price_and_cost_may_move_together_past_each_other(client: FlaskClient) -> None:
    bolt = product(client, price=10, cost=8)
    for changes in ({"price": 20, "cost": 15}, {"price": 5, "cost": 5}, {"price": 0.0001, "cost": None}):
        put(client, bolt["id"], changes)
        assert read(client, bolt["id"]).items() >= changes.items()


def test_a_product_may_change_the_case_of_its_own_sku(client: FlaskClient) -> None:
    bolt = product(client, sku="straße")
    assert put(client, bolt["id"], {"sku": " STRASSE "}).status_code == 200
    assert read(client, bolt["id"])["sku"] == "STRASSE"


@either_method
def test_sku_of_another_product_is_refused(app: Flask, client: FlaskClient, method: str) -> None:
    product(client, sku="Straße")
    bolt = product(client, quantity_on_hand=5)
    with nothing_changes(app):
        response = put(client, bolt["id"], {"sku": "STRASSE", "quantity_on_hand": 9}, method)
        assert refusal(response) == (409, "duplicate_sku")


def test_the_ledger_keeps_the_sku_of_its_time_and_is_found_by_the_present_one(client: FlaskClient) -> None:
    bolt = product(client, sku="OLD", quantity_on_hand=5)
    put(client, bolt["id"], {"sku": "NEW"})
    transaction(client, bolt["id"], "sale", 1)
    assert [row["sku"] for row in listed(client.get("/transactions?sku=new"))] == ["NEW", "OLD"]
    assert listed(client.get("/transactions?sku=old")) == []


@either_method
def test_move_to_a_category_that_does_not_exist_is_refused(app: Flask, client: FlaskClient, method: str) -> None:
    bolt = product(client, quantity_on_hand=5)
    with nothing_changes(app):
        response = put(client, bolt["id"], {"quantity_on_hand": 9, "name": "New", "category_id": 999}, method)
        assert refusal(response) == (400, "unknown_category")


def test_a_moved_product_is_found_in_its_new_category_only(client: FlaskClient) -> None:
    bolt, elsewhere = product(client), category(client)["id"]
    put(client, bolt["id"], {"category_id": elsewhere})
    assert listed(client.get(f"/products?category_id={bolt['category_id']}")) == []
    assert [row["id"] for row in listed(client.get(f"/products?category_id={elsewhere}"))] == [bolt["id"]]


@either_method
def test_quantity_becomes_a_count_row_with_the_difference(app: Flask, client: FlaskClient, method: str) -> None:
    bolt = product(client, quantity_on_hand=10)
    for quantity in (4, 25, 0):
        assert body(put(client, bolt["id"], {"quantity_on_hand": quantity}, method))["quantity_on_hand"] == quantity
    assert ledger(client, bolt["id"]) == [("opening", 10, 10), ("count", -6, 4), ("count", 21, 25), ("count", -25, 0)]
    assert_ledger_is_sound(app)


def test_the_same_quantity_leaves_no_row(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)
    put(client, bolt["id"], {"quantity_on_hand": 10, "name": "New"})
    assert ledger(client, bolt["id"]) == [("opening", 10, 10)]
    assert read(client, bolt["id"])["name"] == "New"


def test_quantity_of_an_inactive_product_can_be_set(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, is_active=False)
    put(client, bolt["id"], {"quantity_on_hand": 3})
    assert ledger(client, bolt["id"]) == [("count", 3, 3)]
    assert_ledger_is_sound(app)


@either_method
def test_one_count_moves_a_thousand_million_units_at_most(app: Flask, client: FlaskClient, method: str) -> None:
    bolt = product(client, quantity_on_hand=10**9)
    for quantity in (2 * 10**9, 10**9, 2 * 10**9):
        put(client, bolt["id"], {"quantity_on_hand": quantity}, method)
        assert read(client, bolt["id"])["quantity_on_hand"] == quantity
    with nothing_changes(app):
        for quantity in (10**9 - 1, 3 * 10**9 + 1, 10**12 + 1):
            sent = {"name": "New", "quantity_on_hand": quantity}
            assert refused_fields(put(client, bolt["id"], sent, method)) == {"json": {"quantity_on_hand"}}
    assert_ledger_is_sound(app)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_unknown_product_is_not_found(client: FlaskClient, method: str) -> None:
    sent = {"name": "New"} if method in {"PUT", "PATCH"} else None
    for product_id in ("1", "0", str(2**63 - 1), str(2**63), "9" * 60):
        response = client.open(f"/products/{product_id}", method=method, json=sent)
        assert refusal(response) == (404, "product_not_found")


def test_product_that_never_moved_is_deleted(client: FlaskClient) -> None:
    bolt = product(client)
    client.post("/transactions", json={"product_id": bolt["id"], "transaction_type": "sale", "quantity": 1})
    response = client.delete(f"/products/{bolt['id']}")
    assert (response.status_code, response.data) == (204, b"")
    assert refusal(client.get(f"/products/{bolt['id']}")) == (404, "product_not_found")
    assert product(client, sku=bolt["sku"])["id"] > bolt["id"]


@pytest.mark.parametrize(
    ("opening", "movements"),
    [
        (5, []),
        (0, [("purchase", 5)]),
        (0, [("adjustment", 5), ("sale", 5)]),
    ],
)
def test_product_with_history_is_not_deleted(
    app: Flask, client: FlaskClient, opening: int, movements: list[tuple[str, int]]
) -> None:
    bolt = product(client, quantity_on_hand=opening)
    for transaction_type, quantity in movements:
        transaction(client, bolt["id"], transaction_type, quantity)
    with nothing_changes(app):
        assert refusal(client.delete(f"/products/{bolt['id']}")) == (409, "product_has_history")
