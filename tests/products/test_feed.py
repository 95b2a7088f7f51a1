"""The product feed: every change of a product, in an order that later commits do not change."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import text

from inventory import create_app
from inventory.database.base import db, fetch_all
from inventory.database.sqlite import driver as sqlite3
from inventory.database.unit_of_work import run
from inventory.transactions import service as ledger
from inventory.transactions.service import Movement
from tests.builders import body, category, contents, error_of, insert_products, listed, product, transaction
from tests.conftest import on_postgresql, on_sqlite
from tests.pollers import Poller, next_page
from tests.transactions.endpoints import line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient

FEED = "/products/feed"
STOCK_FIELDS = {"quantity_on_hand", "last_counted_at", "updated_at"}


def catalogue(client: FlaskClient) -> list[dict[str, Any]]:
    return listed(client.get("/products?limit=1000"))


def edit(client: FlaskClient, product_id: int, **fields: Any) -> dict[str, Any]:
    response = client.patch(f"/products/{product_id}", json=fields)
    assert response.status_code == 200, response.text
    return body(response)


def delete(client: FlaskClient, product_id: int) -> None:
    assert client.delete(f"/products/{product_id}").status_code == 204


@pytest.fixture
def poller(client: FlaskClient) -> Poller:
    return Poller(client, FEED)


def test_feed_from_start_equals_product_list(client: FlaskClient, poller: Poller) -> None:
    product(client, quantity_on_hand=10, cost=4.5, location="A-1", description="Steel")
    product(client, is_active=False)
    poller.poll_until(2)
    assert poller.seen == catalogue(client)


def test_feed_shows_edited_product_in_current_state(client: FlaskClient, poller: Poller) -> None:
    bolt, nut = product(client)["id"], product(client)["id"]
    poller.poll_until(2)
    edit(client, bolt, price=11)
    edited = edit(client, bolt, name="Better bolt")
    poller.poll_until(3)
    assert poller.seen[2] == edited
    edit(client, nut, is_active=False)
    poller.poll_until(4)
    assert poller.seen[3]["id"] == nut


@pytest.mark.parametrize(
    "change",
    [
        {"sku": "NEW"},
        {"sku": "bolt"},
        {"name": "New"},
        {"description": "New"},
        {"description": None},
        {"price": 11},
        {"cost": 1},
        {"cost": None},
        {"reorder_point": 0},
        {"location": "B-2"},
        {"category_id": 1},
        {"is_active": False},
    ],
    ids=str,
)
def test_feed_includes_change_of_any_field(client: FlaskClient, poller: Poller, change: dict[str, Any]) -> None:
    category(client)
    bolt = product(client, sku="BOLT", description="Steel", cost=5)["id"]
    poller.poll_until(1)
    edit(client, bolt, **change)
    poller.poll_until(2)
    assert poller.seen[1] | change == poller.seen[1]


def test_feed_shows_deleted_product_with_id_and_sku(client: FlaskClient, poller: Poller) -> None:
    bolt = product(client, sku="Bolt-8")["id"]
    poller.poll_until(1)
    edit(client, bolt, sku="Bolt-9")
    delete(client, bolt)
    poller.poll_until(2)
    assert poller.seen[1] == {"id": bolt, "sku": "Bolt-9", "deleted": True}


def test_feed_from_start_shows_each_product_once_at_latest_change(client: FlaskClient, poller: Poller) -> None:
    bolt, nut, washer = (product(client)["id"] for _product in range(3))
    edit(client, bolt, price=11)
    delete(client, nut)
    edit(client, bolt, price=12)
    poller.poll_until(3)
    assert poller.ids == [washer, nut, bolt]


def test_feed_repeats_product_changed_while_paging(client: FlaskClient) -> None:
    bolt, nut, washer = (product(client)["id"] for _product in range(3))
    poller = Poller(client, f"{FEED}?limit=1")
    poller.poll_until(2)
    edit(client, bolt, price=11)
    edit(client, washer, price=12)
    poller.poll_until(4)
    assert poller.ids == [bolt, nut, bolt, washer]
    assert [row["price"] for row in poller.seen[2:]] == [11, 12]


@pytest.mark.parametrize("limit", [1, 2, 7, 22, 23, 24, 1_000])
def test_feed_pages_have_no_gaps_or_overlaps(app: Flask, client: FlaskClient, limit: int) -> None:
    insert_products(app, category(client)["id"], [{}] * 23)
    Poller(client, FEED).poll_until(23)
    poller = Poller(client, f"{FEED}?limit={limit}")
    assert [poller.poll() for _page in range(23 // limit)] == [limit] * (23 // limit)
    poller.poll()
    assert poller.seen == catalogue(client)


# Stock movements


def move_in_every_way(client: FlaskClient, product_id: int, sku: str) -> None:
    sale = transaction(client, product_id, "sale", 1)["id"]
    answers = [
        client.post("/transactions/batch", json=[line(product_id, "purchase", 5)]),
        client.post(f"/transactions/{sale}/reversal"),
        client.post(f"/products/{product_id}/counts", json={"counted_quantity": 3}),
        client.patch(f"/products/{product_id}", json={"quantity_on_hand": 9}),
        client.post("/import/products", data=f"sku,quantity_on_hand\n{sku},7\n", content_type="text/csv"),
    ]
    assert {answer.status_code for answer in answers} <= {200, 201}


def test_stock_movements_write_no_product_changes(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, sku="BOLT", quantity_on_hand=10)["id"]
    before = contents(app)["product_changes"]
    move_in_every_way(client, bolt, "BOLT")
    assert contents(app)["product_changes"] == before


def test_requests_without_effect_write_no_product_changes(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, sku="BOLT", price=10)["id"]
    before = contents(app)["product_changes"]
    edit(client, bolt, sku="BOLT", price=10)
    client.patch(f"/products/{bolt}", json={"price": -1})
    file = "sku,price\nBOLT,12\n"
    client.post("/import/products?dry_run=true", data=file, content_type="text/csv")
    assert contents(app)["product_changes"] == before


@on_postgresql
def test_sale_updates_no_index(app: Flask, client: FlaskClient) -> None:
    """Every sale is a heap-only (HOT) update of the product, which needs no new index entries."""
    bolt = product(client, quantity_on_hand=100)["id"]
    counts = "pg_stat_get_xact_tuples_updated(oid), pg_stat_get_xact_tuples_hot_updated(oid)"
    statement = text(f"SELECT {counts} FROM pg_class WHERE relname = 'products'")

    def sell() -> list[int]:
        before = fetch_all(statement)[0]
        for _sale in range(8):
            ledger.record(bolt, Movement("sale", 1))
        after = fetch_all(statement)[0]
        return [new - old for old, new in zip(before, after, strict=True)]

    with app.app_context():
        assert run(sell) == [8, 8]


# Changes by other clients


def test_feed_includes_changes_made_with_plain_sql(client: FlaskClient, database_url: str, poller: Poller) -> None:
    bolt, nut = product(client)["id"], product(client, sku="NUT")["id"]
    poller.poll_until(2)
    connection: Any = (
        sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
        if database_url.startswith("sqlite")
        else psycopg.connect(database_url, autocommit=True)
    )
    with closing(connection):
        connection.execute("UPDATE products SET name = 'Other' WHERE id = 1")
        connection.execute("DELETE FROM products WHERE id = 2")
    poller.poll_until(4)
    assert (poller.seen[2]["id"], poller.seen[2]["name"]) == (bolt, "Other")
    assert poller.seen[3] == {"id": nut, "sku": "NUT", "deleted": True}


# Invalid cursors


def execute(app: Flask, statement: str) -> None:
    with app.app_context():
        db.session.execute(text(statement))
        db.session.commit()


@pytest.fixture
def superseded(client: FlaskClient, poller: Poller) -> str:
    """The next link of a poller whose last row has since been superseded."""
    bolt = product(client)["id"]
    poller.poll_until(1)
    link = poller.address
    edit(client, bolt, price=11)
    poller.poll_until(2)
    return link


def test_cursor_stays_valid_after_its_row_is_superseded(client: FlaskClient, superseded: str) -> None:
    assert [row["price"] for row in listed(client.get(superseded))] == [11]


def test_cursor_of_deleted_row_returns_400(app: Flask, client: FlaskClient, poller: Poller, superseded: str) -> None:
    execute(app, "DELETE FROM product_changes WHERE NOT is_latest")
    assert error_of(client.get(superseded)) == (400, "invalid_cursor")
    assert listed(client.get(poller.address)) == []


@pytest.mark.usefixtures("superseded")
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM product_changes",
        "DELETE FROM product_changes WHERE is_latest",
        "UPDATE product_changes SET xid = 7",
        "UPDATE product_changes SET created_at = '2024-01-01 00:00:00.000000' WHERE NOT is_latest",
        "UPDATE product_changes SET sku = 'X', is_latest = false WHERE is_latest",
    ],
)
def test_product_changes_trigger_protects_rows_in_use(app: Flask, statement: str) -> None:
    before = contents(app)
    with pytest.raises(Exception, match="product_changes keeps each product's latest row"):
        execute(app, statement)
    assert contents(app) == before


@on_sqlite
def test_cursor_returns_400_after_restore_of_older_copy(
    client: FlaskClient, database_url: str, tmp_path: Path, poller: Poller
) -> None:
    bolt = product(client)["id"]
    with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as live:
        live.execute("VACUUM INTO ?", [str(tmp_path / "copy.db")])
    poller.poll_until(1)
    before = poller.address
    edit(client, bolt, price=11)
    poller.poll_until(2)
    restored = create_app({"DATABASE_URL": f"sqlite:///{tmp_path / 'copy.db'}", "TESTING": True})
    other = restored.test_client()
    edit(other, bolt, price=12)
    edit(other, bolt, price=13)
    assert [row["price"] for row in listed(other.get(before))] == [13]
    assert error_of(other.get(poller.address)) == (400, "invalid_cursor")
    with restored.app_context():
        db.engine.dispose()


@pytest.mark.parametrize(("own", "other"), [(FEED, "/transactions/feed"), ("/transactions/feed", FEED)])
def test_feed_rejects_cursor_of_other_feed(client: FlaskClient, own: str, other: str) -> None:
    product(client, quantity_on_hand=10)
    poller = Poller(client, own)
    poller.poll_until(1)
    query = poller.address.partition("?")[2]
    assert listed(client.get(f"{own}?{query}")) == []
    assert error_of(client.get(f"{other}?{query}")) == (400, "invalid_cursor")


# Starting with after=now


@pytest.fixture(params=[FEED, "/transactions/feed"])
def feed(request: pytest.FixtureRequest) -> str:
    address: str = request.param
    return address


def test_after_now_shows_only_later_rows(client: FlaskClient, feed: str) -> None:
    for _product in range(3):
        product(client, quantity_on_hand=10)
    Poller(client, feed).poll_until(3)
    poller = Poller(client, f"{feed}?after=now&limit=5")
    assert poller.poll() == 0
    assert "after=now" not in poller.address
    assert "limit=5" in poller.address
    assert poller.poll() == 0
    new = product(client, quantity_on_hand=10)
    poller.poll_until(1)
    poller.poll()
    assert [row.get("product_id", row["id"]) for row in poller.seen] == [new["id"]]


def test_after_now_in_empty_feed_starts_at_beginning(client: FlaskClient, feed: str) -> None:
    answer = client.get(f"{feed}?after=now")
    assert (listed(answer), next_page(answer).partition("feed")[2]) == ([], "")
    product(client, quantity_on_hand=10)
    Poller(client, next_page(answer)).poll_until(1)


@on_postgresql
def test_after_now_includes_changes_committed_later(client: FlaskClient, database_url: str) -> None:
    bolt, nut = product(client)["id"], product(client)["id"]
    Poller(client, FEED).poll_until(2)
    poller = Poller(client, f"{FEED}?after=now")
    with psycopg.connect(database_url) as slow:
        slow.execute("UPDATE products SET price = 11 WHERE id = %s", [bolt])
        edit(client, nut, price=12)
        assert poller.poll() == 0
        slow.commit()
    poller.poll_until(2)
    assert sorted(poller.ids) == [bolt, nut]


# Transactions that commit out of order


@on_postgresql
def test_feed_withholds_changes_behind_open_transaction(client: FlaskClient, database_url: str, poller: Poller) -> None:
    bolt, nut = product(client)["id"], product(client)["id"]
    poller.poll_until(2)
    with psycopg.connect(database_url) as slow:
        slow.execute("UPDATE products SET price = 11 WHERE id = %s", [bolt])
        edit(client, nut, price=12)
        assert poller.poll() == 0, "a change was shown while one before it could still come"
        slow.commit()
    poller.poll_until(4)
    assert poller.ids[2:] == [bolt, nut]


@on_postgresql
def test_feed_shows_last_committed_change_last_despite_lower_xid(
    client: FlaskClient, database_url: str, poller: Poller
) -> None:
    """The transaction that commits last has the lower transaction ID, because it wrote first."""
    bolt, nut = product(client)["id"], product(client)["id"]
    poller.poll_until(2)
    with psycopg.connect(database_url) as early:
        early.execute("UPDATE products SET price = 11 WHERE id = %s", [nut])
        edit(client, bolt, price=12)
        early.execute("UPDATE products SET name = 'Last' WHERE id = %s", [bolt])
        early.commit()
    poller.poll_until(4)
    assert poller.ids[2:] == [nut, bolt]
    assert (poller.seen[3]["price"], poller.seen[3]["name"]) == (12, "Last")


# Synchronisation


class Sync(Poller):
    """Keeps a copy of the catalogue from the feed."""

    def copy(self) -> dict[int, dict[str, Any]]:
        copy = {row["id"]: row for row in self.seen}
        return {key: without_stock(row) for key, row in copy.items() if "deleted" not in row}


def without_stock(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in STOCK_FIELDS}


def whole_catalogue(client: FlaskClient) -> dict[int, dict[str, Any]]:
    pages = (listed(client.get(f"/products?limit=1000&skip={skip}")) for skip in range(0, 10_000, 1_000))
    return {row["id"]: without_stock(row) for page in pages for row in page}


@pytest.fixture
def patient(database_url: str) -> Iterator[Flask]:
    """The application with a busy timeout so long that an import delays requests but fails none."""
    app = create_app({"DATABASE_URL": database_url, "INVENTORY_BUSY_TIMEOUT_MS": 60_000, "TESTING": True})
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.mark.slow
def test_feed_sync_during_import_and_edits_equals_product_list(patient: Flask) -> None:
    client = patient.test_client()
    home = category(client, name="Home")["id"]
    insert_products(patient, home, [{"sku": f"OLD-{number}"} for number in range(300)])
    old = sorted(whole_catalogue(client))
    stocked = product(client, category_id=home, quantity_on_hand=1_000)["id"]
    finished = Event()

    def import_file() -> None:
        rows = [f"OLD-{number},Renamed,11,Home,3" for number in range(0, 200, 2)]
        rows += [f"NEW-{number},New,12,Home,{number % 2}" for number in range(3_000)]
        file = "\n".join(["sku,name,price,category,quantity_on_hand", *rows])
        answer = patient.test_client().post("/import/products", data=file, content_type="text/csv")
        assert (answer.status_code, body(answer)["created"]) == (200, 3_000)

    def work(number: int) -> None:
        own = patient.test_client()
        for turn in range(30):
            new = product(own, category_id=home)["id"]
            edit(own, old[number + 3 * turn], price=20 + turn)
            transaction(own, stocked, "sale", 1)
            edit(own, stocked, name=f"{number}-{turn}")
            if turn % 2:
                delete(own, new)
                delete(own, old[200 + number + 3 * turn])

    def follow() -> Sync:
        sync = Sync(patient.test_client(), f"{FEED}?limit=200")
        while not finished.wait(0.02):
            sync.poll()
        return sync

    with ThreadPoolExecutor(5) as pool:
        following = pool.submit(follow)
        try:
            writing = [pool.submit(import_file), *(pool.submit(work, number) for number in range(3))]
            for writer in writing:
                writer.result()
        finally:
            finished.set()
        sync = following.result()
    expected, deadline = whole_catalogue(client), time.monotonic() + 60
    while sync.copy() != expected and time.monotonic() < deadline:
        if not sync.poll():
            time.sleep(0.1)
    assert sync.copy() == expected
    assert len(expected) > 3_000
