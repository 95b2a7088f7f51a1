from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.builders import body, book, listed, nothing_changes, product, refusal, refused_fields, transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from flask.testing import FlaskClient

Row = dict[str, Any]
# Query parameters, and beside each what it means said in Python.
FILTERS: dict[str, Callable[[Row], bool]] = {
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
}
BAD_QUERIES = {
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
    """Some movements, newest first."""
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


def test_list_shows_every_movement_newest_first(client: FlaskClient, ledger: list[Row]) -> None:
    assert listed(client.get("/transactions")) == ledger


def test_list_can_be_turned_around(client: FlaskClient, ledger: list[Row]) -> None:
    for query in ("sort=created_at", "sort=id", "sort=created_at,-id"):
        assert listed(client.get(f"/transactions?{query}")) == ledger[::-1]
    assert listed(client.get("/transactions?sort=-id")) == ledger


def test_each_filter_alone_and_every_two_together(client: FlaskClient, ledger: list[Row]) -> None:
    chosen = [(name,) for name in FILTERS] + list(combinations(FILTERS, 2))
    queries = [names for names in chosen if len({name.partition("=")[0] for name in names}) == len(names)]
    found = {names: ids(client, "&".join(names)) for names in queries}
    assert found == {
        names: [row["id"] for row in ledger if all(FILTERS[name](row) for name in names)] for names in queries
    }


def test_all_filters_together(client: FlaskClient, ledger: list[Row]) -> None:
    moment = quote(ledger[1]["created_at"])
    query = (
        "product_id=1&sku=strasse&transaction_type=adjustment&reason=damage&reference=50%25"
        f"&created_from={moment}&created_to={moment}"
    )
    assert ids(client, query) == [ledger[1]["id"]]


def test_period_includes_both_its_ends(app: Flask, client: FlaskClient) -> None:
    noon = datetime(2024, 2, 29, 12, tzinfo=UTC)
    tick = timedelta(microseconds=1)
    book(app, product(client)["id"], [noon - tick, noon, noon + tick])
    queries = {
        "created_from=2024-02-29T12:00:00Z": [3, 2],
        "created_to=2024-02-29T12:00:00Z": [2, 1],
        "created_from=2024-02-29T12:00:00Z&created_to=2024-02-29T12:00:00Z": [2],
        "created_from=2024-02-29T13:00:00%2B01:00&created_to=2024-02-29T13:00:00+01:00": [2],
        "created_from=2024-02-29T12:00:00.000001&created_to=2024-02-29T12:00:00.000001": [3],
        "created_from=2024-02-29T12:00:01&created_to=2024-02-29T11:00:00": [],
    }
    assert {query: ids(client, query) for query in queries} == queries


def test_a_bare_date_is_the_whole_day_in_utc(app: Flask, client: FlaskClient) -> None:
    day = datetime(2024, 2, 29, tzinfo=UTC)
    tick = timedelta(microseconds=1)
    book(app, product(client)["id"], [day - tick, day, day + timedelta(days=1) - tick, day + timedelta(days=1)])
    queries = {
        "created_from=2024-02-29&created_to=2024-02-29": [3, 2],
        "created_from=2024-02-29": [4, 3, 2],
        "created_to=2024-02-29": [3, 2, 1],
    }
    assert {query: ids(client, query) for query in queries} == queries


def test_rows_of_one_moment_are_ordered_by_id(app: Flask, client: FlaskClient) -> None:
    book(app, product(client)["id"], [datetime(2024, 1, 1, tzinfo=UTC)] * 3)
    assert [ids(client, query) for query in ("", "sort=created_at", "sort=-created_at")] == [
        [3, 2, 1],
        [1, 2, 3],
        [1, 2, 3],
    ]


def test_query_that_cannot_be_meant_is_refused_by_name(client: FlaskClient) -> None:
    asked = [(name, value) for name, values in BAD_QUERIES.items() for value in values]
    answers = {pair: refused_fields(client.get(f"/transactions?{pair[0]}={pair[1]}")) for pair in asked}
    assert answers == {(name, value): {"query": {name}} for name, value in asked}


def test_unknown_transaction_is_not_found(client: FlaskClient) -> None:
    for transaction_id in ("1", "0", str(2**63), "9" * 60):
        assert refusal(client.get(f"/transactions/{transaction_id}")) == (404, "transaction_not_found")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_ledger_rows_can_be_neither_changed_nor_deleted(app: Flask, client: FlaskClient, method: str) -> None:
    row = transaction(client, product(client)["id"], "purchase", 1)
    with nothing_changes(app):
        for address, allowed in ((f"/transactions/{row['id']}", {"GET"}), ("/transactions", {"GET", "POST"})):
            response = client.open(address, method=method, json={"quantity": 2})
            assert refusal(response) == (405, "method_not_allowed")
            assert set(response.headers["Allow"].split(", ")) == allowed | {"HEAD", "OPTIONS"}


def test_history_shows_one_products_movements_newest_first(client: FlaskClient, ledger: list[Row]) -> None:
    for product_id in (1, 2):
        expected = [row for row in ledger if row["product_id"] == product_id]
        assert listed(client.get(f"/transactions/product/{product_id}")) == expected
        assert listed(client.get(f"/transactions/product/{product_id}?sort=id")) == expected[::-1]


def test_history_of_a_product_that_never_moved_is_empty(client: FlaskClient) -> None:
    bolt = product(client, is_active=False)
    assert listed(client.get(f"/transactions/product/{bolt['id']}")) == []


def test_history_of_an_unknown_product_is_not_found(client: FlaskClient) -> None:
    for product_id in ("1", "0", str(2**63)):
        assert refusal(client.get(f"/transactions/product/{product_id}")) == (404, "product_not_found")


def test_history_takes_no_filters(client: FlaskClient) -> None:
    bolt = product(client)
    for name in ("sku", "product_id", "reason"):
        assert refused_fields(client.get(f"/transactions/product/{bolt['id']}?{name}=1")) == {"query": {name}}
