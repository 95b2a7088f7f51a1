"""The stock at a point in time, read from the ledger."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert, text

from inventory.database.base import begin, db
from inventory.database.engines import WRITE
from inventory.models.transaction import Transaction
from tests.builders import body, category, error_of, invalid_fields, listed, product, transaction, unprotected
from tests.statements import watched
from tests.transactions.endpoints import line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

TICK = timedelta(microseconds=1)


def get(client: FlaskClient, product_id: int, as_of: datetime | str) -> TestResponse:
    timestamp = as_of if isinstance(as_of, str) else as_of.isoformat()
    return client.get(f"/products/{product_id}/stock", query_string={"as_of": timestamp})


def stock_at(client: FlaskClient, product_id: int, as_of: datetime | str) -> int:
    response = get(client, product_id, as_of)
    assert response.status_code == 200, response.text
    quantity: int = body(response)["quantity_on_hand"]
    return quantity


def balance_history(client: FlaskClient, product_id: int) -> list[tuple[datetime, int]]:
    """The timestamp and the balance of each row of a product, oldest first."""
    rows = listed(client.get(f"/transactions?product_id={product_id}&sort=id"))
    return [(datetime.fromisoformat(row["created_at"]), row["balance_after"]) for row in rows]


def test_stock_as_of_each_row_is_its_balance(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 3)
    client.post(f"/products/{bolt}/counts", json={"counted_quantity": 7})
    transaction(client, bolt, "purchase", 8)
    transaction(client, bolt, "adjustment", -15)
    rows = balance_history(client, bolt)
    assert [balance for _timestamp, balance in rows] == [10, 7, 7, 15, 0]
    before = 0
    for timestamp, balance in rows:
        if timestamp > rows[0][0]:
            assert stock_at(client, bolt, timestamp - TICK) == before
        assert stock_at(client, bolt, timestamp) == balance
        assert stock_at(client, bolt, timestamp + TICK) == balance
        before = balance


def test_stock_as_of_batch_includes_all_its_rows(client: FlaskClient) -> None:
    """The rows of a batch may share a microsecond; the last one holds the balance."""
    bolt = product(client)["id"]
    client.post("/transactions/batch", json=[line(bolt, "purchase", 1)] * 50)
    (timestamp, balance) = balance_history(client, bolt)[-1]
    assert balance == 50
    assert stock_at(client, bolt, timestamp) == 50


def test_stock_as_of_shared_timestamp_uses_last_row(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)
    timestamp = datetime.fromisoformat(bolt["updated_at"])
    with app.app_context(), begin(WRITE) as connection:
        for seq, balance in ((2, 12), (3, 14)):
            fields = {"transaction_type": "purchase", "quantity": 2, "delta": 2, "xid": 0, "created_at": timestamp}
            row = {"product_id": bolt["id"], "sku": bolt["sku"], "balance_after": balance, "seq": seq} | fields
            db.session.execute(insert(Transaction).values(row))
        connection.commit()
    assert stock_at(client, bolt["id"], timestamp) == 14


def test_stock_returns_product_quantity_and_timestamp(client: FlaskClient) -> None:
    bolt = product(client, sku="BOLT", quantity_on_hand=10)
    content = body(get(client, bolt["id"], bolt["updated_at"]))
    assert content == {
        "product_id": bolt["id"],
        "sku": "BOLT",
        "as_of": bolt["updated_at"],
        "quantity_on_hand": 10,
    }


def test_stock_without_as_of_is_current(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 4)
    written = balance_history(client, bolt)[-1][0]
    content = body(client.get(f"/products/{bolt}/stock"))
    assert content["quantity_on_hand"] == 6
    assert written <= datetime.fromisoformat(content["as_of"])
    assert stock_at(client, bolt, content["as_of"]) == 6


def test_stock_is_zero_without_transactions(client: FlaskClient) -> None:
    bolt = product(client)
    assert stock_at(client, bolt["id"], bolt["created_at"]) == 0
    assert body(client.get(f"/products/{bolt['id']}/stock"))["quantity_on_hand"] == 0


def test_stock_is_zero_before_first_transaction(client: FlaskClient) -> None:
    bolt = product(client)
    transaction(client, bolt["id"], "purchase", 5)
    assert stock_at(client, bolt["id"], bolt["created_at"]) == 0


def test_stock_ignores_other_products(client: FlaskClient) -> None:
    home = category(client)["id"]
    bolt = product(client, category_id=home, quantity_on_hand=10)["id"]
    product(client, category_id=home, quantity_on_hand=99)
    assert body(client.get(f"/products/{bolt}/stock"))["quantity_on_hand"] == 10


def test_stock_as_of_accepts_any_time_zone(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 4)
    (_opening, (timestamp, balance)) = balance_history(client, bolt)
    elsewhere = timestamp.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert stock_at(client, bolt, elsewhere) == balance
    assert stock_at(client, bolt, elsewhere - TICK) == 10
    without_zone = timestamp.astimezone(UTC).replace(tzinfo=None)
    assert stock_at(client, bolt, without_zone) == balance
    assert body(get(client, bolt, elsewhere))["as_of"] == timestamp.isoformat()


@pytest.mark.parametrize("lead", [timedelta(minutes=1), timedelta(days=1), timedelta(days=3650)])
def test_stock_as_of_future_returns_422(client: FlaskClient, lead: timedelta) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    response = get(client, bolt, datetime.now(UTC) + lead)
    assert invalid_fields(response) == {"query": {"as_of"}}
    assert body(response)["details"]["query"]["as_of"] == ["Must not be in the future."]


@pytest.mark.parametrize("lead", [TICK, timedelta(days=1), timedelta(days=365 * 100)])
def test_stock_as_of_before_creation_returns_422(client: FlaskClient, lead: timedelta) -> None:
    bolt = product(client, quantity_on_hand=10)
    response = get(client, bolt["id"], datetime.fromisoformat(bolt["created_at"]) - lead)
    assert invalid_fields(response) == {"query": {"as_of"}}
    assert body(response)["details"]["query"]["as_of"] == ["Must not be before the product was created."]


@pytest.mark.parametrize(
    "as_of", ["", "yesterday", "2026-02-30", "2026-01-01T25:00", "0", "1e9", "9999-12-31T23:59-01"]
)
def test_stock_as_of_invalid_timestamp_returns_422(client: FlaskClient, as_of: str) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    assert invalid_fields(get(client, bolt, as_of)) == {"query": {"as_of"}}


def test_stock_of_unknown_product_returns_404(client: FlaskClient) -> None:
    assert error_of(client.get("/products/999/stock")) == (404, "product_not_found")
    assert error_of(get(client, 2**63, "2026-01-01")) == (404, "product_not_found")


# A long history

YEAR_2020 = datetime(2020, 1, 1, tzinfo=UTC)
ROWS = 100_000
LONG_HISTORY = {
    "sqlite": """
        WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < :rows)
        INSERT INTO transactions
            (product_id, sku, transaction_type, quantity, delta, balance_after, seq, xid, created_at)
        SELECT :product_id, 'X', 'purchase', 1, 1, n, n, 0,
            strftime('%Y-%m-%d %H:%M:%S.000000', '2020-01-01', '+' || n || ' minutes')
        FROM g
    """,
    "postgresql": """
        INSERT INTO transactions
            (product_id, sku, transaction_type, quantity, delta, balance_after, seq, xid, created_at)
        SELECT :product_id, 'X', 'purchase', 1, 1, n, n, 0,
            timestamptz '2020-01-01 00:00+00' + n * interval '1 minute'
        FROM generate_series(1, :rows) AS g(n)
    """,
}


def write_history(app: Flask, product_id: int, rows: int) -> None:
    """Give a product a history of one unit per minute since 2020."""
    with app.app_context(), begin(WRITE) as connection:
        change = "UPDATE products SET quantity_on_hand = :rows, last_seq = :rows, created_at = :start WHERE id = :id"
        start = str(YEAR_2020.replace(tzinfo=None)) if db.engine.dialect.name == "sqlite" else YEAR_2020
        with unprotected("products"):
            db.session.execute(text(change), {"rows": rows, "id": product_id, "start": start})
        history = text(LONG_HISTORY[db.engine.dialect.name])
        db.session.execute(history, {"product_id": product_id, "rows": rows})
        connection.commit()


@contextmanager
def statements(app: Flask) -> Iterator[list[tuple[str, Any]]]:
    """Record the statements sent to the database, with their parameters."""
    seen: list[tuple[str, Any]] = []

    with watched(app, before=lambda statement, parameters: seen.append((statement, parameters))):
        yield seen


def explain(app: Flask, statement: str, parameters: Any) -> Any:
    with app.app_context(), db.engine.connect() as connection:
        if db.engine.dialect.name == "sqlite":
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            return [row.detail for row in plan]
        plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
        return plan.scalar_one()[0]["Plan"]


@pytest.mark.slow
def test_stock_as_of_is_one_index_seek_in_100000_rows(app: Flask, client: FlaskClient, engine_name: str) -> None:
    bolt, nut = product(client)["id"], product(client)["id"]
    for product_id in (bolt, nut):
        write_history(app, product_id, ROWS)
    with app.app_context():
        db.session.execute(text("ANALYZE"))
        db.session.commit()
    with statements(app) as seen:
        for minute in (0, 1, 777, ROWS // 2, ROWS, ROWS + 5):
            timestamp = YEAR_2020 + timedelta(minutes=minute, seconds=30)
            assert stock_at(client, bolt, timestamp) == min(minute, ROWS)
    seeks = [(statement, parameters) for statement, parameters in seen if "balance_after" in statement]
    assert len(seeks) == 6
    for statement, parameters in seeks:
        plan = explain(app, statement, parameters)
        if engine_name == "sqlite":
            (step,) = plan
            assert re.fullmatch(
                r"SEARCH transactions USING INDEX ix_transactions_product_id_created_at_id"
                r" \(product_id=\? AND created_at<\?\)",
                step,
            )
        else:
            (scan,) = plan["Plans"]
            assert (plan["Node Type"], scan["Node Type"]) == ("Limit", "Index Scan")
            assert (scan["Index Name"], scan["Scan Direction"]) == (
                "ix_transactions_product_id_created_at_id",
                "Backward",
            )
            assert scan["Actual Rows"] <= 1
            assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= 8
