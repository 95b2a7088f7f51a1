"""Exports: each is streamed from one snapshot of the database, in constant memory."""

from __future__ import annotations

from itertools import chain
from operator import attrgetter
from time import perf_counter
from typing import TYPE_CHECKING, Any

import orjson

from inventory import activity
from inventory.database.base import count_rows, db
from inventory.database.engines import snapshot
from inventory.dumper import dumper
from inventory.import_export import cells
from inventory.import_export.schemas import PRODUCT_COLUMNS
from inventory.models.category import Category
from inventory.models.product import Product
from inventory.models.transaction import Transaction
from inventory.products import service as products
from inventory.products.schemas import ProductOut
from inventory.transactions import queries
from inventory.transactions.schemas import TransactionOut

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from marshmallow import Schema
    from sqlalchemy import Select

    from inventory.fields import Values

    # Chunks of rows, whose attributes are read by name.
    Rows = Iterator[Sequence[object]]

CHUNK = 500
PRICE_LIST = {
    "SKU": "sku",
    "Name": "name",
    "Price": "price",
    "Quantity": "quantity_on_hand",
    "Reorder Point": "reorder_point",
}


def select_products(filters: Values) -> Select[Any]:
    """Products with their category's name, ordered by id."""
    expected = Product.quantity_on_hand.label("expected_quantity")
    with_category = products.select_rows(filters).add_columns(Category.name.label("category"), expected)
    return with_category.join(Category, Category.id == Product.category_id).order_by(Product.id)


def select_transactions(filters: Values) -> Select[Any]:
    """The ledger's rows in the order in which they were written."""
    return queries.select_rows(filters).order_by(Transaction.id)


def export_products(filters: Values, file_format: str) -> Generator[bytes]:
    chunks = stream(select_products(filters))
    if file_format == "jsonl":
        return json_lines(chunks, ProductOut())
    return csv_lines(chunks, {name: name for name in PRODUCT_COLUMNS})


def export_price_list() -> Generator[bytes]:
    """Active products, with the column names of price lists."""
    return csv_lines(stream(select_products({"is_active": True})), PRICE_LIST)


def export_transactions(filters: Values, file_format: str) -> Generator[bytes]:
    chunks = stream(select_transactions(filters))
    schema = TransactionOut()
    if file_format == "jsonl":
        return json_lines(chunks, schema)
    return csv_lines(chunks, {name: name for name in schema.fields})


def count_products(filters: Values) -> int:
    return count_rows(select_products(filters))


def count_transactions(filters: Values) -> int:
    return count_rows(select_transactions(filters))


def stream(statement: Select[Any]) -> Rows:
    """Chunks of rows.

    Uses its own connection, because the response is sent after the end of the view. The first chunk is
    fetched at once: if the database fails, it fails before the response has begun.
    """
    chunks = fetch(statement)
    return chain([next(chunks, [])], chunks)


def fetch(statement: Select[Any]) -> Rows:
    # Both are closed also when the client disconnects.
    with (
        snapshot(db.engine) as connection,
        connection.execute(statement, execution_options={"yield_per": CHUNK}) as result,
    ):
        started = perf_counter()
        for rows in result.partitions():
            activity.note_rows(len(rows), perf_counter() - started)
            yield rows
            started = perf_counter()


def csv_lines(chunks: Rows, columns: Mapping[str, str]) -> Generator[bytes]:
    """``columns`` maps each heading to an attribute of the rows."""
    values = attrgetter(*columns.values())
    yield cells.lines([list(columns)])
    for rows in chunks:
        yield cells.lines(map(values, rows))


def json_lines(chunks: Rows, schema: Schema) -> Generator[bytes]:
    dump = dumper(schema)
    for rows in chunks:
        yield b"".join(orjson.dumps(record) + b"\n" for record in map(dump, rows))
