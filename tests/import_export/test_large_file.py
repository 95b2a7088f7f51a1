"""Memory use of the import and export commands with large files.

TEST_FILE_MEGABYTES sets the size of the files.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, select

from inventory.categories import service as categories
from inventory.database.base import count_rows, db
from inventory.database.types import fold
from inventory.database.unit_of_work import unit_of_work
from inventory.models.product import Product
from inventory.transactions.statements import PRODUCTS
from tests.commands import flask
from tests.import_export.files import COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Flask

MEBIBYTE = 1024 * 1024
SIZE = int(os.environ.get("TEST_FILE_MEGABYTES", "20")) * MEBIBYTE
# Far below the size of the large file, and far above the variation between runs.
ALLOWED_GROWTH = 12 * MEBIBYTE
DESCRIPTION = "A stainless bolt; hexagonal, with a collar. " * 20

pytestmark = pytest.mark.slow


def write_products(path: Path, size: int) -> int:
    """Write a product file of about ``size`` bytes, with stock in a tenth of its rows. Returns the number of rows."""
    rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{COLUMNS}\n")
        while file.tell() < size:
            for number in range(rows, rows + 100):
                stock = number % 50 if number % 10 == 0 else 0
                cells = f'Bolt {number},"{DESCRIPTION}",{number % 900 + 1}.25,0.5,{stock},10,A-{number % 100}'
                file.write(f"SKU-{number:08},{cells},Category {number % 40},true\n")
            rows += 100
    return rows


def test_import_memory_is_independent_of_file_size(database_url: str, tmp_path: Path) -> None:
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    write_products(small, MEBIBYTE)
    rows = write_products(large, SIZE)
    first = flask(database_url, "import", "products", str(small), "--dry-run", "--json")
    second = flask(database_url, "import", "products", str(large), "--dry-run", "--json")
    assert json.loads(second.output)["created"] == rows
    print(f"\nimport of {SIZE // MEBIBYTE} MiB: {first.peak >> 20} and {second.peak >> 20} MiB")  # noqa: T201
    assert second.peak - first.peak < ALLOWED_GROWTH


@unit_of_work
def fill(count: int) -> None:
    """Insert many products directly into their table."""
    categories.create_missing(["Bolts"])
    category_id = categories.ids_of(["bolts"])["bolts"]
    values = {"name": "Bolt", "name_folded": "bolt", "description": DESCRIPTION, "price": 1, "category_id": category_id}
    first = count_rows(select(Product.id))
    for start in range(first, first + count, 1_000):
        skus = [f"S{number}" for number in range(start, min(start + 1_000, first + count))]
        db.session.execute(insert(PRODUCTS), [values | {"sku": sku, "sku_folded": fold(sku)} for sku in skus])


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
def test_export_memory_is_independent_of_row_count(
    app: Flask, database_url: str, tmp_path: Path, file_format: str
) -> None:
    file = tmp_path / "products"
    arguments = ("export", "products", "--format", file_format, "-o", str(file))
    with app.app_context():
        fill(MEBIBYTE // len(DESCRIPTION))
    first = flask(database_url, *arguments)
    with app.app_context():
        fill(SIZE // len(DESCRIPTION))
    second = flask(database_url, *arguments)
    assert file.stat().st_size > SIZE
    print(f"\nexport of {file.stat().st_size // MEBIBYTE} MiB: {first.peak >> 20} and {second.peak >> 20} MiB")  # noqa: T201
    assert second.peak - first.peak < ALLOWED_GROWTH
