"""Storage and clock faults: a full database or disk, a read-only database, a clock that is set back."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, text

from inventory import create_app
from inventory.database import engines, sqlite
from inventory.database.base import db
from tests.builders import body, nothing_changes, product, transaction
from tests.clients import HttpClient
from tests.conftest import on_sqlite
from tests.reliability.audit import assert_consistent, drift
from tests.reliability.traffic import STOCK, stock_products
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient

    from tests.reliability.figures import Report

UNLIMITED = 2**32 - 2
EXPORT = "/export/products?format=jsonl"
RECORDED, FULL, UNAVAILABLE = (201, None), (507, "storage_full"), (503, "database_unavailable")


def batch_of(product_id: int, count: int) -> dict[str, Any]:
    line = {"product_id": product_id, "transaction_type": "purchase", "quantity": 1, "notes": "x" * 500}
    return {"lines": [line] * count}


def count_rows() -> int:
    return int(db.session.scalar(text("SELECT COUNT(*) FROM transactions")))


@pytest.fixture
def limit_pages(app: Flask) -> Callable[[int], None]:
    """Limits the number of pages of the database. SQLite has a limit for each connection."""
    limit = UNLIMITED

    def set_limit(pages: int) -> None:
        nonlocal limit
        limit = pages

    with app.app_context():

        @event.listens_for(db.engine, "checkout")
        def apply_limit(connection: Any, _record: object, _proxy: object) -> None:
            connection.execute(f"PRAGMA max_page_count = {limit}")

    return set_limit


@on_sqlite
def test_full_database_rejects_writes_and_keeps_data(
    app: Flask, client: FlaskClient, limit_pages: Callable[[int], None], report: Report
) -> None:
    """The database cannot grow: 507, no partial writes, reads work, /health reports it; recovery with free space."""
    bolt = product(client, quantity_on_hand=10)["id"]
    assert client.get("/health").status_code == 200
    with app.app_context():
        pages = db.session.execute(text("PRAGMA page_count")).scalar_one()
    limit_pages(pages + 20)
    recorded = 0
    while (answer := client.post("/transactions/batch", json=batch_of(bolt, 10))).status_code == 201:
        recorded += 1
    assert (answer.status_code, body(answer)["error"]) == (507, "storage_full")
    with nothing_changes(app):
        assert client.post("/transactions/batch", json=batch_of(bolt, 1_000)).status_code == 507
    assert body(client.get(f"/products/{bolt}"))["quantity_on_hand"] == 10 + 10 * recorded
    health = client.get("/health")
    assert (health.status_code, body(health)["error"]) == (503, "database_unavailable")
    limit_pages(UNLIMITED)
    assert client.post("/transactions/batch", json=batch_of(bolt, 1_000)).status_code == 201
    assert client.get("/health").status_code == 200
    with app.app_context():
        unacknowledged = count_rows() - (1 + 10 * recorded + 1_000)
        report(
            "SQLite: database full",
            batches_recorded=recorded,
            unacknowledged_rows=unacknowledged,
            drift=drift(db.session),
        )
    assert unacknowledged == 0
    assert_consistent(app)


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs permission to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@on_sqlite
def test_full_disk_rejects_writes_and_keeps_data(sqlite_template: Path, tmp_path: Path, report: Report) -> None:
    """The disk of a running server is full: 503 or 507, /health reports it; automatic recovery with free space."""
    with small_disk(tmp_path / "disk", 64) as disk:
        database = disk / "inventory.db"
        shutil.copy(sqlite_template, database)
        app = create_app({"DATABASE_URL": f"sqlite:///{database}"})
        with Gunicorn(f"sqlite:///{database}") as server, HttpClient(server.url) as client:
            bolt = stock_products(server.url, 1)[0]
            assert client.get("/health").status == 200
            ballast = disk / "ballast"
            fill(ballast)
            seen: Counter[tuple[int, str | None]] = Counter()
            while seen.total() - seen[RECORDED] < 20:
                answer = client.post("/transactions/batch", batch_of(bolt, 10))
                seen[answer.status, answer.json.get("error")] += 1
            assert client.get(f"/products/{bolt}").json["quantity_on_hand"] == STOCK + 10 * seen[RECORDED]
            health = client.get("/health")
            assert (health.status, health.json["error"]) == (503, "database_unavailable")
            ballast.unlink()
            assert client.post("/transactions/batch", batch_of(bolt, 1_000)).status == 201
            assert client.get("/health").status == 200
        with app.app_context():
            unacknowledged = count_rows() - (1 + 10 * seen[RECORDED] + 1_000)
            report(
                "SQLite: disk full",
                batches_recorded=seen[RECORDED],
                storage_full=seen[FULL],
                database_unavailable=seen[UNAVAILABLE],
                unacknowledged_rows=unacknowledged,
                drift=drift(db.session),
            )
        assert set(seen) <= {RECORDED, FULL, UNAVAILABLE}
        assert unacknowledged == 0
        assert_consistent(app)
        with app.app_context():
            db.engine.dispose()


@on_sqlite
def test_import_leaves_room_for_later_writes(sqlite_template: Path, tmp_path: Path, report: Report) -> None:
    """Imports of growing files into a small disk: one is refused before it fills the disk, and sales go on."""
    with small_disk(tmp_path / "disk", 40) as disk:
        database = disk / "inventory.db"
        shutil.copy(sqlite_template, database)
        imported = 0
        with Gunicorn(f"sqlite:///{database}") as server, HttpClient(server.url) as client:
            bolt = stock_products(server.url, 1)[0]
            while (answer := client.post_csv("/import/products", file_of(imported, 4_000))).status == 200:
                imported += answer.json["created"]
                assert sell(client, bolt) == 201
            assert (answer.status, answer.json["error"]) == (507, "storage_full"), answer
            assert "Nothing was imported" in answer.json["message"]
            sold = [sell(client, bolt) for _ in range(200)]
            health = client.get("/health")
            total = client.get("/products?include_total=true&limit=1").headers["X-Total-Count"]
        report("SQLite: imports into a small disk", imported=imported, sales_after_refusal=sold.count(201))
        assert imported > 0
        assert int(total) == imported + 1
        assert set(sold) == {201}
        assert health.status == 200, health


def file_of(first: int, count: int) -> str:
    rows = (f"P{number},{'Product' * 10} {number},1,Imported,5" for number in range(first, first + count))
    return "\n".join(["sku,name,price,category,quantity_on_hand", *rows])


def sell(client: HttpClient, product_id: int) -> int:
    sale = {"product_id": product_id, "transaction_type": "sale", "quantity": 1}
    return client.post("/transactions", sale).status


@on_sqlite
def test_log_stays_small_beside_a_slow_export(sqlite_template: Path, tmp_path: Path, report: Report) -> None:
    """A client reads an export slowly, and others write: SQLite begins its log anew meanwhile."""
    database = tmp_path / "inventory.db"
    shutil.copy(sqlite_template, database)
    log = tmp_path / "inventory.db-wal"
    with Gunicorn(f"sqlite:///{database}") as server, HttpClient(server.url) as client:
        bolt = stock_products(server.url, 1)[0]
        assert client.post_csv("/import/products", file_of(0, 60_000)).status == 200
        size = len(client.get(EXPORT).content)
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            slow.sendall(f"GET {EXPORT} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            read, written = len(slow.recv(65_536)), 0
            assert client.post("/transactions/batch", batch_of(bolt, 100)).status == 201
            before = salt(log)
            while salt(log) == before:
                read += len(slow.recv(65_536))
                assert client.post("/transactions/batch", batch_of(bolt, 100)).status == 201
                written += 1
        report("SQLite: log beside a slow export", batches=written, read_share=round(read / size, 3))
    # Otherwise it would begin anew only after the end of the export.
    assert read < 0.5 * size


def salt(log: Path) -> bytes:
    """Changes whenever SQLite begins its log anew (https://www.sqlite.org/fileformat2.html#the_write_ahead_log)."""
    with log.open("rb") as file:
        return file.read(24)[16:]


def fill(ballast: Path) -> None:
    """Fill the disk, then free enough space for a few batches."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 2**20)
    os.truncate(ballast, ballast.stat().st_size - 2**18)


@pytest.fixture
def read_only_app(app: Flask) -> Iterator[Flask]:
    """The service on the same database without write permission, as with a read-only file or a standby server."""
    url = app.config["DATABASE_URL"]
    if url.startswith("sqlite:///"):
        url = f"sqlite:///file:{url.removeprefix('sqlite:///')}?mode=ro&uri=true"
    else:
        with app.app_context():
            name = db.session.scalar(text("SELECT current_database()"))
            db.session.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
            db.session.commit()
    read_only = create_app({"DATABASE_URL": url})
    yield read_only
    with read_only.app_context():
        db.engine.dispose()


def test_read_only_database_serves_reads_and_rejects_writes(
    app: Flask, client: FlaskClient, request: pytest.FixtureRequest, report: Report
) -> None:
    """The database is read-only: reads work, writes return 503, /health reports it, nothing changes."""
    bolt = product(client, quantity_on_hand=10)["id"]
    reader = request.getfixturevalue("read_only_app").test_client()
    with nothing_changes(app):
        responses = [
            reader.post("/transactions", json={"product_id": bolt, "transaction_type": "sale", "quantity": 1}),
            reader.post("/transactions/batch", json=batch_of(bolt, 10)),
            reader.patch(f"/products/{bolt}", json={"quantity_on_hand": 3}),
            reader.get("/health"),
        ]
    report("Read-only database", rejected=len(responses))
    assert body(reader.get(f"/products/{bolt}"))["quantity_on_hand"] == 10
    for answer in responses:
        assert (answer.status_code, body(answer)["error"]) == (503, "database_unavailable"), answer.text
        assert "read-only" in body(answer)["message"]
        assert int(answer.headers["Retry-After"]) > 0


@on_sqlite
def test_health_is_ok_and_not_blocked_during_write(app: Flask, client: FlaskClient) -> None:
    with app.app_context(), db.engine.connect().execution_options(**engines.WRITE) as writer, writer.begin():
        asked = time.monotonic()
        answer = client.get("/health")
    assert answer.status_code == 200
    assert time.monotonic() - asked < app.config["INVENTORY_BUSY_TIMEOUT_MS"] / 1000


@pytest.fixture
def clock_ahead(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """Returns a context manager in which the clock of the database is an hour ahead. At its end, the clock is set back.

    PostgreSQL uses the system clock. There, the timestamps of the products are changed instead.
    """
    clock, ahead = sqlite.clock_timestamp, False

    def adjustable_clock() -> str:
        now = datetime.fromisoformat(clock())
        return (now + timedelta(hours=ahead)).strftime("%Y-%m-%d %H:%M:%S.%f")

    monkeypatch.setattr(sqlite, "clock_timestamp", adjustable_clock)

    @contextmanager
    def hour_ahead() -> Iterator[None]:
        nonlocal ahead
        ahead = True
        with app.app_context():
            if db.engine.dialect.name == "postgresql":
                db.session.execute(text("UPDATE products SET updated_at = updated_at + interval '1 hour'"))
                db.session.commit()
        yield
        ahead = False

    return hour_ahead


def test_clock_set_back_keeps_order_of_product_history(
    app: Flask, client: FlaskClient, clock_ahead: Callable[[], AbstractContextManager[None]], report: Report
) -> None:
    """The clock is set back by an hour: rows of a product keep their order, and the current stock is correct."""
    bolt = product(client, quantity_on_hand=100)["id"]
    with clock_ahead():
        first = transaction(client, bolt, "sale", 1)
    later = [transaction(client, bolt, "sale", 2)]
    later += body(client.post("/transactions/batch", json=batch_of(bolt, 3)))["transactions"]
    later.append(body(client.post(f"/products/{bolt}/counts", json={"counted_quantity": 90})))
    times = [datetime.fromisoformat(row["created_at"]) for row in [first, *later]]
    assert times[0] > datetime.now(UTC) + timedelta(minutes=50)
    history = client.get(f"/transactions?product_id={bolt}").get_json()
    stock_now = body(client.get(f"/products/{bolt}/stock"))["quantity_on_hand"]
    with app.app_context():
        drift_units = drift(db.session)
    report("Clock set back", later_rows=len(later), drift=drift_units)
    assert times == sorted(times)
    assert [row["seq"] for row in history] == list(range(len(history), 0, -1))
    assert stock_now == 90
    assert body(client.get(f"/products/{bolt}"))["last_counted_at"] == later[-1]["created_at"]
    assert_consistent(app)
