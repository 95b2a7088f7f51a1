from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.builders import (
    body,
    error_of,
    insert_transactions,
    invalid_fields,
    listed,
    nothing_changes,
    product,
    transaction,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from flask.testing import FlaskClient

Row = dict[str, Any]
# Query parameters, each with the equivalent predicate in Python.
FILTERS: dict[str, Callable[[Row], bool]] = {
    "id=3&id=5&id=99": lambda row: row["id"] in {3, 5},
    "id=1": lambda row: row["id"] == 1,
    "sku=strasse&sku=NUT": lambda row: row["sku"] in {"Straße", "NUT"},
    "product_id=1": lambda row: row["product_id"] == 1,
    "product_id=2": lambda row: row["product_id"] == 2,
    "product_id=99": lambda row: row["product_id"] == 99,
    "sku=STRASSE": lambda row: row["sku"] == "Straße",
    "sku=nut": lambda row: row["sku"] == "NUT",
    "sku=none": lambda row: row["sku"] == "none",
    "transaction_type=purchase": lambda row: row["transaction_type"] == "purchase",
    "transaction_type=sale": lambda row: row["transaction_type"] == "sale",
    "transaction_type=adjustment": lambda row: row["transaction_type"] == "adjustment",
    "reason=opening": lambda row: row["reason"] == "opening",
    "reason=damage": lambda row: row["reason"] == "damage",
    "reference=INV-1": lambda row: row["reference"] == "INV-1",
    "reference=50%25": lambda row: row["reference"] == "50%",
    "batch_id=none": lambda row: row["batch_id"] == "none",
    "created_from=2024-01-01": lambda row: row["created_at"] >= "2024-01-01",
    "created_to=2999-01-01": lambda row: row["created_at"] < "2999-01-02",
    "created_to=2024-01-01": lambda row: row["created_at"] < "2024-01-02",
    "created_to=20240101": lambda row: row["created_at"] < "2024-01-02",
    "created_to=2024-W01-1": lambda row: row["created_at"] < "2024-01-02",
}
INVALID_QUERIES = {
    "id": ["0", "x", "", str(2**63), "1,2"],
    "product_id": ["0", "x", "", str(2**63)],
    "sku": ["", "x" * 51],
    "transaction_type": ["Sale", "", "opening"],
    "reason": ["theft", "", "null"],
    "reference": ["", "x" * 101],
    "batch_id": ["", "x" * 37],
    "created_from": ["yesterday", "", "2024-02-30", "0001-01-01T00:00:00%2B14:00"],
    "created_to": ["2024", "12/31/2024", "9999-12-31T23:59:59-14:00"],
    "sort": ["quantity", "seq", ""],
    "seq": ["1"],
}


@pytest.fixture
def ledger(client: FlaskClient) -> list[Row]:
    """Some transactions, newest first."""
    bolt, nut = product(client, sku="Straße", quantity_on_hand=50), product(client, sku="NUT")
    transaction(client, nut["id"], "purchase", 20, reference="PO-1")
    transaction(client, bolt["id"], "sale", 5, reference="INV-1")
    transaction(client, nut["id"], "sale", 2, reference="INV-1")
    transaction(client, nut["id"], "sale", 1, reference="inv-1")
    transaction(client, bolt["id"], "adjustment", -1, reason="damage", reference="50%")
    transaction(client, nut["id"], "adjustment", 1, reason="return")
    rows = [body(client.get(f"/transactions/{row_id}")) for row_id in range(7, 0, -1)]
    assert len({row["created_at"] for row in rows}) == len(rows)
    return rows


def ids(client: FlaskClient, query: str) -> list[int]:
    return [row["id"] for row in listed(client.get(f"/transactions?{query}"))]


def test_list_returns_all_transactions_newest_first(client: FlaskClient, ledger: list[Row]) -> None:
    assert listed(client.get("/transactions")) == ledger


def test_list_sort_order_can_be_reversed(client: FlaskClient, ledger: list[Row]) -> None:
    for query in ("sort=created_at", "sort=id", "sort=created_at,-id"):
        assert listed(client.get(f"/transactions?{query}")) == ledger[::-1]
    assert listed(client.get("/transactions?sort=-id")) == ledger


def test_list_filters_work_alone_and_in_pairs(client: FlaskClient, ledger: list[Row]) -> None:
    chosen = [(name,) for name in FILTERS] + list(combinations(FILTERS, 2))
    queries = [names for names in chosen if len({name.partition("=")[0] for name in names}) == len(names)]
    found = {names: ids(client, "&".join(names)) for names in queries}
    assert found == {
        names: [row["id"] for row in ledger if all(FILTERS[name](row) for name in names)] for names in queries
    }


def test_list_filters_can_be_combined(client: FlaskClient, ledger: list[Row]) -> None:
    timestamp = quote(ledger[1]["created_at"])
    query = (
        "product_id=1&sku=strasse&transaction_type=adjustment&reason=damage&reference=50%25"
        f"&created_from={timestamp}&created_to={timestamp}"
    )
    assert ids(client, query) == [ledger[1]["id"]]


def test_list_period_includes_both_ends(app: Flask, client: FlaskClient) -> None:
    noon = datetime(2024, 2, 29, 12, tzinfo=UTC)
    tick = timedelta(microseconds=1)
    insert_transactions(app, product(client)["id"], [noon - tick, noon, noon + tick])
    queries = {
        "created_from=2024-02-29T12:00:00Z": [3, 2],
        "created_to=2024-02-29T12:00:00Z": [2, 1],
        "created_from=2024-02-29T12:00:00Z&created_to=2024-02-29T12:00:00Z": [2],
        "created_from=2024-02-29T13:00:00%2B01:00&created_to=2024-02-29T13:00:00+01:00": [2],
        "created_from=2024-02-29T12:00:00.000001&created_to=2024-02-29T12:00:00.000001": [3],
        "created_from=2024-02-29T12:00:01&created_to=2024-02-29T11:00:00": [],
    }
    assert {query: ids(client, query) for query in queries} == queries


def test_list_period_treats_date_as_whole_utc_day(app: Flask, client: FlaskClient) -> None:
    day = datetime(2024, 2, 29, tzinfo=UTC)
    tick = timedelta(microseconds=1)
    insert_transactions(
        app, product(client)["id"], [day - tick, day, day + timedelta(days=1) - tick, day + timedelta(days=1)]
    )
    queries = {
        "created_from=2024-02-29&created_to=2024-02-29": [3, 2],
        "created_from=2024-02-29": [4, 3, 2],
        "created_to=2024-02-29": [3, 2, 1],
    }
    assert {query: ids(client, query) for query in queries} == queries


def test_list_orders_equal_timestamps_by_id(app: Flask, client: FlaskClient) -> None:
    insert_transactions(app, product(client)["id"], [datetime(2024, 1, 1, tzinfo=UTC)] * 3)
    assert [ids(client, query) for query in ("", "sort=created_at", "sort=-created_at")] == [
        [3, 2, 1],
        [1, 2, 3],
        [1, 2, 3],
    ]


def test_list_rejects_invalid_parameters_by_name(client: FlaskClient) -> None:
    asked = [(name, value) for name, values in INVALID_QUERIES.items() for value in values]
    responses = {pair: invalid_fields(client.get(f"/transactions?{pair[0]}={pair[1]}")) for pair in asked}
    assert responses == {(name, value): {"query": {name}} for name, value in asked}


def test_get_unknown_transaction_returns_404(client: FlaskClient) -> None:
    for transaction_id in ("1", "0", str(2**63), "9" * 60):
        assert error_of(client.get(f"/transactions/{transaction_id}")) == (404, "transaction_not_found")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_transactions_cannot_be_updated_or_deleted(app: Flask, client: FlaskClient, method: str) -> None:
    row = transaction(client, product(client)["id"], "purchase", 1)
    with nothing_changes(app):
        for address, allowed in ((f"/transactions/{row['id']}", {"GET"}), ("/transactions", {"GET", "POST"})):
            response = client.open(address, method=method, json={"quantity": 2})
            assert error_of(response) == (405, "method_not_allowed")
            assert set(response.headers["Allow"].split(", ")) == allowed | {"HEAD", "OPTIONS"}


def test_history_returns_product_transactions_newest_first(client: FlaskClient, ledger: list[Row]) -> None:
    for product_id in (1, 2):
        expected = [row for row in ledger if row["product_id"] == product_id and row["reason"] != "opening"]
        assert listed(client.get(f"/transactions/product/{product_id}")) == expected
        assert listed(client.get(f"/transactions/product/{product_id}?sort=id")) == expected[::-1]


def test_history_is_empty_without_transactions(client: FlaskClient) -> None:
    bolt = product(client, is_active=False)
    assert listed(client.get(f"/transactions/product/{bolt['id']}")) == []


def test_history_of_unknown_product_returns_404(client: FlaskClient) -> None:
    for product_id in ("1", "0", str(2**63)):
        assert error_of(client.get(f"/transactions/product/{product_id}")) == (404, "product_not_found")


def test_history_rejects_filters(client: FlaskClient) -> None:
    bolt = product(client)
    for name in ("sku", "product_id", "reason"):
        assert invalid_fields(client.get(f"/transactions/product/{bolt['id']}?{name}=1")) == {"query": {name}}


def test_history_excludes_opening_balance(client: FlaskClient) -> None:
    """The scenario of a popular tutorial: a product with stock, then a purchase, a sale and an adjustment."""
    bolt = product(client, quantity_on_hand=50)["id"]
    transaction(client, bolt, "purchase", 20)
    transaction(client, bolt, "sale", 10)
    transaction(client, bolt, "adjustment", -5)
    history = client.get(f"/transactions/product/{bolt}?include_total=true")
    assert [row["transaction_type"] for row in listed(history)] == ["adjustment", "sale", "purchase"]
    assert history.headers["X-Total-Count"] == "3"
    assert [row["transaction_type"] for row in body(client.get(f"/products/{bolt}"))["transactions"]] == [
        "adjustment",
        "sale",
        "purchase",
    ]


def test_history_includes_opening_balance_on_request(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=50)["id"]
    transaction(client, bolt, "sale", 10)
    whole = client.get(f"/transactions/product/{bolt}?include_opening=true&include_total=true")
    assert [row["reason"] for row in listed(whole)] == [None, "opening"]
    assert whole.headers["X-Total-Count"] == "2"


def test_history_includes_first_transaction_without_opening_stock(client: FlaskClient) -> None:
    bolt = product(client)["id"]
    client.put(f"/products/{bolt}", json={"quantity_on_hand": 5})
    nut = product(client)["id"]
    transaction(client, nut, "purchase", 5)
    for product_id in (bolt, nut):
        assert [row["seq"] for row in listed(client.get(f"/transactions/product/{product_id}"))] == [1]


def test_list_and_export_include_opening_balance(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=50)["id"]
    exported = client.get("/export/transactions?format=jsonl").data.splitlines()
    assert len(listed(client.get("/transactions"))) == len(exported) == 1
    assert [row["reason"] for row in listed(client.get(f"/transactions?product_id={bolt}"))] == ["opening"]


@pytest.mark.usefixtures("ledger")
def test_id_and_sku_filters_accept_100_values(client: FlaskClient) -> None:
    for name, value in (("id", "5"), ("sku", "nut")):
        for address in ("/transactions", "/products", "/export/transactions", "/export/products"):
            assert client.get(f"{address}?{'&'.join([f'{name}={value}'] * 100)}").status_code == 200
            assert invalid_fields(client.get(f"{address}?{'&'.join([f'{name}={value}'] * 101)}")) == {"query": {name}}
    assert ids(client, "id=5&" * 99 + "id=3") == [5, 3]


def test_other_parameters_reject_repetition(client: FlaskClient) -> None:
    for name, value in (("product_id", "1"), ("limit", "1"), ("reference", "A")):
        query = f"{name}={value}&{name}={value}"
        assert invalid_fields(client.get(f"/transactions?{query}")) == {"query": {name}}
