"""Adjustments in bulk: ``record_adjustments`` writes what ``record`` would have written for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from inventory import errors
from inventory.database.base import db
from inventory.database.unit_of_work import unit_of_work
from inventory.transactions import batches, queries, service
from inventory.transactions.service import Movement
from inventory.transactions.statements import LEDGER
from tests.builders import assert_ledger_is_consistent, listed, nothing_changes, product

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

DIFFERENT = {"id", "product_id", "sku", "batch_id", "created_at"}


@unit_of_work
def adjust_all(units: dict[int, int], reason: str) -> None:
    batch_id = batches.new_id()
    batches.write(batch_id, "batch", None)
    service.record_adjustments(units, reason, batch_id)


@unit_of_work
def adjust_each(units: dict[int, int], reason: str) -> None:
    for product_id, moved in units.items():
        service.record(product_id, Movement("adjustment", moved, reason=reason))


def rows_of(app: Flask, product_id: int) -> list[dict[str, Any]]:
    with app.app_context():
        rows = queries.select_rows({"product_id": product_id}).add_columns(
            LEDGER.c.crossed, LEDGER.c.client, LEDGER.c.xid > 0
        )
        return [dict(row) for row in db.session.execute(rows.order_by(LEDGER.c.seq)).mappings()]


@pytest.mark.parametrize("reason", ["opening", "count"])
def test_record_adjustments_writes_same_rows_as_record(app: Flask, client: FlaskClient, reason: str) -> None:
    # To zero, to the reorder point, from zero to below it, from zero to above it, and from above it upwards.
    starts, moves = [5, 30, 0, 0, 30], [-5, -20, 3, 30, 1]
    one_by_one = [product(client, quantity_on_hand=start)["id"] for start in starts]
    at_once = [product(client, quantity_on_hand=start)["id"] for start in starts]
    with app.app_context():
        adjust_each(dict(zip(one_by_one, moves, strict=True)), reason)
        adjust_all(dict(zip(at_once, moves, strict=True)), reason)
    for expected, found in zip(one_by_one, at_once, strict=True):
        assert [without(row) for row in rows_of(app, found)] == [without(row) for row in rows_of(app, expected)]
    assert_ledger_is_consistent(app)


def without(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in DIFFERENT}


def test_record_adjustments_sets_batch_id_and_product_timestamps(app: Flask, client: FlaskClient) -> None:
    bolt, nut = product(client, sku="BOLT"), product(client, sku="NUT")
    with app.app_context():
        adjust_all({bolt["id"]: 4, nut["id"]: 7}, "count")
    rows = {row["sku"]: row for row in listed(client.get("/transactions"))}
    assert rows["BOLT"]["batch_id"] == rows["NUT"]["batch_id"] is not None
    for found in listed(client.get("/products")):
        assert found["updated_at"] == found["last_counted_at"] == rows[found["sku"]]["created_at"]


def test_record_adjustments_keeps_last_counted_at_for_opening(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)["id"]
    with app.app_context():
        adjust_all({bolt: 4}, "opening")
    assert client.get(f"/products/{bolt}").get_json()["last_counted_at"] is None


@pytest.mark.parametrize(
    ("units", "error"),
    [
        ({1: 5, 2: -4}, errors.InsufficientStock),
        ({1: 5, 2: 10**12}, errors.ValidationFailed),
        ({1: 5, 9: 1}, errors.UnknownProduct),
    ],
    ids=["insufficient stock", "quantity out of range", "unknown product"],
)
def test_record_adjustments_records_nothing_when_one_fails(
    app: Flask, client: FlaskClient, units: dict[int, int], error: type[errors.ServiceError]
) -> None:
    for _time in range(2):
        product(client, quantity_on_hand=3)
    with nothing_changes(app), app.app_context(), pytest.raises(error):
        adjust_all(units, "count")
