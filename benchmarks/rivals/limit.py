"""The least that an answer costs in Python: a bare WSGI callable on the same tables, without validation or errors.

    gunicorn benchmarks.rivals.limit:app

One connection per thread, in autocommit. On PostgreSQL a write is one prepared statement; on SQLite it is one
transaction with the settings of the service.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import sqlite3
import threading
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl
from uuid import uuid4

import orjson
import psycopg
from psycopg.rows import dict_row
from psycopg.types.numeric import FloatLoader

try:
    import pysqlite3
except ImportError:  # no wheel for this platform
    pysqlite3 = sqlite3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
Row = dict[str, Any]
Response = tuple[str, dict[str, str], "Iterable[bytes]"]

DATABASE_URL = os.environ["DATABASE_URL"]
PRODUCT = (
    "id, sku, name, description, price, cost, quantity_on_hand, reorder_point, location, category_id, is_active,"
    " version, last_counted_at, created_at, updated_at"
)
LEDGER = (
    "id, product_id, sku, transaction_type, quantity, delta, balance_after, seq, reason, reference, notes, reverses_id,"
    " batch_id, actor, created_at"
)
EXPORT = (
    "sku",
    "name",
    "description",
    "price",
    "cost",
    "quantity_on_hand",
    "reorder_point",
    "location",
    "category",
    "is_active",
    "expected_quantity",
)
MOVEMENTS = f"""
    SELECT {LEDGER} FROM transactions
    WHERE product_id = :id AND NOT (seq = 1 AND reason IS NOT NULL AND reason = 'opening')
    ORDER BY created_at DESC, id DESC LIMIT 50
"""
MOVED_VALUES = """
    :transaction_type, :quantity, :delta, :reference, :notes, :client, :idempotency_key, :fingerprint
"""
UPDATE = """
    UPDATE products SET quantity_on_hand = quantity_on_hand + :delta, last_seq = last_seq + 1,
        updated_at = greatest(updated_at, clock_timestamp())
    WHERE id = :product_id AND is_active AND quantity_on_hand + :delta BETWEEN 0 AND 1000000000000
    RETURNING id, sku, quantity_on_hand, last_seq, updated_at
"""
WRITTEN = """
    product_id, sku, balance_after, seq, created_at, transaction_type, quantity, delta, reference, notes, client,
    idempotency_key, fingerprint
"""
POSITION = "greatest(pg_current_xact_id()::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1)"
POSTGRESQL_WRITE = f"""
    WITH moved AS ({UPDATE})
    INSERT INTO transactions ({WRITTEN}, xid)
    SELECT id, sku, quantity_on_hand, last_seq, updated_at, {MOVED_VALUES}, {POSITION} FROM moved
    RETURNING {LEDGER}
"""
# Rows are locked in order of their ids. A statement updates a row once, so the lines must be of different products.
POSTGRESQL_BATCH = f"""
    WITH lines AS (
        SELECT number, product_id, kind, quantity, CASE kind WHEN 'sale' THEN -quantity ELSE quantity END AS delta
        FROM unnest(:ids::bigint[], :kinds::text[], :quantities::bigint[])
            WITH ORDINALITY AS line (product_id, kind, quantity, number)
    ), locked AS (
        SELECT id FROM products WHERE id = ANY (:ids) ORDER BY id FOR NO KEY UPDATE
    ), moved AS (
        UPDATE products SET quantity_on_hand = quantity_on_hand + delta, last_seq = last_seq + 1,
            updated_at = greatest(updated_at, clock_timestamp())
        FROM lines JOIN locked ON locked.id = product_id
        WHERE products.id = product_id
        RETURNING number, products.id, sku, kind, quantity, delta, quantity_on_hand, last_seq, updated_at
    ), batch AS (
        INSERT INTO batches (id, kind, created_at) VALUES (:batch_id, 'batch', clock_timestamp()) ON CONFLICT DO NOTHING
    )
    INSERT INTO transactions
        (product_id, sku, transaction_type, quantity, delta, balance_after, seq, batch_id, xid, created_at)
    SELECT id, sku, kind, quantity, delta, quantity_on_hand, last_seq, :batch_id, {POSITION}, updated_at
    FROM moved ORDER BY number
    RETURNING {LEDGER}
"""
SQLITE_INSERT = f"""
    INSERT INTO transactions ({WRITTEN}, batch_id, xid)
    VALUES (:id, :sku, :quantity_on_hand, :last_seq, :updated_at, {MOVED_VALUES}, :batch_id, 0)
    RETURNING {LEDGER}
"""
NO_KEY: Row = {"client": "", "idempotency_key": None, "fingerprint": None}


class Postgresql:
    """A connection to PostgreSQL. Statements have named parameters with a colon."""

    def __init__(self) -> None:
        self.connection = psycopg.connect(DATABASE_URL, autocommit=True, row_factory=dict_row)
        self.connection.adapters.register_loader("numeric", FloatLoader)
        self.statements: dict[str, str] = {}

    def query(self, statement: str, values: Row) -> list[Row]:
        if statement not in self.statements:
            self.statements[statement] = placeholders(statement)
        return self.connection.execute(self.statements[statement], values, prepare=True).fetchall()

    def move(self, movement: Row) -> Row:
        (row,) = self.query(POSTGRESQL_WRITE, movement)
        return row

    def batch(self, batch_id: str, movements: list[Row]) -> list[Row]:
        """One statement, or a transaction with several if a product occurs in several lines."""
        (first, *others) = rounds(movements)
        if not others:
            return self.write_lines(batch_id, first)
        with self.connection.transaction():
            return [row for lines in (first, *others) for row in self.write_lines(batch_id, lines)]

    def write_lines(self, batch_id: str, movements: list[Row]) -> list[Row]:
        values = {
            "batch_id": batch_id,
            "ids": [movement["product_id"] for movement in movements],
            "kinds": [movement["transaction_type"] for movement in movements],
            "quantities": [movement["quantity"] for movement in movements],
        }
        return self.query(POSTGRESQL_BATCH, values)

    def stream(self, statement: str) -> Iterator[list[Row]]:
        with self.connection.transaction(), self.connection.cursor("export") as cursor:
            cursor.execute(statement)
            while rows := cursor.fetchmany(500):
                yield rows


def rounds(movements: list[Row]) -> list[list[Row]]:
    """The movements in lists in which no product occurs twice. The first one has all products."""
    lists: list[list[Row]] = []
    occurrences: Counter[int] = Counter()
    for movement in movements:
        number = occurrences[movement["product_id"]]
        occurrences[movement["product_id"]] += 1
        if number == len(lists):
            lists.append([])
        lists[number].append(movement)
    return lists


def placeholders(statement: str) -> str:
    """``:name`` as psycopg writes it, without touching ``::type``."""
    parts = statement.replace("%", "%%").replace("::", "\0").split(":")
    named = []
    for part in parts[1:]:
        name = part[: next((place for place, sign in enumerate(part) if not (sign.isalnum() or sign == "_")), None)]
        named.append(f"%({name})s{part[len(name) :]}")
    return (parts[0] + "".join(named)).replace("\0", "::")


class Sqlite:
    """A connection to SQLite, with the settings of inventory/database/sqlite.py."""

    def __init__(self) -> None:
        self.connection = pysqlite3.connect(DATABASE_URL.removeprefix("sqlite:///"), isolation_level=None)
        for setting in ("busy_timeout=5000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self.connection.execute(f"PRAGMA {setting}")
        self.connection.execute("PRAGMA recursive_triggers=ON")
        self.connection.create_function("clock_timestamp", 0, clock_timestamp)
        self.connection.create_function("greatest", 2, max, deterministic=True)

    def query(self, statement: str, values: Row) -> list[Row]:
        cursor = self.connection.execute(statement, values)
        names = [column[0] for column in cursor.description]
        return [typed(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]

    def move(self, movement: Row) -> Row:
        return self.write(lambda: self.insert(movement | {"batch_id": None}))

    def insert(self, movement: Row) -> Row:
        # One row of each statement, as it is stored.
        cursor = self.connection.execute(UPDATE, movement)
        names = [column[0] for column in cursor.description]
        (moved,) = cursor.fetchall()
        (row,) = self.query(SQLITE_INSERT, movement | dict(zip(names, moved, strict=True)))
        return row

    def batch(self, batch_id: str, movements: list[Row]) -> list[Row]:
        def work() -> list[Row]:
            insert = "INSERT INTO batches (id, kind, created_at) VALUES (?, 'batch', ?)"
            self.connection.execute(insert, [batch_id, clock_timestamp()])
            return [self.insert(movement | {"batch_id": batch_id}) for movement in movements]

        return self.write(work)

    def write(self, work: Callable[[], T]) -> T:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            done = work()
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return done

    def stream(self, statement: str) -> Iterator[list[Row]]:
        cursor = self.connection.execute(statement)
        names = [column[0] for column in cursor.description]
        while rows := cursor.fetchmany(500):
            yield [typed(dict(zip(names, row, strict=True))) for row in rows]


def clock_timestamp() -> str:
    return datetime.now(UTC).isoformat(" ", "microseconds")[:26]


def typed(row: Row) -> Row:
    """Values as Postgresql returns them. Amounts are stored in ten-thousandths."""
    for name in ("price", "cost"):
        if row.get(name) is not None:
            row[name] = row[name] / 10_000
    if "is_active" in row:
        row["is_active"] = bool(row["is_active"])
    for name in ("created_at", "updated_at", "last_counted_at"):
        if row.get(name) is not None:
            row[name] = f"{row[name].replace(' ', 'T')}+00:00"
    return row


class Local(threading.local):
    """One connection for each thread, opened by its first request."""

    def __init__(self) -> None:
        self.database = Sqlite() if DATABASE_URL.startswith("sqlite") else Postgresql()


local = Local()


def json_response(value: object, status: str = "200 OK", **headers: str) -> Response:
    body = orjson.dumps(value)
    return status, {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}, [body]


def detail(product_id: int, environ: Row) -> Response:
    statement = f"SELECT {PRODUCT}, last_seq FROM products WHERE id = :id"
    (product,) = local.database.query(statement, {"id": product_id})
    tag = f'"{product["version"]}-{product.pop("last_seq")}"'
    if environ.get("HTTP_IF_NONE_MATCH") == tag:
        return "304 Not Modified", {"ETag": tag}, []
    movements = local.database.query(MOVEMENTS, {"id": product_id})
    return json_response(product | {"transactions": movements}, ETag=tag)


def list_products(environ: Row) -> Response:
    query = dict(parse_qsl(environ["QUERY_STRING"]))
    conditions = ["1 = 1"]
    if "search" in query:
        conditions.append("(name_folded LIKE :pattern OR sku_folded LIKE :pattern)")
    if "category_id" in query:
        conditions.append("category_id = :category_id")
    values = {
        "pattern": f"%{query.get('search', '').casefold()}%",
        "category_id": int(query.get("category_id", 0)),
        "limit": int(query.get("limit", 100)),
    }
    statement = f"SELECT {PRODUCT} FROM products WHERE {' AND '.join(conditions)} ORDER BY id LIMIT :limit"
    return json_response(local.database.query(statement, values))


def list_low_stock(_environ: Row) -> Response:
    return json_response(
        local.database.query(
            f"""
            SELECT {PRODUCT} FROM products WHERE is_active AND quantity_on_hand <= reorder_point
            ORDER BY quantity_on_hand - reorder_point, id LIMIT :limit
            """,
            {"limit": 100},
        )
    )


def export(_environ: Row) -> Response:
    statement = f"""
        SELECT {", ".join("products." + name for name in EXPORT if name not in {"category", "expected_quantity"})},
            categories.name AS category, quantity_on_hand AS expected_quantity
        FROM products JOIN categories ON categories.id = category_id ORDER BY products.id
    """
    return "200 OK", {"Content-Type": "text/csv; charset=utf-8"}, csv_lines(local.database.stream(statement))


def csv_lines(chunks: Iterator[list[Row]]) -> Iterator[bytes]:
    yield (",".join(EXPORT) + "\r\n").encode()
    for rows in chunks:
        text = io.StringIO()
        writer = csv.DictWriter(text, EXPORT)
        writer.writerows(row | {"is_active": "true" if row["is_active"] else "false"} for row in rows)
        yield text.getvalue().encode()


def movement(line: Row) -> Row:
    return NO_KEY | {
        "product_id": line["product_id"],
        "transaction_type": line["transaction_type"],
        "quantity": line["quantity"],
        "delta": -line["quantity"] if line["transaction_type"] == "sale" else line["quantity"],
        "reference": line.get("reference"),
        "notes": line.get("notes"),
    }


def body_of(environ: Row) -> bytes:
    body: bytes = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    return body


def record(environ: Row) -> Response:
    body = body_of(environ)
    values = movement(orjson.loads(body))
    if "HTTP_IDEMPOTENCY_KEY" in environ:
        values["idempotency_key"] = environ["HTTP_IDEMPOTENCY_KEY"]
        values["fingerprint"] = hashlib.sha256(body).hexdigest()
    row = local.database.move(values)
    return json_response(row, "201 Created", Location=f"/transactions/{row['id']}")


def record_batch(environ: Row) -> Response:
    lines = orjson.loads(body_of(environ))["lines"]
    batch_id = str(uuid4())
    rows = local.database.batch(batch_id, [movement(line) for line in lines])
    answer = {"batch_id": batch_id, "transactions": rows}
    return json_response(answer, "201 Created", Location=f"/transactions/batch/{batch_id}")


ROUTES: dict[tuple[str, str], Callable[[Row], Response]] = {
    ("GET", "/products"): list_products,
    ("GET", "/products/low-stock"): list_low_stock,
    ("GET", "/export/products"): export,
    ("POST", "/transactions"): record,
    ("POST", "/transactions/batch"): record_batch,
}


def app(environ: Row, start_response: Callable[..., object]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    view = ROUTES.get((environ["REQUEST_METHOD"], path))
    if view is None:
        status, headers, body = detail(int(path.removeprefix("/products/")), environ)
    else:
        status, headers, body = view(environ)
    start_response(status, list(headers.items()))
    return body
