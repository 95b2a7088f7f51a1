"""The Northwind food wholesaler: its catalogue imported, its two years of orders replayed by eight clients at once."""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests import realdata
from tests.builders import assert_ledger_is_consistent
from tests.clients import HttpClient, post_all

if TYPE_CHECKING:
    from flask import Flask

    from tests.servers import Gunicorn

pytestmark = [pytest.mark.slow, realdata.needs("northwind")]

CLIENTS = 8


def sku_of(row: dict[str, str]) -> str:
    return f"NW-{row['ProductID']}"


def catalogue() -> str:
    """Categories and products as a product file; the opening stock is the ordered quantity plus the remaining stock.

    Every product is active here, since a discontinued one would reject its sales.
    """
    categories = {row["CategoryID"]: row["CategoryName"] for row in realdata.read("northwind/categories")}
    ordered: Counter[str] = Counter()
    for line in realdata.read("northwind/order-details"):
        ordered[line["ProductID"]] += int(line["Quantity"])
    text = io.StringIO()
    file = csv.writer(text)
    file.writerow(["sku", "name", "description", "price", "quantity_on_hand", "reorder_point", "category"])
    for row in realdata.read("northwind/products"):
        stock = ordered[row["ProductID"]] + int(row["UnitsInStock"])
        fields = [row["ProductName"], row["QuantityPerUnit"], row["UnitPrice"], stock, row["ReorderLevel"]]
        file.writerow([sku_of(row), *fields, categories[row["CategoryID"]]])
    return text.getvalue()


def discontinued() -> str:
    products = realdata.read("northwind/products")
    return "sku,is_active\n" + "".join(f"{sku_of(row)},no\n" for row in products if row["Discontinued"] == "1")


def sales() -> list[dict[str, Any]]:
    return [
        {
            "sku": sku_of(line),
            "transaction_type": "sale",
            "quantity": int(line["Quantity"]),
            "reference": line["OrderID"],
        }
        for line in realdata.read("northwind/order-details")
    ]


def low_in_the_files() -> list[str]:
    """SKUs at or below their reorder point, calculated from the file: largest shortage first, then by id."""
    low = [
        (int(row["UnitsInStock"]) - int(row["ReorderLevel"]), int(row["ProductID"]), sku_of(row))
        for row in realdata.read("northwind/products")
        if row["Discontinued"] == "0" and int(row["UnitsInStock"]) <= int(row["ReorderLevel"])
    ]
    return [sku for _surplus, _id, sku in sorted(low)]


def test_replaying_all_orders_yields_the_published_stock(app: Flask, server: Gunicorn) -> None:
    with HttpClient(server.url) as client:
        imported = client.post_csv("/import/products", catalogue()).json
        assert (imported["created"], imported["stock_transactions"]) == (77, 77)

        start = time.perf_counter()
        answers = post_all(server.url, "/transactions", sales(), clients=CLIENTS)
        seconds = time.perf_counter() - start
        rate = len(answers) / seconds
        print(f"\n{len(answers)} sales by {CLIENTS} clients in {seconds:.2f} s: {rate:.0f} a second")  # noqa: T201
        assert Counter(answer.status for answer in answers) == {201: 2155}

        retired = client.post_csv("/import/products", discontinued()).json
        assert (retired["updated"], retired["stock_transactions"]) == (8, 0)

        products = client.get("/products?limit=1000").json
        assert {product["sku"]: (product["name"], product["quantity_on_hand"]) for product in products} == {
            sku_of(row): (row["ProductName"], int(row["UnitsInStock"])) for row in realdata.read("northwind/products")
        }
        assert [product["sku"] for product in client.get("/products/low-stock").json] == low_in_the_files()
    assert_ledger_is_consistent(app)
