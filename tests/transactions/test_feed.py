"""The feed: every row of the ledger exactly once, in an order that later commits do not change."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from inventory import create_app
from inventory.database.base import db
from inventory.database.keyset import unpack
from inventory.database.sqlite import driver as sqlite3
from tests import postgresql
from tests.builders import error_of, invalid_fields, listed, nothing_changes, product, transaction
from tests.conftest import on_postgresql, on_sqlite
from tests.pollers import Poller, packed, read
from tests.transactions.endpoints import line

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient


def ledger(client: FlaskClient) -> list[dict[str, Any]]:
    return listed(client.get("/transactions?limit=1000&sort=id"))


def test_feed_returns_rows_of_list_oldest_first(client: FlaskClient) -> None:
    bolt, nut = product(client, quantity_on_hand=10)["id"], product(client)["id"]
    transaction(client, bolt, "sale", 3, reference="R", notes="N")
    client.post("/transactions/batch", json=[line(nut, "purchase", 4), line(bolt, "adjustment", 2)])
    poller = Poller(client)
    poller.poll_until(4)
    assert [{name: row[name] for name in row.keys() - {"crossed", "cursor"}} for row in poller.seen] == ledger(client)


def test_feed_pages_have_no_gap_and_no_overlap(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    client.post("/transactions/batch", json=[line(bolt, "purchase", 1)] * 22)
    Poller(client).poll_until(23)
    for limit in (1, 2, 7, 22, 23, 24, 1_000):
        poller = Poller(client, f"/transactions/feed?limit={limit}")
        sizes = [poller.poll() for _page in range(23 // limit + 2)]
        assert sizes[: 23 // limit] == [limit] * (23 // limit)
        assert poller.ids == [row["id"] for row in ledger(client)]


def test_feed_resumes_after_any_row(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    for _sale in range(3):
        transaction(client, bolt, "sale", 1)
    poller = Poller(client)
    poller.poll_until(4)
    for number, row in enumerate(poller.seen, start=1):
        assert read(client, row["cursor"]) == poller.seen[number:]


def test_feed_default_limit_is_100(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    client.post("/transactions/batch", json=[line(bolt, "purchase", 1)] * 120)
    Poller(client).poll_until(121)
    poller = Poller(client)
    assert [poller.poll(), poller.poll(), poller.poll()] == [100, 21, 0]


def test_empty_feed_link_returns_the_first_row(client: FlaskClient) -> None:
    poller = Poller(client, "/transactions/feed?limit=5")
    assert poller.poll() == 0
    product(client, quantity_on_hand=10)
    poller.poll_until(1)
    assert poller.ids == [row["id"] for row in ledger(client)]
    assert "limit=5" in poller.address


def test_feed_link_is_unchanged_without_new_rows(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    poller = Poller(client)
    poller.poll_until(1)
    address = poller.address
    assert poller.poll() == 0
    assert poller.address == address
    transaction(client, bolt, "sale", 1)
    poller.poll_until(2)
    assert [row["seq"] for row in poller.seen] == [1, 2]


def test_feed_excludes_failed_requests_and_dry_runs(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    sale = line(bolt, "sale", 1)
    assert client.post("/transactions?dry_run=true", json=sale).status_code == 200
    assert client.post("/transactions/batch", json=[sale, line(bolt, "sale", 10)]).status_code == 400
    transaction(client, bolt, "sale", 1)
    poller = Poller(client)
    poller.poll_until(2)
    poller.poll()
    assert [row["seq"] for row in poller.seen] == [1, 2]


CROSSINGS = [
    # reorder point, stock before, transaction, expected value of `crossed`
    (10, 11, ("sale", 1), "low"),
    (10, 11, ("sale", 10), "low"),
    (10, 12, ("sale", 1), None),
    (10, 10, ("sale", 1), None),
    (10, 10, ("sale", 9), None),
    (10, 10, ("sale", 10), "out"),
    (10, 50, ("sale", 50), "out"),
    (10, 1, ("adjustment", -1), "out"),
    (10, 30, ("adjustment", -20), "low"),
    (10, 0, ("purchase", 1), None),
    (10, 0, ("purchase", 10), None),
    (10, 0, ("purchase", 11), "recovered"),
    (10, 10, ("purchase", 1), "recovered"),
    (10, 9, ("purchase", 1), None),
    (10, 11, ("purchase", 1), None),
    (10, 10, ("adjustment", 5), "recovered"),
    (0, 1, ("sale", 1), "out"),
    (0, 2, ("sale", 1), None),
    (0, 0, ("purchase", 1), "recovered"),
]


@pytest.mark.parametrize(("reorder_point", "before", "movement", "crossed"), CROSSINGS)
def test_crossed_reports_crossing_of_reorder_point(
    client: FlaskClient, reorder_point: int, before: int, movement: tuple[str, int], crossed: str | None
) -> None:
    bolt = product(client, quantity_on_hand=before, reorder_point=reorder_point)["id"]
    row = transaction(client, bolt, *movement)
    poller = Poller(client)
    poller.poll_until(len(ledger(client)))
    assert {seen["id"]: seen["crossed"] for seen in poller.seen}[row["id"]] == crossed


def crossings(client: FlaskClient) -> list[str | None]:
    poller = Poller(client)
    poller.poll_until(len(ledger(client)))
    return [row["crossed"] for row in poller.seen]


@pytest.mark.parametrize("quantity", [5, 10, 50])
def test_crossed_is_null_for_opening_stock(client: FlaskClient, quantity: int) -> None:
    product(client, quantity_on_hand=quantity, reorder_point=10)
    assert crossings(client) == [None]


def test_crossed_is_null_for_count_without_difference(client: FlaskClient) -> None:
    for quantity in (0, 10, 11):
        bolt = product(client, quantity_on_hand=quantity, reorder_point=10)["id"]
        client.post(f"/products/{bolt}/counts", json={"counted_quantity": quantity})
    assert set(crossings(client)) == {None}


def test_crossed_is_unchanged_by_later_reorder_point(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=20, reorder_point=10)["id"]
    transaction(client, bolt, "sale", 5)
    client.patch(f"/products/{bolt}", json={"reorder_point": 18})
    transaction(client, bolt, "sale", 1)
    transaction(client, bolt, "purchase", 5)
    assert crossings(client) == [None, None, None, "recovered"]


def test_crossed_is_set_by_every_kind_of_write(client: FlaskClient) -> None:
    bolt = product(client, sku="BOLT", quantity_on_hand=20, reorder_point=10)["id"]
    client.post(f"/products/{bolt}/counts", json={"counted_quantity": 4})
    client.put(f"/products/{bolt}", json={"quantity_on_hand": 0})
    client.post("/transactions/batch", json=[line(bolt, "purchase", 15), line(bolt, "sale", 8)])
    sale = ledger(client)[-1]["id"]
    client.post(f"/transactions/{sale}/reversal")
    client.post("/import/products", data="sku,quantity_on_hand\nBOLT,0\n", content_type="text/csv")
    assert crossings(client) == [None, "low", "out", "recovered", "low", "recovered", "out"]


# Invalid cursors


TIMESTAMP = "2026-01-01T00:00:00+00:00"
INVALID_CURSORS = {
    "empty": "",
    "not base64": "a b",
    "not ASCII": "é",
    "a NUL": "\0",
    "not JSON": base64.urlsafe_b64encode(b"{feed").decode(),
    "a number": packed(7),
    "an object": packed({"feed": 1}),
    "wrong tag": packed(["page", 0, 1]),
    "too short": packed(["feed", 0, 1]),
    "too long": packed(["feed", 0, 1, TIMESTAMP, 2]),
    "text for an id": packed(["feed", 0, "1", TIMESTAMP]),
    "a float for an id": packed(["feed", 0, 1.0, TIMESTAMP]),
    "null for an id": packed(["feed", 0, None, TIMESTAMP]),
    "a boolean for an id": packed(["feed", 0, True, TIMESTAMP]),
    "an id over 63 bits": packed(["feed", 0, 2**63, TIMESTAMP]),
    "an id below 0": packed(["feed", 0, -1, TIMESTAMP]),
    "a missing row": packed(["feed", 0, 2**63 - 1, TIMESTAMP]),
    "a row at another time": packed(["feed", 0, 1, TIMESTAMP]),
}


@pytest.mark.parametrize("kind", INVALID_CURSORS)
def test_feed_rejects_invalid_cursor(app: Flask, client: FlaskClient, kind: str) -> None:
    product(client, quantity_on_hand=10)
    with nothing_changes(app):
        response = client.get("/transactions/feed", query_string={"after": INVALID_CURSORS[kind]})
    assert error_of(response) == (400, "invalid_cursor")


def test_feed_and_list_cursors_are_not_interchangeable(client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 1)
    link = client.get("/transactions?limit=1").headers["Link"]
    cursor = link.partition("cursor=")[2].partition(">")[0]
    assert error_of(client.get(f"/transactions/feed?after={cursor}")) == (400, "invalid_cursor")
    poller = Poller(client)
    poller.poll_until(2)
    cursor = poller.seen[0]["cursor"]
    assert error_of(client.get(f"/transactions?cursor={cursor}")) == (400, "invalid_cursor")


@pytest.mark.parametrize("part", [1, 2, 3])
def test_feed_rejects_cursor_that_mismatches_its_row(client: FlaskClient, part: int) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 1)
    poller = Poller(client)
    poller.poll_until(2)
    first, second = (unpack(row["cursor"]) for row in poller.seen)
    assert len(read(client, packed(first))) == 1
    first[part] = second[part] if first[part] != second[part] else first[part] + 1
    assert error_of(client.get(f"/transactions/feed?after={packed(first)}")) == (400, "invalid_cursor")


@on_sqlite
def test_feed_rejects_newer_cursor_after_restore_from_backup(
    client: FlaskClient, database_url: str, tmp_path: Path
) -> None:
    """Otherwise the poller would skip rows written after the restore under ids that it has already seen."""
    bolt = product(client, quantity_on_hand=10)["id"]
    with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as live:
        live.execute("VACUUM INTO ?", [str(tmp_path / "copy.db")])
    transaction(client, bolt, "sale", 1)
    poller = Poller(client)
    poller.poll_until(2)
    restored = create_app({"DATABASE_URL": f"sqlite:///{tmp_path / 'copy.db'}", "TESTING": True})
    other = restored.test_client()
    for quantity in (2, 3):
        transaction(other, bolt, "sale", quantity)
    assert len(read(other, poller.seen[0]["cursor"])) == 2
    response = other.get("/transactions/feed", query_string={"after": poller.seen[1]["cursor"]})
    assert error_of(response) == (400, "invalid_cursor")
    with restored.app_context():
        db.engine.dispose()


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 1_001}, {"limit": "x"}, {"after": "x" * 4_001}, {"cursor": "x"}, {"skip": 1}]
)
def test_feed_rejects_invalid_parameters(client: FlaskClient, query: dict[str, Any]) -> None:
    assert invalid_fields(client.get("/transactions/feed", query_string=query)) == {"query": set(query)}


# Transactions that commit out of order


def insert_row(connection: psycopg.Connection[Any], product_id: int, quantity: int) -> int:
    """Record a purchase as the service does, in a transaction that stays open. Returns the id of the row."""
    (balance, seq) = connection.execute(
        "UPDATE products SET quantity_on_hand = quantity_on_hand + %s, last_seq = last_seq + 1 WHERE id = %s"
        " RETURNING quantity_on_hand, last_seq",
        [quantity, product_id],
    ).fetchone() or (0, 0)
    (row_id,) = connection.execute(
        "INSERT INTO transactions (product_id, sku, transaction_type, quantity, delta, balance_after, seq, xid,"
        " created_at) VALUES (%s, 'X', 'purchase', %s, %s, %s, %s, pg_current_xact_id()::text::bigint,"
        " clock_timestamp()) RETURNING id",
        [product_id, quantity, quantity, balance, seq],
    ).fetchone() or (0,)
    return int(row_id)


@on_postgresql
def test_feed_does_not_miss_lower_id_committed_later(client: FlaskClient, database_url: str) -> None:
    bolt, nut = product(client)["id"], product(client)["id"]
    poller = Poller(client)
    with psycopg.connect(database_url) as slow, psycopg.connect(database_url) as quick:
        lower = insert_row(slow, bolt, 1)
        higher = insert_row(quick, nut, 1)
        quick.commit()
        assert lower < higher
        assert poller.poll() == 0, "a row was shown while a lower one could still come"
        slow.commit()
    poller.poll_until(2)
    assert poller.ids == [lower, higher]


@on_postgresql
def test_feed_continues_after_rollback(client: FlaskClient, database_url: str) -> None:
    bolt, nut = product(client)["id"], product(client)["id"]
    poller = Poller(client)
    with psycopg.connect(database_url) as slow:
        insert_row(slow, bolt, 1)
        transaction(client, nut, "purchase", 1)
        assert poller.poll() == 0
        slow.rollback()
    poller.poll_until(1)
    assert [row["product_id"] for row in poller.seen] == [nut]


@on_postgresql
def test_feed_shows_rows_before_oldest_open_transaction(client: FlaskClient, database_url: str) -> None:
    bolt, nut = product(client)["id"], product(client)["id"]
    before = transaction(client, nut, "purchase", 1)["id"]
    poller = Poller(client)
    poller.poll_until(1)
    with psycopg.connect(database_url) as slow:
        insert_row(slow, bolt, 1)
        transaction(client, nut, "purchase", 1)
        assert poller.poll() == 0
        assert poller.ids == [before]
        slow.commit()
    poller.poll_until(3)
    assert len(set(poller.ids)) == 3


@on_postgresql
def test_feed_is_not_delayed_by_read_only_transaction(client: FlaskClient, database_url: str) -> None:
    bolt = product(client)["id"]
    poller = Poller(client)
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM transactions")
        transaction(client, bolt, "purchase", 1)
        poller.poll_until(1)


@on_postgresql
def test_feed_orders_batch_after_transactions_it_waited_for(app: Flask, client: FlaskClient, database_url: str) -> None:
    """The rows of each product are in the order of ``seq``, although the batch has the lower transaction id."""
    first, middle, last = (product(client, quantity_on_hand=100)["id"] for _product in range(3))
    with (
        psycopg.connect(database_url) as holder,
        psycopg.connect(database_url, autocommit=True) as observer,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [middle])
        lines = [line(product_id, "sale", 5) for product_id in (first, middle, last)]
        pending = pool.submit(app.test_client().post, "/transactions/batch", json=lines)
        postgresql.await_blocked(observer, 1)
        transaction(client, last, "sale", 95)
        transaction(client, last, "purchase", 95)
        holder.rollback()
        assert pending.result().status_code == 201
    poller = Poller(client)
    poller.poll_until(8)
    assert [(row["seq"], row["crossed"]) for row in poller.seen if row["product_id"] == last] == [
        (1, None),
        (2, "low"),
        (3, "recovered"),
        (4, None),
    ]


def test_feed_during_concurrent_writes_has_every_row_once_in_order(app: Flask, client: FlaskClient) -> None:
    products = [product(client, quantity_on_hand=1_000)["id"] for _product in range(4)]
    finished = Event()

    def write(number: int) -> None:
        own = app.test_client()
        for turn in range(12):
            a, b = products[(number + turn) % 4], products[(number + 2 * turn + 1) % 4]
            if turn % 3:
                transaction(own, a, "sale", 1)
            else:
                lines = [line(a, "sale", 1), line(b, "purchase", 2)]
                assert own.post("/transactions/batch", json=lines).status_code == 201

    def follow() -> Poller:
        poller = Poller(app.test_client(), "/transactions/feed?limit=5")
        while not finished.is_set():
            poller.poll()
        return poller

    with ThreadPoolExecutor(5) as pool:
        following = pool.submit(follow)
        try:
            list(pool.map(write, range(4)))
        finally:
            finished.set()
        poller = following.result()
    rows = {row["id"]: row for row in ledger(client)}
    poller.poll_until(len(rows))
    assert sorted(poller.ids) == sorted(rows)
    for product_id in products:
        seqs = [row["seq"] for row in poller.seen if row["product_id"] == product_id]
        assert seqs == list(range(1, len(seqs) + 1))
