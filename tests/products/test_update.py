from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import (
    assert_ledger_is_consistent,
    body,
    category,
    error_of,
    invalid_fields,
    listed,
    nothing_changes,
    product,
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


def update(client: FlaskClient, product_id: int, changes: Any, method: str = "PUT") -> TestResponse:
    return client.open(f"/products/{product_id}", method=method, json=changes)


def read(client: FlaskClient, product_id: int) -> dict[str, Any]:
    (found,) = [row for row in listed(client.get("/products?limit=1000")) if row["id"] == product_id]
    return found


def ledger(client: FlaskClient, product_id: int) -> list[tuple[str, int, int]]:
    """The product's movements, oldest first: reason or type, delta, balance."""
    rows = listed(client.get(f"/transactions?product_id={product_id}"))[::-1]
    return [(row["reason"] or row["transaction_type"], row["delta"], row["balance_after"]) for row in rows]


@either_method
def test_update_changes_single_field(client: FlaskClient, method: str) -> None:
    for field, value in CHANGES.items():
        before = product(client, description="Old", cost=1, location="A-1", quantity_on_hand=5)
        response = update(client, before["id"], {field: value}, method)
        assert response.status_code == 200
        after = body(response)
        assert after == before | {field: value, "version": 2, "updated_at": after["updated_at"]}
        assert after["updated_at"] > before["updated_at"]
        assert read(client, before["id"]) == after


@either_method
def test_update_changes_all_fields_together(app: Flask, client: FlaskClient, method: str) -> None:
    before, elsewhere = product(client, quantity_on_hand=5), category(client)["id"]
    changes = CHANGES | {"quantity_on_hand": 3, "category_id": elsewhere}
    update(client, before["id"], changes, method)
    assert read(client, before["id"]).items() >= changes.items()
    assert_ledger_is_consistent(app)


def test_null_clears_nullable_fields(client: FlaskClient) -> None:
    cleared: dict[str, Any] = {"description": None, "cost": None, "location": None}
    before = product(client, description="Old", cost=1, location="A-1")
    update(client, before["id"], cleared)
    after = read(client, before["id"])
    assert after == before | cleared | {"version": 2, "updated_at": after["updated_at"]}


@either_method
def test_null_is_rejected_for_required_fields(app: Flask, client: FlaskClient, method: str) -> None:
    bolt = product(client)
    with nothing_changes(app):
        answers = [invalid_fields(update(client, bolt["id"], {field: None}, method)) for field in REQUIRED]
    assert answers == [{"json": {field}} for field in REQUIRED]


@either_method
def test_invalid_and_unknown_fields_are_rejected(app: Flask, client: FlaskClient, method: str) -> None:
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
        "version": 0,
        "last_seq": 5,
        "nmae": "x",
    }
    with nothing_changes(app):
        for field, value in bad.items():
            sent = {"description": "Changed", field: value}
            assert invalid_fields(update(client, bolt["id"], sent, method)) == {"json": {field}}


@either_method
def test_update_without_changes_writes_nothing(app: Flask, client: FlaskClient, method: str) -> None:
    bolt = product(client, cost=1.5, quantity_on_hand=5)
    same = {name: bolt[name] for name in (*CHANGES, "quantity_on_hand", "category_id")}
    with nothing_changes(app):
        for changes in ({}, same):
            response = update(client, bolt["id"], changes, method)
            assert (response.status_code, body(response)) == (200, bolt)


READ_ONLY = ["id", "last_counted_at", "created_at", "updated_at", "transactions"]
stale_quantity = (409, "stale_quantity")


@either_method
def test_detail_may_be_sent_back_with_changed_field(app: Flask, client: FlaskClient, method: str) -> None:
    bolt = product(client, quantity_on_hand=50)["id"]
    transaction(client, bolt, "sale", 1)
    detail = body(client.get(f"/products/{bolt}"))
    assert detail["transactions"]
    assert update(client, bolt, detail | {"price": 11}, method).status_code == 200
    after = body(client.get(f"/products/{bolt}"))
    assert after == detail | {"price": 11, "version": 2, "updated_at": after["updated_at"]}
    again = update(client, bolt, after | {"quantity_on_hand": 60}, method)
    assert (again.status_code, read(client, bolt)["quantity_on_hand"]) == (200, 60)
    assert_ledger_is_consistent(app)


@either_method
@pytest.mark.parametrize("value", [None, 7, -1, "x", "2024-13-01", True, [], {"a": 1}])
def test_read_only_fields_are_ignored(app: Flask, client: FlaskClient, method: str, value: Any) -> None:
    bolt = product(client, quantity_on_hand=5)
    with nothing_changes(app):
        response = update(client, bolt["id"], dict.fromkeys(READ_ONLY, value), method)
        assert (response.status_code, body(response)) == (200, bolt)
    sold = dict.fromkeys(READ_ONLY, value) | {"quantity_on_hand": 5, "updated_at": bolt["updated_at"]}
    transaction(client, bolt["id"], "sale", 1)
    response = update(client, bolt["id"], sold, method)
    assert (response.status_code, body(response)["quantity_on_hand"]) == (200, 4)


@either_method
def test_sending_back_older_detail_does_not_restore_sold_stock(app: Flask, client: FlaskClient, method: str) -> None:
    bolt = product(client, quantity_on_hand=50)["id"]
    detail = body(client.get(f"/products/{bolt}"))
    transaction(client, bolt, "sale", 5)
    response = update(client, bolt, detail | {"price": 11}, method)
    assert (response.status_code, body(response)["price"], body(response)["quantity_on_hand"]) == (200, 11, 45)
    assert len(ledger(client, bolt)) == 2
    with nothing_changes(app):
        response = update(client, bolt, detail | {"version": 2, "quantity_on_hand": 49}, method)
        assert error_of(response) == stale_quantity
    assert body(response)["details"] == {"expected": 50, "quantity_on_hand": 45}


def test_repeated_update_does_not_restore_sold_stock(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=50)
    sent = {"price": 11, "quantity_on_hand": 50, "updated_at": bolt["updated_at"]}
    assert update(client, bolt["id"], sent).status_code == 200
    transaction(client, bolt["id"], "sale", 5)
    assert update(client, bolt["id"], sent).status_code == 200
    assert read(client, bolt["id"])["quantity_on_hand"] == 45
    assert_ledger_is_consistent(app)


def test_count_accepts_older_updated_at_when_stock_is_unchanged(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=50)
    assert update(client, bolt["id"], {"price": 11}).status_code == 200
    response = update(client, bolt["id"], {"quantity_on_hand": 49, "updated_at": bolt["updated_at"]})
    assert (response.status_code, read(client, bolt["id"])["quantity_on_hand"]) == (200, 49)


@pytest.mark.parametrize(
    "updated_at",
    ["2024-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "Sat, 21 Nov 2026 20:26:30 GMT", 1_763_756_790, "x", True, []],
)
def test_count_with_updated_at_that_was_never_read_is_rejected(
    app: Flask, client: FlaskClient, updated_at: object
) -> None:
    bolt = product(client, quantity_on_hand=50)["id"]
    transaction(client, bolt, "sale", 5)
    with nothing_changes(app):
        response = update(client, bolt, {"updated_at": updated_at, "quantity_on_hand": 50, "price": 11})
        assert error_of(response) == (422, "validation_error")
    assert body(response)["details"] == {
        "json": {
            "updated_at": [
                "Must be the value that was read together with quantity_on_hand. Fetch the product again and retry."
            ]
        }
    }
    same = update(client, bolt, {"updated_at": updated_at, "quantity_on_hand": 45, "price": 11})
    assert (same.status_code, body(same)["price"], body(same)["quantity_on_hand"]) == (200, 11, 45)


def test_null_updated_at_is_no_condition(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=50)["id"]
    response = update(client, bolt, {"updated_at": None, "quantity_on_hand": 49})
    assert (response.status_code, body(response)["quantity_on_hand"]) == (200, 49)


@pytest.mark.parametrize("digits", [19, 23])  # whole seconds, and milliseconds as in JavaScript
def test_truncated_updated_at_does_not_restore_sold_stock(app: Flask, client: FlaskClient, digits: int) -> None:
    bolt = product(client, quantity_on_hand=50)
    seen = {"updated_at": bolt["updated_at"][:digits] + "Z", "quantity_on_hand": 50}
    transaction(client, bolt["id"], "sale", 5)
    response = update(client, bolt["id"], seen | {"price": 11})
    assert (response.status_code, body(response)["quantity_on_hand"]) == (200, 45)
    assert_ledger_is_consistent(app)


@pytest.mark.parametrize(("digits", "unit"), [(19, timedelta(seconds=1)), (23, timedelta(milliseconds=1))])
def test_count_with_truncated_updated_at_is_stale_after_a_later_sale(
    client: FlaskClient, digits: int, unit: timedelta
) -> None:
    bolt = product(client, quantity_on_hand=50)
    truncated = bolt["updated_at"][:digits] + "Z"
    while datetime.now(UTC) < datetime.fromisoformat(truncated) + unit:
        time.sleep(0.001)
    transaction(client, bolt["id"], "sale", 1)
    response = update(client, bolt["id"], {"updated_at": truncated, "quantity_on_hand": 48})
    assert error_of(response) == stale_quantity


def test_merge_patch_content_type_is_accepted_only_for_patch(app: Flask, client: FlaskClient) -> None:
    address = f"/products/{product(client)['id']}"
    merge_patch, json_patch = "application/merge-patch+json", "application/json-patch+json"
    response = client.patch(address, data=b'{"location": "A1"}', content_type=merge_patch)
    assert (response.status_code, body(response)["location"]) == (200, "A1")
    with nothing_changes(app):
        for method, content_type in (("PATCH", json_patch), ("PUT", json_patch), ("PUT", merge_patch)):
            sent = client.open(address, method=method, data=b'{"location": "B2"}', content_type=content_type)
            assert error_of(sent) == (415, "unsupported_media_type")


def test_version_counts_field_changes_but_not_stock_changes(client: FlaskClient) -> None:
    bolt = product(client)
    transaction(client, bolt["id"], "purchase", 5)
    update(client, bolt["id"], {"quantity_on_hand": 4})
    assert read(client, bolt["id"])["version"] == 1
    for number in (2, 3):
        update(client, bolt["id"], {"name": f"Version {number}"})
        assert read(client, bolt["id"])["version"] == number


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"price": 7.9999}, "price"),
        ({"cost": 10.0001}, "cost"),
        ({"price": 5, "cost": 6}, "price"),
    ],
)
def test_price_below_cost_is_rejected_in_partial_update(
    app: Flask, client: FlaskClient, change: dict[str, Any], named: str
) -> None:
    bolt = product(client, price=10, cost=8)
    with nothing_changes(app):
        assert invalid_fields(update(client, bolt["id"], {"name": "New", **change})) == {"json": {named}}


def test_price_and_cost_may_change_together(client: FlaskClient) -> None:
    bolt = product(client, price=10, cost=8)
    for changes in ({"price": 20, "cost": 15}, {"price": 5, "cost": 5}, {"price": 0.0001, "cost": None}):
        update(client, bolt["id"], changes)
        assert read(client, bolt["id"]).items() >= changes.items()


def test_update_may_change_case_of_own_sku(client: FlaskClient) -> None:
    bolt = product(client, sku="straße")
    assert update(client, bolt["id"], {"sku": " STRASSE "}).status_code == 200
    assert read(client, bolt["id"])["sku"] == "STRASSE"


@either_method
def test_duplicate_sku_returns_409(app: Flask, client: FlaskClient, method: str) -> None:
    product(client, sku="Straße")
    bolt = product(client, quantity_on_hand=5)
    with nothing_changes(app):
        response = update(client, bolt["id"], {"sku": "STRASSE", "quantity_on_hand": 9}, method)
        assert error_of(response) == (409, "duplicate_sku")


def test_transactions_keep_old_sku_but_are_found_by_current_sku(client: FlaskClient) -> None:
    bolt = product(client, sku="OLD", quantity_on_hand=5)
    update(client, bolt["id"], {"sku": "NEW"})
    transaction(client, bolt["id"], "sale", 1)
    assert [row["sku"] for row in listed(client.get("/transactions?sku=new"))] == ["NEW", "OLD"]
    assert listed(client.get("/transactions?sku=old")) == []


@either_method
def test_unknown_category_returns_400(app: Flask, client: FlaskClient, method: str) -> None:
    bolt = product(client, quantity_on_hand=5)
    with nothing_changes(app):
        response = update(client, bolt["id"], {"quantity_on_hand": 9, "name": "New", "category_id": 999}, method)
        assert error_of(response) == (400, "unknown_category")


def test_moved_product_is_listed_only_in_new_category(client: FlaskClient) -> None:
    bolt, elsewhere = product(client), category(client)["id"]
    update(client, bolt["id"], {"category_id": elsewhere})
    assert listed(client.get(f"/products?category_id={bolt['category_id']}")) == []
    assert [row["id"] for row in listed(client.get(f"/products?category_id={elsewhere}"))] == [bolt["id"]]


@either_method
def test_changed_quantity_records_count_with_difference(app: Flask, client: FlaskClient, method: str) -> None:
    bolt = product(client, quantity_on_hand=10)
    for quantity in (4, 25, 0):
        assert body(update(client, bolt["id"], {"quantity_on_hand": quantity}, method))["quantity_on_hand"] == quantity
    assert ledger(client, bolt["id"]) == [("opening", 10, 10), ("count", -6, 4), ("count", 21, 25), ("count", -25, 0)]
    assert_ledger_is_consistent(app)


def test_unchanged_quantity_records_no_transaction(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)
    update(client, bolt["id"], {"quantity_on_hand": 10, "name": "New"})
    assert ledger(client, bolt["id"]) == [("opening", 10, 10)]
    assert read(client, bolt["id"])["name"] == "New"


def test_quantity_of_inactive_product_can_be_changed(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, is_active=False)
    update(client, bolt["id"], {"quantity_on_hand": 3})
    assert ledger(client, bolt["id"]) == [("count", 3, 3)]
    assert_ledger_is_consistent(app)


@either_method
def test_quantity_change_is_limited_to_one_billion_units(app: Flask, client: FlaskClient, method: str) -> None:
    bolt = product(client, quantity_on_hand=10**9)
    for quantity in (2 * 10**9, 10**9, 2 * 10**9):
        update(client, bolt["id"], {"quantity_on_hand": quantity}, method)
        assert read(client, bolt["id"])["quantity_on_hand"] == quantity
    with nothing_changes(app):
        for quantity in (10**9 - 1, 3 * 10**9 + 1, 10**12 + 1):
            sent = {"name": "New", "quantity_on_hand": quantity}
            assert invalid_fields(update(client, bolt["id"], sent, method)) == {"json": {"quantity_on_hand"}}
    assert_ledger_is_consistent(app)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_unknown_product_returns_404(client: FlaskClient, method: str) -> None:
    sent = {"name": "New"} if method in {"PUT", "PATCH"} else None
    for product_id in ("1", "0", str(2**63 - 1), str(2**63), "9" * 60):
        response = client.open(f"/products/{product_id}", method=method, json=sent)
        assert error_of(response) == (404, "product_not_found")


def test_delete_without_transactions_returns_204(client: FlaskClient) -> None:
    bolt = product(client)
    client.post("/transactions", json={"product_id": bolt["id"], "transaction_type": "sale", "quantity": 1})
    response = client.delete(f"/products/{bolt['id']}")
    assert (response.status_code, response.data) == (204, b"")
    assert error_of(client.get(f"/products/{bolt['id']}")) == (404, "product_not_found")
    assert product(client, sku=bolt["sku"])["id"] > bolt["id"]


@pytest.mark.parametrize(
    ("opening", "movements"),
    [
        (5, []),
        (0, [("purchase", 5)]),
        (0, [("adjustment", 5), ("sale", 5)]),
    ],
)
def test_delete_with_transactions_returns_409(
    app: Flask, client: FlaskClient, opening: int, movements: list[tuple[str, int]]
) -> None:
    bolt = product(client, quantity_on_hand=opening)
    for transaction_type, quantity in movements:
        transaction(client, bolt["id"], transaction_type, quantity)
    with nothing_changes(app):
        assert error_of(client.delete(f"/products/{bolt['id']}")) == (409, "product_has_history")
