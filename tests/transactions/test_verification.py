"""flask verify: it reports every inconsistency of a ledger, and nothing for a consistent one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import event, text

from inventory import create_app
from inventory.database.base import begin, db
from inventory.database.engines import WRITE
from inventory.database.sqlite import driver as sqlite3
from inventory.transactions import verification
from tests.builders import body, category, product, transaction, unprotected
from tests.commands import flask
from tests.conftest import on_postgresql, on_sqlite
from tests.servers import ROOT, free_port
from tests.transactions.endpoints import line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result
    from flask import Flask
    from flask.testing import FlaskClient
    from sqlalchemy import Connection


@pytest.fixture
def shop(client: FlaskClient) -> None:
    """Product 1, BOLT, with 15 in stock after rows 1 to 4 of the ledger; product 2, NUT, with 18 after rows 5 and 6."""
    home = category(client)["id"]
    bolt = product(client, sku="BOLT", quantity_on_hand=10, category_id=home)["id"]
    sale = transaction(client, bolt, "sale", 3)["id"]
    transaction(client, bolt, "purchase", 5)
    assert client.post(f"/transactions/{sale}/reversal").status_code == 201
    nut = product(client, sku="NUT", quantity_on_hand=20, category_id=home)["id"]
    transaction(client, nut, "sale", 2)


def verify(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["verify", *arguments])


def findings(app: Flask, *arguments: str) -> list[tuple[int, int | None, str]]:
    """Product, seq and problem of each finding.

    Findings about the SQLite file itself, such as a violated CHECK, have no product and are left out.
    """
    result = verify(app, "--json", *arguments)
    verdict = json.loads(result.stdout)
    assert result.exit_code == (1 if verdict["problems"] else 0)
    assert verdict["findings"] == len(verdict["problems"])
    return [
        (problem["product_id"], problem["seq"], problem["problem"]) for problem in verdict["problems"] if problem["sku"]
    ]


def tamper(database_url: str, *statements: str) -> None:
    """Run statements in a database after dropping its triggers and constraints."""
    if database_url.startswith("sqlite"):
        with sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None) as connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute("PRAGMA ignore_check_constraints = ON")
            for statement in statements:
                connection.execute(statement)
        connection.close()
        return
    with psycopg.connect(database_url) as session:
        for table in ("transactions", "batches", "products"):
            triggers = session.execute(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal", [table]
            ).fetchall()
            constraints = session.execute(
                "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype IN ('c', 'f')", [table]
            ).fetchall()
            for (name,) in triggers:
                drop = sql.SQL("DROP TRIGGER {} ON {}")
                session.execute(drop.format(sql.Identifier(name), sql.Identifier(table)))
            for (name,) in constraints:
                drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}")
                session.execute(drop.format(sql.Identifier(table), sql.Identifier(name)))
        for statement in statements:
            session.execute(statement.encode())


@pytest.mark.usefixtures("shop")
def test_verify_passes_consistent_ledger(app: Flask) -> None:
    result = verify(app)
    assert (result.exit_code, result.stdout) == (0, "products: 2, transactions: 6, findings: 0\n")
    assert result.stderr == ""


def test_verify_passes_empty_database(app: Flask) -> None:
    assert json.loads(verify(app, "--json").stdout) == {
        "products": 0,
        "transactions": 0,
        "findings": 0,
        "problems": [],
    }


def test_verify_passes_after_every_kind_of_write(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, sku="BOLT", quantity_on_hand=10)["id"]
    product(client)
    client.post(f"/products/{bolt}/counts", json={"counted_quantity": 10})
    client.post(f"/products/{bolt}/counts", json={"counted_quantity": 4})
    client.put(f"/products/{bolt}", json={"quantity_on_hand": 7})
    batch = body(client.post("/transactions/batch", json=[line(bolt, "sale", 5), line(bolt, "purchase", 9)]))
    client.post(f"/transactions/batch/{batch['batch_id']}/reversal")
    client.post("/import/products", data="sku,quantity_on_hand\nBOLT,0\n", content_type="text/csv")
    assert findings(app) == []
    assert verify(app).stdout == "products: 2, transactions: 9, findings: 0\n"


def quantity_is(quantity: int, balance: int, total: int) -> list[tuple[int, None, str]]:
    names = {"the last balance_after": balance, "the sum of the deltas": total}
    return [
        (1, None, f"quantity_on_hand is {quantity}, but {name} is {value}")
        for name, value in names.items()
        if value != quantity
    ]


DAMAGE: dict[str, tuple[list[str], list[tuple[int, int | None, str]]]] = {
    "the cached quantity": (
        ["UPDATE products SET quantity_on_hand = 16 WHERE id = 1"],
        [*quantity_is(16, 15, 15)],
    ),
    "a negative cached quantity": (
        ["UPDATE products SET quantity_on_hand = -1 WHERE id = 1"],
        [*quantity_is(-1, 15, 15)],
    ),
    "the cached seq": (
        ["UPDATE products SET last_seq = 5 WHERE id = 1"],
        [(1, None, "last_seq is 5, but the last ledger row has seq 4")],
    ),
    "a balance in the middle": (
        ["UPDATE transactions SET balance_after = 13 WHERE id = 3"],
        [
            (1, 3, "balance_after is 13, expected 12"),
            (1, 4, "balance_after is 15, expected 16"),
        ],
    ),
    "the last balance": (
        ["UPDATE transactions SET balance_after = 14 WHERE id = 4"],
        [(1, 4, "balance_after is 14, expected 15"), *quantity_is(15, 14, 15)],
    ),
    "the first balance": (
        ["UPDATE transactions SET balance_after = 11 WHERE id = 1"],
        [
            (1, 1, "balance_after is 11, expected 10"),
            (1, 2, "balance_after is 7, expected 8"),
        ],
    ),
    "a quantity": (
        ["UPDATE transactions SET quantity = 6 WHERE id = 3"],
        [(1, 3, "delta is 5, expected 6")],
    ),
    "a type": (
        ["UPDATE transactions SET transaction_type = 'sale' WHERE id = 3"],
        [(1, 3, "delta is 5, expected -5")],
    ),
    "the quantity of a sale": (
        ["UPDATE transactions SET quantity = 4 WHERE id = 6"],
        [(2, 2, "delta is -2, expected -4")],
    ),
    "quantity and delta": (
        ["UPDATE transactions SET quantity = 6, delta = 6 WHERE id = 3"],
        [(1, 3, "balance_after is 12, expected 13"), *quantity_is(15, 15, 16)],
    ),
    "a negative stock, otherwise consistent": (
        [
            "UPDATE transactions SET quantity = 22, delta = -22, balance_after = -2 WHERE id = 6",
            "UPDATE products SET quantity_on_hand = -2 WHERE id = 2",
        ],
        [(2, 2, "balance_after is negative: -2")],
    ),
    "a missing row": (
        ["DELETE FROM transactions WHERE id = 3"],
        [
            (1, 4, "expected seq 3"),
            (1, 4, "balance_after is 15, expected 10"),
            *quantity_is(15, 15, 10),
        ],
    ),
    "a missing first row": (
        ["DELETE FROM transactions WHERE id = 1"],
        [
            (1, 2, "expected seq 1"),
            (1, 2, "balance_after is 7, expected -3"),
            *quantity_is(15, 15, 5),
        ],
    ),
    "a missing last row": (
        ["DELETE FROM transactions WHERE id = 4"],
        [*quantity_is(15, 12, 12), (1, None, "last_seq is 4, but the last ledger row has seq 3")],
    ),
    "all rows missing": (
        ["DELETE FROM transactions WHERE product_id = 1"],
        [*quantity_is(15, 0, 0), (1, None, "last_seq is 4, but the last ledger row has seq 0")],
    ),
    "an extra row": (
        [
            """
            INSERT INTO transactions
                (product_id, sku, transaction_type, quantity, delta, balance_after, seq, xid, created_at)
            SELECT product_id, sku, 'purchase', 1, 1, 16, 5, xid, created_at FROM transactions WHERE id = 4
            """
        ],
        [*quantity_is(15, 16, 16), (1, None, "last_seq is 4, but the last ledger row has seq 5")],
    ),
    "a gap in seq": (
        ["UPDATE transactions SET seq = 9 WHERE id = 4", "UPDATE products SET last_seq = 9 WHERE id = 1"],
        [(1, 4 + 5, "expected seq 4")],
    ),
    "a seq below 1": (
        ["UPDATE transactions SET seq = 0 WHERE id = 1"],
        [(1, 0, "expected seq 1"), (1, 2, "expected seq 1")],
    ),
    "a decreasing created_at": (
        ["UPDATE transactions SET created_at = '2020-01-01 00:00:00.000000' WHERE id = 3"],
        [(1, 3, "created_at is earlier than in the previous row")],
    ),
    "a row moved to another product": (
        ["UPDATE transactions SET product_id = 2, seq = 3 WHERE id = 4"],
        [
            *quantity_is(15, 12, 12),
            (1, None, "last_seq is 4, but the last ledger row has seq 3"),
            (2, 3, "balance_after is 15, expected 21"),
            (2, 3, "created_at is earlier than in the previous row"),
            (2, 3, "does not undo the row it reverses"),
            (2, None, "quantity_on_hand is 18, but the last balance_after is 15"),
            (2, None, "quantity_on_hand is 18, but the sum of the deltas is 21"),
            (2, None, "last_seq is 2, but the last ledger row has seq 3"),
        ],
    ),
    "a reversal of another product's row": (
        ["UPDATE transactions SET reverses_id = 6 WHERE id = 4"],
        [(1, 4, "does not undo the row it reverses")],
    ),
    "a reversal of another amount": (
        ["UPDATE transactions SET reverses_id = 3 WHERE id = 4"],
        [(1, 4, "does not undo the row it reverses")],
    ),
    "a reversal of a missing row": (
        ["UPDATE transactions SET reverses_id = 99 WHERE id = 4"],
        [(1, 4, "does not undo the row it reverses")],
    ),
    "a reversal of a reversal": (
        [
            "UPDATE transactions SET delta = -3, transaction_type = 'sale', quantity = 3, reverses_id = 3 WHERE id = 2",
            "UPDATE transactions SET reverses_id = 2 WHERE id = 4",
        ],
        [(1, 2, "does not undo the row it reverses"), (1, 4, "does not undo the row it reverses")],
    ),
    "a row reversed twice": (
        [
            "DROP INDEX uq_transactions_reverses_id",
            """
            INSERT INTO transactions (product_id, sku, transaction_type, quantity, delta, balance_after, seq, reason,
                reverses_id, xid, created_at)
            SELECT product_id, sku, transaction_type, quantity, delta, balance_after + delta, seq + 1, reason,
                reverses_id, xid, created_at FROM transactions WHERE id = 4
            """,
            "UPDATE products SET quantity_on_hand = 18, last_seq = 5 WHERE id = 1",
        ],
        [(1, 5, "reverses a row that was already reversed")],
    ),
    "a row of a missing product": (
        ["UPDATE transactions SET product_id = 99, seq = 1 WHERE id = 6"],
        [
            (2, None, "quantity_on_hand is 18, but the last balance_after is 20"),
            (2, None, "quantity_on_hand is 18, but the sum of the deltas is 20"),
            (2, None, "last_seq is 2, but the last ledger row has seq 1"),
            (99, 1, "refers to a missing product"),
        ],
    ),
    "two products": (
        ["UPDATE products SET last_seq = 8", "UPDATE products SET quantity_on_hand = 17 WHERE id = 2"],
        [
            (1, None, "last_seq is 8, but the last ledger row has seq 4"),
            (2, None, "quantity_on_hand is 17, but the last balance_after is 18"),
            (2, None, "quantity_on_hand is 17, but the sum of the deltas is 18"),
            (2, None, "last_seq is 8, but the last ledger row has seq 2"),
        ],
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.usefixtures("shop")
def test_verify_reports_damage(app: Flask, database_url: str, kind: str) -> None:
    statements, problems = DAMAGE[kind]
    assert findings(app) == []
    tamper(database_url, *statements)
    assert sorted(findings(app), key=str) == sorted(problems, key=str)


@on_sqlite
@pytest.mark.parametrize(
    "damage", ["delta = 'abc'", "delta = 5.5", "quantity = x'00'", "balance_after = ''", "created_at = 'garbage'"]
)
@pytest.mark.usefixtures("shop")
def test_verify_reports_unreadable_row(app: Flask, database_url: str, damage: str) -> None:
    tamper(database_url, f"UPDATE transactions SET {damage} WHERE id = 3")
    assert sorted(findings(app), key=str) == [
        (1, 3, "has an invalid number or time"),
        (1, 4, "balance_after is 15, expected 10"),
        (1, 4, "expected seq 3"),
        (1, None, "quantity_on_hand is 15, but the sum of the deltas is 10"),
    ]


@pytest.mark.usefixtures("shop")
def test_verify_accepts_equal_timestamps(app: Flask, database_url: str) -> None:
    timestamp = "SELECT max(created_at) FROM transactions"
    tamper(database_url, f"UPDATE transactions SET created_at = ({timestamp})")
    assert findings(app) == []


# Violates no CHECK, which would be an additional finding on SQLite.
LATE_ROW = "UPDATE transactions SET created_at = '2020-01-01 00:00:00.000000' WHERE id = 3"


@pytest.mark.usefixtures("shop")
def test_verify_prints_findings_and_exits_1(app: Flask, database_url: str) -> None:
    tamper(
        database_url,
        LATE_ROW,
        "UPDATE products SET last_seq = 8 WHERE id = 2",
    )
    result = verify(app)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "product 1 (BOLT), seq 3: created_at is earlier than in the previous row",
        "product 2 (NUT): last_seq is 8, but the last ledger row has seq 2",
        "products: 2, transactions: 6, findings: 2",
    ]


@pytest.mark.usefixtures("shop")
def test_verify_json_prints_one_line(app: Flask, database_url: str) -> None:
    tamper(database_url, LATE_ROW)
    result = verify(app, "--json")
    assert result.exit_code == 1
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout) == {
        "products": 2,
        "transactions": 6,
        "findings": 1,
        "problems": [
            {"product_id": 1, "sku": "BOLT", "seq": 3, "problem": "created_at is earlier than in the previous row"}
        ],
    }


@pytest.mark.usefixtures("shop")
def test_verify_product_checks_one_product(app: Flask, database_url: str) -> None:
    tamper(database_url, "UPDATE products SET last_seq = 8 WHERE id = 2")
    assert findings(app, "--product", "1") == []
    assert findings(app, "--product", "2") == [(2, None, "last_seq is 8, but the last ledger row has seq 2")]
    assert verify(app, "--product", "1").stdout == "products: 1, transactions: 4, findings: 0\n"


@pytest.mark.usefixtures("shop")
def test_verify_product_finds_rows_of_missing_product(app: Flask, database_url: str) -> None:
    tamper(database_url, "UPDATE transactions SET product_id = 99, seq = 1 WHERE id = 6")
    assert findings(app, "--product", "99") == [(99, 1, "refers to a missing product")]
    assert findings(app, "--product", "1") == []


def test_verify_product_accepts_product_without_transactions(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)["id"]
    assert verify(app, "--product", str(bolt)).stdout == "products: 1, transactions: 0, findings: 0\n"


# Exit code 2: the ledger could not be checked


@pytest.mark.usefixtures("shop")
def test_verify_exits_2_for_unknown_product(app: Flask) -> None:
    result = verify(app, "--product", "99")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: Product not found.\n"


@pytest.mark.parametrize("arguments", [["--product", "x"], ["--product", "0"], ["--nonsense"], ["too much"]])
def test_verify_exits_2_on_wrong_usage(app: Flask, arguments: list[str]) -> None:
    assert verify(app, *arguments).exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"DATABASE_URL": "nonsense"}, {"INVENTORY_WORKERS": "0"}])
def test_verify_exits_2_on_invalid_setting(settings: dict[str, str]) -> None:
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "verify"]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("inventory: cannot start: invalid setting: ")
    assert ended.stderr.count("\n") == 1


@pytest.fixture
def unmigrated(empty_database_url: str) -> Iterator[Flask]:
    app = create_app({"DATABASE_URL": empty_database_url, "TESTING": True})
    yield app
    with app.app_context():
        db.engine.dispose()


def test_verify_exits_2_without_migrations(unmigrated: Flask) -> None:
    result = verify(unmigrated)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: The database is not migrated. Run 'flask --app wsgi db upgrade'.\n"


def test_verify_exits_2_when_database_is_unreachable(engine_name: str) -> None:
    nowhere = {
        "sqlite": "sqlite:////nowhere/at/all.db",
        "postgresql": f"postgresql://127.0.0.1:{free_port()}/inventory",
    }
    app = create_app({"DATABASE_URL": nowhere[engine_name], "TESTING": True})
    result = verify(app, "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


# On a live system


@pytest.mark.usefixtures("shop")
def test_verify_reads_from_one_snapshot(app: Flask, client: FlaskClient) -> None:
    """Transactions recorded during the check are not part of it."""
    problems: list[verification.Finding] = []
    done = 0

    def progress(rows: int) -> None:
        nonlocal done
        done += rows
        transaction(client, 2, "purchase", 1)

    with app.app_context():
        verdict = verification.verify(None, problems.append, progress)
        assert problems == []
        assert (verdict.products, verdict.transactions, verdict.findings, done) == (2, 6, 0, 6)
        assert verification.count_rows(None) == 12
        assert verification.count_rows(2) == 8
        assert verification.verify(2, problems.append).transactions == 8


def test_verify_finds_nothing_during_concurrent_writes(app: Flask, client: FlaskClient) -> None:
    products = [product(client, quantity_on_hand=100)["id"] for _product in range(3)]
    finished = Event()

    def write(number: int) -> None:
        own = app.test_client()
        for turn in range(15):
            lines = [line(products[(number + turn) % 3], "sale", 1), line(products[turn % 3], "purchase", 1)]
            assert own.post("/transactions/batch", json=lines).status_code == 201

    def look() -> None:
        with app.app_context():
            while not finished.is_set():
                verification.verify(None, lambda finding: pytest.fail(str(finding)))

    with ThreadPoolExecutor(3) as pool:
        looking = pool.submit(look)
        writing = [pool.submit(write, number) for number in range(2)]
        try:
            for one in writing:
                one.result()
        finally:
            finished.set()
        looking.result()
    assert findings(app) == []


@on_postgresql
def test_verify_has_no_statement_timeout(app: Flask, client: FlaskClient) -> None:
    """A statement over the whole ledger may take longer than a statement of a request."""
    transaction(client, product(client, quantity_on_hand=2)["id"], "sale", 1)
    limits: set[str] = set()
    with app.app_context():
        engine = db.engine

    @event.listens_for(engine, "before_cursor_execute")
    def look(connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        if "FROM transactions" in statement:
            cursor = connection.connection.cursor()
            cursor.execute("SHOW statement_timeout")
            limits.update(cursor.fetchone() or ())
            cursor.close()

    try:
        assert verify(app).exit_code == 0
    finally:
        event.remove(engine, "before_cursor_execute", look)
    assert limits == {"0"}


# Memory

MEBIBYTE = 1024 * 1024
# Far below the memory of 100,000 rows, and far above the difference between two runs.
ALLOWED_GROWTH = 12 * MEBIBYTE
SERIES = {
    "sqlite": "WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < :rows) SELECT n FROM g",
    "postgresql": "SELECT n FROM generate_series(1, :rows) AS g(n)",
}


def write_history(app: Flask, product_id: int, rows: int) -> None:
    with app.app_context(), begin(WRITE) as connection:
        series = SERIES[db.engine.dialect.name]
        history = f"""
            INSERT INTO transactions
                (product_id, sku, transaction_type, quantity, delta, balance_after, seq, xid, notes, created_at)
            SELECT :product_id, 'X', 'purchase', 1, 1, n, n, 0, '{"x" * 200}', products.created_at
            FROM ({series}) AS numbers JOIN products ON products.id = :product_id
        """
        db.session.execute(text(history), {"product_id": product_id, "rows": rows})
        now = "UPDATE products SET quantity_on_hand = :rows, last_seq = :rows WHERE id = :product_id"
        with unprotected("products"):
            db.session.execute(text(now), {"product_id": product_id, "rows": rows})
        connection.commit()


@pytest.mark.slow
def test_verify_memory_does_not_grow_with_ledger(app: Flask, client: FlaskClient, database_url: str) -> None:
    bolt, nut = product(client)["id"], product(client)["id"]
    write_history(app, bolt, 2_000)
    small = flask(database_url, "verify", "--json")
    write_history(app, nut, 100_000)
    large = flask(database_url, "verify", "--json")
    assert [json.loads(run.output)["transactions"] for run in (small, large)] == [2_000, 102_000]
    assert large.peak - small.peak < ALLOWED_GROWTH
