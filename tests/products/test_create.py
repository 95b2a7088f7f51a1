from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import func, select

from inventory.database.base import db
from inventory.models.product import Product
from tests.builders import (
    assert_ledger_is_consistent,
    body,
    category,
    error_of,
    invalid_fields,
    listed,
    nothing_changes,
    product,
)

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

FIELDS = {
    "id",
    "sku",
    "name",
    "description",
    "price",
    "cost",
    "quantity_on_hand",
    "reorder_point",
    "location",
    "category_id",
    "is_active",
    "version",
    "created_at",
    "updated_at",
}
INTERNAL = {"sku_folded", "name_folded", "last_seq"}
AMOUNTS = [0.0001, 0.1, 0.3, 1, 19.99, 1.005, 8.2345, 1234567890.1234, 9999999999.9998, 9999999999.9999]
NOT_A_STRING: list[Any] = [5, True, ["a"], {"a": 1}]
NOT_AN_INTEGER: list[Any] = ["5", 1.5, True, [1], None, 2**63, 2**64]


def new(category_id: int, **fields: Any) -> dict[str, Any]:
    return {"sku": "NEW", "name": "New", "price": 10, "category_id": category_id} | fields


def read(client: FlaskClient, product_id: int) -> dict[str, Any]:
    detail = body(client.get(f"/products/{product_id}"))
    return {name: value for name, value in detail.items() if name != "transactions"}


def assert_rejects(app: Flask, client: FlaskClient, field: str, values: list[Any]) -> None:
    """Each of ``values`` for ``field`` returns a validation error that names only this field."""
    category_id = category(client)["id"]
    with nothing_changes(app):
        answers = [invalid_fields(client.post("/products", json=new(category_id) | {field: bad})) for bad in values]
    assert answers == [{"json": {field}}] * len(values)


def test_create_returns_201_with_location_and_product(client: FlaskClient) -> None:
    fields = {
        "sku": "BOLT-8",
        "name": "Bolt 8 mm",
        "description": "Zinc-plated,\nISO 4017",
        "price": 13.75,
        "cost": 9.5,
        "quantity_on_hand": 120,
        "reorder_point": 25,
        "location": "A-07",
        "category_id": category(client)["id"],
        "is_active": False,
    }
    response = client.post("/products", json=fields)
    created = body(response)
    assert response.status_code == 201
    assert response.headers["Location"] == f"/products/{created['id']}"
    assert created.items() >= fields.items()
    assert created.keys() >= FIELDS
    assert not created.keys() & INTERNAL
    assert read(client, created["id"]) == created
    assert listed(client.get("/products")) == [created]


def test_create_applies_defaults_to_omitted_fields(client: FlaskClient) -> None:
    created = body(client.post("/products", json=new(category(client)["id"])))
    assert {name: created[name] for name in FIELDS - {"id", "created_at", "updated_at"}} == {
        "sku": "NEW",
        "name": "New",
        "description": None,
        "price": 10,
        "cost": None,
        "quantity_on_hand": 0,
        "reorder_point": 10,
        "location": None,
        "category_id": created["category_id"],
        "is_active": True,
        "version": 1,
    }


def test_null_and_blank_optional_fields_are_stored_as_null(client: FlaskClient) -> None:
    for blank in (None, "", "   "):
        created = product(client, description=blank, location=blank, cost=None)
        stored = read(client, created["id"])
        assert (stored["description"], stored["location"], stored["cost"]) == (None, None, None)


def test_text_fields_are_stripped_at_both_ends(client: FlaskClient) -> None:
    given = {"sku": "\u2003 ä-1 ", "name": " Größe ½  🔩\u00a0", "description": " a\n\tb\r\n", "location": " A 7 "}
    stored = read(client, product(client, **given)["id"])
    assert {name: stored[name] for name in given} == {name: text.strip() for name, text in given.items()}


def test_text_of_maximum_length_is_accepted_in_any_script(client: FlaskClient) -> None:
    for letter in ("x", "ß", "ΐ", "🔩"):  # ΐ becomes three characters when its case is folded
        longest = {"sku": letter * 50, "name": letter * 200, "description": letter * 1000, "location": letter * 50}
        assert read(client, product(client, **longest)["id"]).items() >= longest.items()


def test_sku_must_have_1_to_50_characters(app: Flask, client: FlaskClient) -> None:
    assert_rejects(app, client, "sku", ["", "  ", None, "x" * 51, "a\0b", "a\tb", "a\nb", *NOT_A_STRING])


def test_name_must_have_1_to_200_characters(app: Flask, client: FlaskClient) -> None:
    assert_rejects(app, client, "name", ["", "  ", None, "x" * 201, "a\0b", "a\nb", *NOT_A_STRING])


def test_description_above_1000_characters_is_rejected(app: Flask, client: FlaskClient) -> None:
    assert_rejects(app, client, "description", ["x" * 1001, "a\0b", *NOT_A_STRING])


def test_location_above_50_characters_is_rejected(app: Flask, client: FlaskClient) -> None:
    assert_rejects(app, client, "location", ["x" * 51, "a\0b", "a\nb", *NOT_A_STRING])


def test_price_must_be_positive_amount(app: Flask, client: FlaskClient) -> None:
    bad = [0, -1, -0.0001, 10**10, 1e300, 0.00001, 1.23456, "10", "", None, True, [1], 2**64]
    assert_rejects(app, client, "price", bad)


def test_cost_must_be_non_negative_amount(app: Flask, client: FlaskClient) -> None:
    assert_rejects(app, client, "cost", [-0.0001, -1, 10**10, 0.00001, "1", True, [1]])


def test_quantity_must_be_between_zero_and_one_billion(app: Flask, client: FlaskClient) -> None:
    assert_rejects(app, client, "quantity_on_hand", [-1, 10**9 + 1, *NOT_AN_INTEGER])


def test_reorder_point_must_be_non_negative_integer(app: Flask, client: FlaskClient) -> None:
    assert_rejects(app, client, "reorder_point", [-1, *NOT_AN_INTEGER])


def test_is_active_must_be_boolean(app: Flask, client: FlaskClient) -> None:
    assert_rejects(app, client, "is_active", ["true", 1, 0, None, "yes"])


def test_category_id_must_be_positive_integer(app: Flask, client: FlaskClient) -> None:
    assert_rejects(app, client, "category_id", [0, -1, *NOT_AN_INTEGER])


def test_read_only_and_unknown_fields_are_rejected(app: Flask, client: FlaskClient) -> None:
    for field in ("id", "version", "created_at", "updated_at", "last_seq", "sku_folded", "nmae"):
        assert_rejects(app, client, field, [1])


def test_all_missing_fields_are_reported_together(app: Flask, client: FlaskClient) -> None:
    with nothing_changes(app):
        response = client.post("/products", json={})
        assert invalid_fields(response) == {"json": {"sku", "name", "price", "category_id"}}


def test_amounts_are_returned_as_sent(client: FlaskClient) -> None:
    created = [product(client, price=amount, cost=amount) for amount in AMOUNTS]
    stored = [read(client, row["id"]) for row in created]
    assert [(row["price"], row["cost"]) for row in stored] == [(amount, amount) for amount in AMOUNTS]
    raw = client.get(f"/products/{created[3]['id']}").data
    assert type(orjson.loads(raw)["price"]) is float


def test_amounts_are_stored_exactly(app: Flask, client: FlaskClient) -> None:
    for amount in AMOUNTS:
        product(client, price=amount, cost=amount)
    with app.app_context():
        stored = db.session.execute(select(Product.price, Product.cost).order_by(Product.id)).all()
    assert [tuple(row) for row in stored] == [(Decimal(repr(amount)), Decimal(repr(amount))) for amount in AMOUNTS]


def test_amounts_are_summed_exactly(app: Flask, client: FlaskClient) -> None:
    for _ in range(10):
        product(client, price=0.1)
    product(client, price=9999999999.9999)
    with app.app_context():
        assert db.session.scalar(select(func.sum(Product.price))) == Decimal("10000000000.9999")


def test_price_may_equal_cost_and_cost_be_zero_or_null(client: FlaskClient) -> None:
    assert [product(client, price=0.0001, cost=cost)["cost"] for cost in (0.0001, 0, None)] == [0.0001, 0, None]


def test_price_below_cost_is_rejected(app: Flask, client: FlaskClient) -> None:
    category_id = category(client)["id"]
    with nothing_changes(app):
        response = client.post("/products", json=new(category_id, price=9.9999, cost=10))
        assert invalid_fields(response) == {"json": {"price"}}


def test_duplicate_sku_in_other_case_returns_409(app: Flask, client: FlaskClient) -> None:
    pairs = [("bolt-1", "BOLT-1"), ("Straße", "STRASSE"), ("ΣΊΣΥΦΟΣ", "σίσυφος"), ("x 1", " X 1 ")]
    category_id = category(client)["id"]
    for taken, _wanted in pairs:
        product(client, sku=taken, category_id=category_id)
    with nothing_changes(app):
        answers = [error_of(client.post("/products", json=new(category_id, sku=wanted))) for _taken, wanted in pairs]
    assert answers == [(409, "duplicate_sku")] * len(pairs)


def test_duplicate_sku_of_inactive_product_returns_409(app: Flask, client: FlaskClient) -> None:
    product(client, sku="OLD", is_active=False)
    category_id = category(client)["id"]
    with nothing_changes(app):
        assert error_of(client.post("/products", json=new(category_id, sku="old"))) == (409, "duplicate_sku")


def test_unknown_category_returns_400(app: Flask, client: FlaskClient) -> None:
    with nothing_changes(app):
        for category_id in (1, 999, 2**63 - 1):
            assert error_of(client.post("/products", json=new(category_id))) == (400, "unknown_category")


def test_opening_stock_is_recorded_as_first_transaction(app: Flask, client: FlaskClient) -> None:
    created = product(client, quantity_on_hand=7, is_active=False)
    (row,) = listed(client.get(f"/transactions?product_id={created['id']}"))
    expected = {
        "product_id": created["id"],
        "sku": created["sku"],
        "transaction_type": "adjustment",
        "quantity": 7,
        "delta": 7,
        "balance_after": 7,
        "seq": 1,
        "reason": "opening",
        "reference": None,
        "notes": None,
        "reverses_id": None,
        "batch_id": None,
    }
    assert row.items() >= expected.items()
    assert_ledger_is_consistent(app)


def test_product_without_stock_has_no_transactions(client: FlaskClient) -> None:
    for given in ({}, {"quantity_on_hand": 0}):
        created = product(client, **given)
        assert listed(client.get(f"/transactions/product/{created['id']}")) == []


def test_opening_stock_may_be_one_or_one_billion(app: Flask, client: FlaskClient) -> None:
    created = [product(client, quantity_on_hand=quantity) for quantity in (1, 10**9)]
    assert [read(client, row["id"])["quantity_on_hand"] for row in created] == [1, 10**9]
    assert_ledger_is_consistent(app)


def test_reorder_point_may_be_zero(client: FlaskClient) -> None:
    assert read(client, product(client, reorder_point=0)["id"])["reorder_point"] == 0


def test_integer_fields_accept_float_without_fraction(client: FlaskClient) -> None:
    category_id = category(client)["id"]
    fields = new(category_id, quantity_on_hand=5.0, reorder_point=2.0)
    created = body(client.post("/products", json=fields))
    assert (created["quantity_on_hand"], created["reorder_point"]) == (5, 2)


def test_timestamps_are_utc_with_offset(client: FlaskClient) -> None:
    created = product(client)
    times = [datetime.fromisoformat(created[name]) for name in ("created_at", "updated_at")]
    assert [time.utcoffset() for time in times] == [timedelta(0), timedelta(0)]
    assert times[0] <= times[1]
