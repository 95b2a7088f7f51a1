"""Importing new products as CSV, beside the same rows written by the driver's executemany."""

from __future__ import annotations

import csv
import io
import os
import re
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.catalogue import Catalogue, Row, Size
from benchmarks.cpu import metered
from benchmarks.databases import PostgresqlDatabase, SqliteDatabase, new_database, sqlite_value
from benchmarks.servers import Request, running
from inventory.database import sqlite

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.databases import Database
    from benchmarks.servers import Server

COLUMNS = ("sku", "name", "description", "price", "cost", "quantity_on_hand", "reorder_point", "location", "category")
# A statement with the parameters of each row.
Step = tuple[str, list[Row]]
# The only movement of a new product.
OPENING = {"transaction_type": "adjustment", "seq": 1, "reason": "opening", "xid": 0}


@dataclass(frozen=True)
class ImportRound:
    """CPU milliseconds per product, and products per second."""

    cpu_ms: float
    per_second: float


def compare(engine: str, products: int, rounds: int, say: Callable[[str], None]) -> dict[str, list[dict[str, float]]]:
    """Rounds of our import and of executemany, in turn, each into empty tables."""
    size = Size(products)
    body = csv_of(size)
    measured: dict[str, list[dict[str, float]]] = {"ours": [], "executemany": []}
    with new_database(engine) as database, running("ours", database) as server:
        ways: dict[str, Callable[[], ImportRound]] = {
            "ours": lambda: import_file(server, body, products),
            "executemany": lambda: write_plainly(database, size),
        }
        for number in range(rounds + 1):
            for name, run in ways.items():
                database.empty()
                found = run()
                database.verify()
                if number:  # the first round warms up
                    measured[name].append(asdict(found))
    figures = ", ".join(f"{name} {median(one['cpu_ms'] for one in found):.3f}" for name, found in measured.items())
    say(f"  import: CPU ms per product: {figures}")
    return measured


def csv_of(size: Size) -> str:
    """The catalogue as a file for the import."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in Catalogue(size).products():
        values = row | {"category": f"Category {row['category_id']}"}
        writer.writerow(["" if values[name] is None else values[name] for name in COLUMNS])
    return text.getvalue()


def import_file(server: Server, body: str, products: int) -> ImportRound:
    start = time.perf_counter()
    with metered(server.pid, server.database) as meter:
        answer = server.send(Request("POST", "/import/products", body, {"Content-Type": "text/csv"}))
        seconds = time.perf_counter() - start
    if answer.status != 200 or answer.json["created"] != products:
        raise RuntimeError(f"The import answered {answer.status}: {answer.body[:500]!r}")
    return ImportRound(1000 * meter.spent / products, products / seconds)


def write_plainly(database: Database, size: Size) -> ImportRound:
    """Write products, then their opening balances, in one transaction. Triggers and constraints are the same."""
    steps = [(statement, values_of(rows, database)) for statement, rows in plain_steps(size)]
    start = time.perf_counter()
    with metered(os.getpid(), database) as meter:
        if isinstance(database, PostgresqlDatabase):
            on_postgresql(database, steps)
        elif isinstance(database, SqliteDatabase):
            on_sqlite(database, steps)
        seconds = time.perf_counter() - start
    return ImportRound(1000 * meter.spent / size.products, size.products / seconds)


def plain_steps(size: Size) -> list[Step]:
    catalogue, now = Catalogue(size), datetime.now(UTC)
    categories, products = list(catalogue.categories()), list(catalogue.products())
    without_stock = [row | {"quantity_on_hand": 0, "last_seq": 0} for row in products]
    openings = [opening(row, now) for row in products]
    return [
        (insert("categories", categories), categories),
        (insert("products", without_stock), without_stock),
        ("UPDATE products SET quantity_on_hand = %(quantity_on_hand)s, last_seq = 1 WHERE id = %(id)s", products),
        (insert("transactions", openings), openings),
    ]


def opening(product: Row, now: datetime) -> Row:
    stock = product["quantity_on_hand"]
    moved = {"product_id": product["id"], "sku": product["sku"], "quantity": stock, "delta": stock}
    return OPENING | moved | {"balance_after": stock, "created_at": now}


def insert(table: str, rows: list[Row]) -> str:
    names = ", ".join(rows[0])
    return f"INSERT INTO {table} ({names}) VALUES ({', '.join(f'%({name})s' for name in rows[0])})"


def values_of(rows: list[Row], database: Database) -> list[Row]:
    if database.engine == "postgresql":
        return rows
    return [{name: sqlite_value(value) for name, value in row.items()} for row in rows]


def on_postgresql(database: PostgresqlDatabase, steps: list[Step]) -> None:
    with database.connect() as connection, connection.transaction():
        for statement, rows in steps:
            connection.cursor().executemany(statement, rows)


def on_sqlite(database: SqliteDatabase, steps: list[Step]) -> None:
    with closing(sqlite.connect(database.path)) as connection:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("BEGIN IMMEDIATE")
        for statement, rows in steps:
            connection.executemany(re.sub(r"%\((\w+)\)s", r":\1", statement), rows)
        connection.execute("COMMIT")
