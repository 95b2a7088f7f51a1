"""The stock at a moment, read from the ledger."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, insert, text

from inventory.database.base import db
from inventory.database.engines import begin_write
from inventory.models.transaction import Transaction
from tests.builders import body, category, listed, product, refusal, refused_fields, transaction
from tests.transactions.endpoints import line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

TICK = timedelta(microseconds=1)


def get(client: FlaskClient, product_id: int, as_of: datetime | str) -> TestResponse:
    moment = as_of if isinstance(as_of, str) else as_of.isoformat()
    return client.get(f"/products/{product_id}/stock", query_string={"as_of": moment})


def stock_at(client: FlaskClient, product_id: int, as_of: datetime | str) -> int:
    response = get(client, product_id, as_of)
    assert response.status_code == 200, response.text
    quantity: int = body(response)["quantity_on_hand"]
    return quantity


def moments(client: FlaskClient, product_id: int) -> list[tuple[datetime, int]]:
    """When each row of a product was written and what was there afterwards, oldest first."""
    rows = listed(client.get(f"/transactions/product/{product_id}?sort=id"))
    return [(datetime.fromisoformat(row["created_at"]), row["balance_after"]) for row in rows]


def test_at_each_row_the_stock_is_its_balance_and_just_before_the_one_before(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 3)
    client.post(f"/products/{bolt}/counts", json={"counted_quantity": 7})
    transaction(client, bolt, "purchase", 8)
    transaction(client, bolt, "adjustment", -15)
    rows = moments(client, bolt)
    assert [balance for _moment, balance in rows] == [10, 7, 7, 15, 0]
    before = 0
    for moment, balance in rows:
        if moment > rows[0][0]:
            assert stock_at(client, bolt, moment - TICK) == before
        assert stock_at(client, bolt, moment) == balance
        assert stock_at(client, bolt, moment + TICK) == balance
        before = balance


def test_rows_of_one_moment_count_all(client: FlaskClient) -> None:
    """A batch's rows may share a microsecond; the last one holds the balance."""
    bolt = product(client)["id"]
    client.post("/transactions/batch", json=[line(bolt, "purchase", 1)] * 50)
    (moment, balance) = moments(client, bolt)[-1]
    assert balance == 50
    assert stock_at(client, bolt, moment) == 50


def test_of_rows_with_the_same_moment_the_last_one_counts(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)
    moment = datetime.fromisoformat(bolt["updated_at"])
    with app.app_context():
        begin_write(db.session())
        for seq, balance in ((2, 12), (3, 14)):
            facts = {"transaction_type": "purchase", "quantity": 2, "delta": 2, "xid": 0, "created_at": moment}
            row = {"product_id": bolt["id"], "sku": bolt["sku"], "balance_after": balance, "seq": seq} | facts
            db.session.execute(insert(Transaction).values(row))
        db.session.commit()
    assert stock_at(client, bolt["id"], moment) == 14


def test_the_answer_says_what_and_when(client: FlaskClient) -> None:
    bolt = product(client, sku="BOLT", quantity_on_hand=10)
    answer = body(get(client, bolt["id"], bolt["updated_at"]))
    assert answer == {
        "product_id": bolt["id"],
        "sku": "BOLT",
        "as_of": bolt["updated_at"],
        "quantity_on_hand": 10,
    }


def test_without_a_moment_it_is_the_stock_now(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 4)
    written = moments(client, bolt)[-1][0]
    answer = body(client.get(f"/products/{bolt}/stock"))
    assert answer["quantity_on_hand"] == 6
    assert written <= datetime.fromisoformat(answer["as_of"])
    assert stock_at(client, bolt, answer["as_of"]) == 6


def test_a_product_that_never_moved_has_nothing(client: FlaskClient) -> None:
    bolt = product(client)
    assert stock_at(client, bolt["id"], bolt["created_at"]) == 0
    assert body(client.get(f"/products/{bolt['id']}/stock"))["quantity_on_hand"] == 0


def test_before_its_first_row_a_product_has_nothing(client: FlaskClient) -> None:
    bolt = product(client)
    transaction(client, bolt["id"], "purchase", 5)
    assert stock_at(client, bolt["id"], bolt["created_at"]) == 0


def test_rows_of_other_products_do_not_count(client: FlaskClient) -> None:
    home = category(client)["id"]
    bolt = product(client, category_id=home, quantity_on_hand=10)["id"]
    product(client, category_id=home, quantity_on_hand=99)
    assert body(client.get(f"/products/{bolt}/stock"))["quantity_on_hand"] == 10


def test_a_moment_may_be_written_in_any_zone(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 4)
    (_opening, (moment, balance)) = moments(client, bolt)
    elsewhere = moment.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert stock_at(client, bolt, elsewhere) == balance
    assert stock_at(client, bolt, elsewhere - TICK) == 10
    without_zone = moment.astimezone(UTC).replace(tzinfo=None)
    assert stock_at(client, bolt, without_zone) == balance
    assert body(get(client, bolt, elsewhere))["as_of"] == moment.isoformat()


@pytest.mark.parametrize("lead", [timedelta(minutes=1), timedelta(days=1), timedelta(days=3650)])
def test_the_future_is_refused(client: FlaskClient, lead: timedelta) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    response = get(client, bolt, datetime.now(UTC) + lead)
    assert refused_fields(response) == {"query": {"as_of"}}
    assert body(response)["details"]["query"]["as_of"] == ["Lies in the future."]


@pytest.mark.parametrize("lead", [TICK, timedelta(days=1), timedelta(days=365 * 100)])
def test_a_moment_before_the_product_was_created_is_refused(client: FlaskClient, lead: timedelta) -> None:
    bolt = product(client, quantity_on_hand=10)
    response = get(client, bolt["id"], datetime.fromisoformat(bolt["created_at"]) - lead)
    assert refused_fields(response) == {"query": {"as_of"}}
    assert body(response)["details"]["query"]["as_of"] == ["Lies before the product was created."]


@pytest.mark.parametrize(
    "as_of", ["", "yesterday", "2026-02-30", "2026-01-01T25:00", "0", "1e9", "9999-12-31T23:59-01"]
)
def test_what_is_no_moment_is_refused(client: FlaskClient, as_of: str) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    assert refused_fields(get(client, bolt, as_of)) == {"query": {"as_of"}}


def test_an_unknown_product_has_no_stock(client: FlaskClient) -> None:
    assert refusal(client.get("/products/999/stock")) == (404, "product_not_found")
    assert refusal(get(client, 2**63, "2026-01-01")) == (404, "product_not_found")


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


def live_long(app: Flask, product_id: int, rows: int) -> None:
    """Give a product a history of one unit a minute since 2020."""
    with app.app_context():
        begin_write(db.session())
        change = "UPDATE products SET quantity_on_hand = :rows, last_seq = :rows, created_at = :start WHERE id = :id"
        start = str(YEAR_2020.replace(tzinfo=None)) if db.engine.dialect.name == "sqlite" else YEAR_2020
        db.session.execute(text(change), {"rows": rows, "id": product_id, "start": start})
        history = text(LONG_HISTORY[db.engine.dialect.name])
        db.session.execute(history, {"product_id": product_id, "rows": rows})
        db.session.commit()


@contextmanager
def statements(app: Flask) -> Iterator[list[tuple[str, Any]]]:
    """What is sent to the database meanwhile, with its parameters."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        seen.append((statement, parameters))

    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", note)
        try:
            yield seen
        finally:
            event.remove(db.engine, "before_cursor_execute", note)


def explain(app: Flask, statement: str, parameters: Any) -> Any:
    with app.app_context(), db.engine.connect() as connection:
        if db.engine.dialect.name == "sqlite":
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            return [row.detail for row in plan]
        plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
        return plan.scalar_one()[0]["Plan"]


def test_at_a_hundred_thousand_rows_it_is_one_index_seek(app: Flask, client: FlaskClient, engine_name: str) -> None:
    bolt, nut = product(client)["id"], product(client)["id"]
    for product_id in (bolt, nut):
        live_long(app, product_id, ROWS)
    with app.app_context():
        db.session.execute(text("ANALYZE"))
        db.session.commit()
    with statements(app) as seen:
        for minute in (0, 1, 777, ROWS // 2, ROWS, ROWS + 5):
            moment = YEAR_2020 + timedelta(minutes=minute, seconds=30)
            assert stock_at(client, bolt, moment) == min(minute, ROWS)
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
