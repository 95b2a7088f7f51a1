from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from inventory.database.base import db
from inventory.database.unit_of_work import unit_of_work
from inventory.fields import MAX_STOCK
from inventory.models.product import Product
from inventory.transactions import service
from inventory.transactions.service import Movement, record
from tests.builders import (
    assert_ledger_is_consistent,
    body,
    error_of,
    invalid_fields,
    listed,
    nothing_changes,
    product,
    transaction,
)
from tests.conftest import on_postgresql
from tests.statements import watched

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from tests.environments import Environment

FIELDS = {
    "id",
    "product_id",
    "sku",
    "transaction_type",
    "quantity",
    "delta",
    "balance_after",
    "seq",
    "reason",
    "reference",
    "notes",
    "reverses_id",
    "batch_id",
    "actor",
    "created_at",
}
REASONS = ["damage", "loss", "return", "other"]
RESERVED = ["opening", "count", "reversal", "import"]
NOT_A_WHOLE_NUMBER: list[Any] = [1.5, "1", None, True, [1], 2**63, 2**64]


def post(client: FlaskClient, **fields: Any) -> TestResponse:
    return client.post("/transactions", json=fields)


def stock(client: FlaskClient, product_id: int) -> int:
    quantity: int = body(client.get(f"/products/{product_id}"))["quantity_on_hand"]
    return quantity


@pytest.mark.parametrize(
    ("transaction_type", "quantity", "delta"),
    [("purchase", 5, 5), ("sale", 5, -5), ("sale", 10, -10), ("adjustment", 5, 5), ("adjustment", -10, -10)],
)
def test_transaction_changes_stock_by_its_delta(
    app: Flask, client: FlaskClient, transaction_type: str, quantity: int, delta: int
) -> None:
    bolt = product(client, quantity_on_hand=10)
    row = transaction(client, bolt["id"], transaction_type, quantity)
    assert (row["quantity"], row["delta"], row["balance_after"], row["seq"]) == (quantity, delta, 10 + delta, 2)
    assert stock(client, bolt["id"]) == 10 + delta
    assert_ledger_is_consistent(app)


def test_create_returns_201_with_location(client: FlaskClient) -> None:
    bolt = product(client)
    response = post(
        client,
        product_id=bolt["id"],
        transaction_type="adjustment",
        quantity=3,
        reason="return",
        reference=" RMA-7 ",
        notes=" Box dented,\ncontents fine ",
    )
    row = body(response)
    assert response.status_code == 201
    assert response.headers["Location"] == f"/transactions/{row['id']}"
    assert row.keys() == FIELDS
    assert (row["product_id"], row["sku"], row["transaction_type"]) == (bolt["id"], bolt["sku"], "adjustment")
    assert (row["reason"], row["reference"], row["notes"]) == ("return", "RMA-7", "Box dented,\ncontents fine")
    assert body(client.get(response.headers["Location"])) == row


@pytest.mark.parametrize("transaction_type", ["purchase", "sale"])
def test_purchase_and_sale_default_optional_fields_to_null(client: FlaskClient, transaction_type: str) -> None:
    row = transaction(client, product(client, quantity_on_hand=1)["id"], transaction_type, 1)
    absent = ("reason", "reference", "notes", "reverses_id", "batch_id")
    assert {name: row[name] for name in absent} == dict.fromkeys(absent)


def test_blank_text_is_stored_as_null(client: FlaskClient) -> None:
    for blank in (None, "", "  "):
        row = transaction(client, product(client)["id"], "purchase", 1, reference=blank, notes=blank, reason=None)
        stored = body(client.get(f"/transactions/{row['id']}"))
        assert (stored["reference"], stored["notes"], stored["reason"]) == (None, None, None)


def test_sku_lookup_is_case_insensitive(client: FlaskClient) -> None:
    bolt = product(client, sku="Straße-1")
    for sku in ("Straße-1", "STRASSE-1", " strasse-1 "):
        assert post(client, sku=sku, transaction_type="purchase", quantity=1).status_code == 201
    rows = listed(client.get(f"/transactions?product_id={bolt['id']}"))
    assert [(row["sku"], row["seq"]) for row in rows] == [("Straße-1", 3), ("Straße-1", 2), ("Straße-1", 1)]


def test_unknown_product_returns_400_by_id_and_sku(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, sku="BOLT", quantity_on_hand=5)
    named: list[dict[str, Any]] = [{"product_id": bolt["id"] + 1}, {"product_id": 2**63 - 1}, {"sku": "BOLT-"}]
    with nothing_changes(app):
        for transaction_type in ("purchase", "sale", "adjustment"):
            responses = [
                error_of(post(client, **name, transaction_type=transaction_type, quantity=1)) for name in named
            ]
            assert responses == [(400, "unknown_product")] * len(named)


def test_exactly_one_of_product_id_and_sku_is_required(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5)
    movement = {"transaction_type": "sale", "quantity": 1}
    with nothing_changes(app):
        assert invalid_fields(post(client, **movement)) == {"json": {"product_id"}}
        both = post(client, **movement, product_id=bolt["id"], sku=bolt["sku"])
        assert invalid_fields(both) == {"json": {"sku"}}


def test_invalid_fields_return_422_by_name(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5)
    valid = {"product_id": bolt["id"], "transaction_type": "adjustment", "quantity": 1}
    invalid: dict[str, list[Any]] = {
        "product_id": [0, -1, *NOT_A_WHOLE_NUMBER],
        "transaction_type": ["Sale", "", "reversal", None, 1],
        "quantity": [0, -(10**9) - 1, 10**9 + 1, *NOT_A_WHOLE_NUMBER],
        "reason": ["", "Damage", "theft", 1],
        "reference": ["x" * 101, "a\0b", "a\nb", 5],
        "notes": ["x" * 501, "a\0b", 5],
        "expected_quantity": [-1, *NOT_A_WHOLE_NUMBER],
        "delta": [1],
        "seq": [9],
        "created_at": ["2024-01-01T00:00:00Z"],
        "actor": ["me"],
    }
    with nothing_changes(app):
        for field, values in invalid.items():
            responses = [invalid_fields(client.post("/transactions", json=valid | {field: value})) for value in values]
            assert responses == [{"json": {field}}] * len(values)


def test_missing_fields_are_all_reported(client: FlaskClient) -> None:
    missing = {"product_id", "transaction_type", "quantity"}
    assert invalid_fields(client.post("/transactions", json={})) == {"json": missing}


@pytest.mark.parametrize("transaction_type", ["purchase", "sale"])
def test_purchase_and_sale_accept_1_to_one_billion_units(
    app: Flask, client: FlaskClient, transaction_type: str
) -> None:
    bolt = product(client, quantity_on_hand=10**9)
    with nothing_changes(app):
        for quantity in (0, -1, -(10**9), 10**9 + 1):
            response = post(client, product_id=bolt["id"], transaction_type=transaction_type, quantity=quantity)
            assert invalid_fields(response) == {"json": {"quantity"}}
    for quantity in (1, 10**9 - 1):
        transaction(client, bolt["id"], transaction_type, quantity)
    assert stock(client, bolt["id"]) == (2 * 10**9 if transaction_type == "purchase" else 0)
    assert transaction(client, bolt["id"], "purchase", 10**9)["delta"] == 10**9
    assert transaction(client, bolt["id"], "sale", 10**9)["delta"] == -(10**9)
    assert_ledger_is_consistent(app)


def test_adjustment_accepts_plus_and_minus_one_billion(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)
    for quantity in (10**9, -(10**9), 1, -1):
        transaction(client, bolt["id"], "adjustment", quantity)
    assert_ledger_is_consistent(app)


def test_quantity_accepts_integral_float(client: FlaskClient) -> None:
    row = transaction(client, product(client)["id"], "purchase", 5.0)  # type: ignore[arg-type]
    assert (row["quantity"], row["balance_after"]) == (5, 5)


def test_adjustment_accepts_client_reasons_and_defaults_to_other(client: FlaskClient) -> None:
    bolt = product(client)
    rows = [transaction(client, bolt["id"], "adjustment", 1, reason=reason) for reason in [*REASONS, None]]
    rows.append(transaction(client, bolt["id"], "adjustment", 1))
    assert [row["reason"] for row in rows] == [*REASONS, "other", "other"]


@pytest.mark.parametrize("reason", RESERVED)
def test_adjustment_rejects_reserved_reason(app: Flask, client: FlaskClient, reason: str) -> None:
    bolt = product(client, quantity_on_hand=5)
    with nothing_changes(app):
        response = post(client, product_id=bolt["id"], transaction_type="adjustment", quantity=1, reason=reason)
        assert invalid_fields(response) == {"json": {"reason"}}


@pytest.mark.parametrize("transaction_type", ["purchase", "sale"])
def test_purchase_and_sale_reject_reason(app: Flask, client: FlaskClient, transaction_type: str) -> None:
    bolt = product(client, quantity_on_hand=5)
    with nothing_changes(app):
        for reason in REASONS + RESERVED:
            response = post(client, product_id=bolt["id"], transaction_type=transaction_type, quantity=1, reason=reason)
            assert invalid_fields(response) == {"json": {"reason"}}


def test_text_fields_accept_maximum_length(client: FlaskClient) -> None:
    longest = {"reference": "ß" * 100, "notes": "🔩" * 500}
    row = transaction(client, product(client)["id"], "purchase", 1, **longest)
    assert body(client.get(f"/transactions/{row['id']}")).items() >= longest.items()


@pytest.mark.parametrize(
    ("available", "movement", "message"),
    [
        (10, ("sale", 20), "Cannot sell 20 units: only 10 available"),
        (10, ("sale", 11), "Cannot sell 11 units: only 10 available"),
        (0, ("sale", 1), "Cannot sell 1 unit: only 0 available"),
        (2, ("adjustment", -3), "Cannot remove 3 units: only 2 available"),
    ],
)
def test_insufficient_stock_returns_400_and_changes_nothing(
    app: Flask, client: FlaskClient, available: int, movement: tuple[str, int], message: str
) -> None:
    transaction_type, quantity = movement
    bolt = product(client, quantity_on_hand=available)
    with nothing_changes(app):
        response = post(client, product_id=bolt["id"], transaction_type=transaction_type, quantity=quantity)
    assert response.status_code == 400
    assert body(response) == {
        "error": "insufficient_stock",
        "message": message,
        "code": 400,
        "details": {"available": available, "requested": abs(quantity)},
    }


def test_inactive_product_accepts_only_adjustments(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5, is_active=False)
    with nothing_changes(app):
        for transaction_type, quantity in (("purchase", 1), ("sale", 1), ("sale", 100)):
            response = post(client, product_id=bolt["id"], transaction_type=transaction_type, quantity=quantity)
            assert error_of(response) == (409, "product_inactive")
        response = post(client, product_id=bolt["id"], transaction_type="adjustment", quantity=-6)
        assert error_of(response) == (400, "insufficient_stock")
    transaction(client, bolt["id"], "adjustment", -2)
    transaction(client, bolt["id"], "adjustment", 4)
    assert stock(client, bolt["id"]) == 7


def test_reactivated_product_accepts_sale(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5, is_active=False)
    client.patch(f"/products/{bolt['id']}", json={"is_active": True})
    assert transaction(client, bolt["id"], "sale", 5)["balance_after"] == 0


@pytest.mark.parametrize(("transaction_type", "quantity"), [("sale", 3), ("purchase", 3), ("adjustment", -3)])
def test_expected_quantity_returns_409_when_stale(
    app: Flask, client: FlaskClient, transaction_type: str, quantity: int
) -> None:
    bolt = product(client, quantity_on_hand=10)
    fields = {"product_id": bolt["id"], "transaction_type": transaction_type, "quantity": quantity}
    assert post(client, **fields, expected_quantity=10).status_code == 201
    left = stock(client, bolt["id"])
    with nothing_changes(app):
        response = post(client, **fields, expected_quantity=10)
        assert error_of(response) == (409, "stale_quantity")
        assert body(response)["details"] == {"expected": 10, "quantity_on_hand": left}


def test_expected_quantity_may_be_zero(client: FlaskClient) -> None:
    bolt = product(client)
    assert transaction(client, bolt["id"], "purchase", 1, expected_quantity=0)["balance_after"] == 1


def test_stale_quantity_takes_precedence_over_insufficient_stock(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=1)
    fields = {"product_id": bolt["id"], "transaction_type": "sale", "quantity": 5}
    assert error_of(post(client, **fields, expected_quantity=7)) == (409, "stale_quantity")
    assert error_of(post(client, **fields, expected_quantity=1)) == (400, "insufficient_stock")


def test_stock_may_reach_but_not_exceed_maximum(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)
    with app.app_context():
        unit_of_work(record)(bolt["id"], Movement("purchase", MAX_STOCK - 1))
    transaction(client, bolt["id"], "purchase", 1)
    with nothing_changes(app):
        response = post(client, product_id=bolt["id"], transaction_type="purchase", quantity=1)
        assert invalid_fields(response) == {"json": {"quantity"}}
    assert_ledger_is_consistent(app)


def test_seq_has_no_gap_after_errors(app: Flask, client: FlaskClient) -> None:
    bolt, nut = product(client), product(client, quantity_on_hand=2)
    for _ in range(3):
        transaction(client, bolt["id"], "purchase", 1)
        post(client, product_id=bolt["id"], transaction_type="sale", quantity=100)
        post(client, product_id=nut["id"], transaction_type="sale", quantity=100)
        transaction(client, nut["id"], "purchase", 1)
    seqs = {
        name: [row["seq"] for row in listed(client.get(f"/transactions?product_id={name}"))]
        for name in (bolt["id"], nut["id"])
    }
    assert seqs == {bolt["id"]: [3, 2, 1], nut["id"]: [4, 3, 2, 1]}
    assert_ledger_is_consistent(app)


def test_created_at_is_utc_and_equals_updated_at_of_product(client: FlaskClient) -> None:
    bolt = product(client)
    before = datetime.now(UTC) - timedelta(seconds=1)
    row = transaction(client, bolt["id"], "purchase", 1)
    timestamp = datetime.fromisoformat(row["created_at"])
    assert timestamp.utcoffset() == timedelta(0)
    assert before <= timestamp <= datetime.now(UTC) + timedelta(seconds=1)
    assert body(client.get(f"/products/{bolt['id']}"))["updated_at"] == row["created_at"]


def test_created_at_does_not_decrease_when_clock_does(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with app.app_context():
        db.session.execute(update(Product).values(updated_at=tomorrow))
        db.session.commit()
    timestamps = [transaction(client, bolt["id"], "sale", 1)["created_at"] for _ in range(3)]
    assert [datetime.fromisoformat(timestamp) for timestamp in timestamps] == [tomorrow] * 3
    rows = listed(client.get(f"/transactions?product_id={bolt['id']}"))
    assert [row["seq"] for row in rows] == [4, 3, 2, 1]
    assert_ledger_is_consistent(app)


@on_postgresql
@pytest.mark.parametrize(
    ("opening", "meanwhile", "wanted", "balance"),
    [(1, ("purchase", 5), ("sale", 6), 0), (MAX_STOCK, ("sale", 5), ("purchase", 5), MAX_STOCK)],
    ids=["insufficient stock", "maximum stock"],
)
def test_transaction_is_recorded_when_stock_changes_during_rejection(
    own_environment: Environment, opening: int, meanwhile: tuple[str, int], wanted: tuple[str, int], balance: int
) -> None:
    app = own_environment.app
    client = app.test_client()
    bolt = product(client)
    with app.app_context():
        unit_of_work(record)(bolt["id"], Movement("purchase", opening))
    arrived: list[dict[str, Any]] = []

    def move() -> None:
        arrived.append(transaction(app.test_client(), bolt["id"], *meanwhile))

    def move_after_the_check(statement: str, _parameters: object) -> None:
        if "UPDATE products" in statement and not arrived:
            arrived.append({})
            movement = Thread(target=move)
            movement.start()
            movement.join()

    with watched(app, after=move_after_the_check):
        row = transaction(client, bolt["id"], *wanted)
    assert len(arrived) == 2
    assert (row["seq"], row["balance_after"]) == (3, balance)
    assert_ledger_is_consistent(app)


def test_movement_of_a_stock_that_keeps_changing_is_busy(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time the statement refuses it, and the stock that is read next would allow it."""
    bolt = product(client, quantity_on_hand=5)["id"]
    monkeypatch.setattr(service, "execute_in_turn", lambda *_arguments: ())
    sale = {"product_id": bolt, "transaction_type": "sale", "quantity": 1}
    with nothing_changes(app):
        assert error_of(client.post("/transactions", json=sale)) == (503, "database_busy")
        assert error_of(client.post("/transactions/batch", json=[sale])) == (503, "database_busy")
