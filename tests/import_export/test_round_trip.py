"""Export, edit in a spreadsheet and import: sold stock is not restored, and no product is created twice."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import assert_ledger_is_consistent, body, category, contents, listed, product, transaction
from tests.import_export.files import NEW, import_file, message, only_product, problems, send

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Flask
    from flask.testing import FlaskClient

NO_BREAK_SPACE, EM_SPACE, LINE_SEPARATOR = "\u00a0", "\u2003", "\u2028"


def export(client: FlaskClient, changes: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """A product export as CSV, with the given cells changed, by SKU and column."""
    rows = list(csv.DictReader(io.StringIO(client.get("/export/products").text, newline="")))
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows({**row, **(changes or {}).get(row["sku"], {})} for row in rows)
    return text.getvalue()


# Stock that changed since the export


def test_export_includes_current_stock_as_expected_quantity(client: FlaskClient) -> None:
    product(client, sku="A", quantity_on_hand=26)
    (row,) = csv.DictReader(io.StringIO(client.get("/export/products").text))
    assert list(row)[-1] == "expected_quantity"
    assert (row["quantity_on_hand"], row["expected_quantity"]) == ("26", "26")


def test_unchanged_file_keeps_sales_since_export(app: Flask, client: FlaskClient) -> None:
    found = product(client, sku="A", quantity_on_hand=26)
    file = export(client)
    transaction(client, found["id"], "sale", 5)
    outcome = import_file(client, file)
    assert (outcome["unchanged"], outcome["stock_transactions"]) == (1, 0)
    assert only_product(client)["quantity_on_hand"] == 21
    assert_ledger_is_consistent(app)


def test_changed_price_keeps_sales_since_export(client: FlaskClient) -> None:
    found = product(client, sku="A", price=10, quantity_on_hand=26)
    file = export(client, {"A": {"price": "11"}})
    transaction(client, found["id"], "sale", 5)
    assert import_file(client, file)["updated"] == 1
    after = only_product(client)
    assert (after["price"], after["quantity_on_hand"]) == (11, 21)


def test_count_is_recorded_when_stock_equals_expected_quantity(app: Flask, client: FlaskClient) -> None:
    product(client, sku="A", quantity_on_hand=26)
    assert import_file(client, export(client, {"A": {"quantity_on_hand": "24"}}))["stock_transactions"] == 1
    assert only_product(client)["quantity_on_hand"] == 24
    (newest, _opening) = listed(client.get("/transactions"))
    assert (newest["reason"], newest["delta"]) == ("count", -2)
    assert_ledger_is_consistent(app)


@pytest.mark.parametrize("counted", ["24", "21"], ids=["not the current stock", "the current stock"])
def test_count_is_rejected_when_stock_changed_since_export(client: FlaskClient, counted: str) -> None:
    found = product(client, sku="A", quantity_on_hand=26)
    file = export(client, {"A": {"quantity_on_hand": counted}})
    transaction(client, found["id"], "sale", 5)
    assert problems(client, file) == problems(client, file, dry_run="true") == [(2, "quantity_on_hand")]
    reason = message(client, file)
    assert "expected_quantity is 26" in reason
    assert "the stock is 21." in reason
    assert only_product(client)["quantity_on_hand"] == 21


@pytest.mark.parametrize(
    "file",
    ["sku,quantity_on_hand\nA,30\n", "sku,quantity_on_hand,expected_quantity\nA,30,\n"],
    ids=["no column", "empty cell"],
)
def test_count_without_expected_quantity_is_always_recorded(client: FlaskClient, file: str) -> None:
    found = product(client, sku="A", quantity_on_hand=26)
    transaction(client, found["id"], "sale", 5)
    assert import_file(client, file)["stock_transactions"] == 1
    assert only_product(client)["quantity_on_hand"] == 30


def test_expected_quantity_alone_changes_nothing(client: FlaskClient) -> None:
    product(client, sku="A", quantity_on_hand=26)
    outcome = import_file(client, "sku,expected_quantity\nA,3\n")
    assert (outcome["unchanged"], outcome["stock_transactions"]) == (1, 0)
    assert only_product(client)["quantity_on_hand"] == 26


def test_new_product_ignores_expected_quantity(client: FlaskClient) -> None:
    file = f"{NEW.strip()},quantity_on_hand,expected_quantity\nA,Bolt,1,C,7,7\nB,Nut,1,C,4,9\nD,Hat,1,C,0,3\n"
    assert import_file(client, file)["stock_transactions"] == 2
    assert [found["quantity_on_hand"] for found in listed(client.get("/products?sort=id"))] == [7, 4, 0]


def test_invalid_expected_quantity_is_rejected(client: FlaskClient) -> None:
    assert problems(client, "sku,expected_quantity\nA,1.5\nB,-1\n")[:2] == [
        (2, "expected_quantity"),
        (3, "expected_quantity"),
    ]


def test_importing_unchanged_export_changes_nothing(app: Flask, client: FlaskClient) -> None:
    for number in range(3):
        product(client, sku=f"=A{number}", price=number + 0.25, quantity_on_hand=number)
    before = contents(app)
    assert import_file(client, export(client))["unchanged"] == 3
    assert contents(app) | {"batches": []} == before


# Whitespace in single-line cells


@pytest.mark.parametrize(
    "written",
    ["Two\nwords", "Two\r\nwords", "Two \t words", f"{NO_BREAK_SPACE}Two{EM_SPACE}words ", f"Two{LINE_SEPARATOR}words"],
)
@pytest.mark.parametrize("column", ["sku", "name", "location", "category"])
def test_whitespace_in_single_line_cell_becomes_one_space(client: FlaskClient, column: str, written: str) -> None:
    cells = {"sku": "A", "name": "Bolt", "price": "1", "category": "C", "location": "B-1", column: f'"{written}"'}
    import_file(client, f"{','.join(cells)}\n{','.join(cells.values())}\n")
    found, home = only_product(client), listed(client.get("/categories"))[0]
    assert {**found, "category": home["name"]}[column] == "Two words"


def test_description_keeps_line_breaks(client: FlaskClient) -> None:
    import_file(client, f'{NEW.strip()},description\nA,Bolt,1,C,"two\nlines  here"\n')
    assert only_product(client)["description"] == "two\nlines  here"


def test_whitespace_of_existing_products_survives_round_trip(app: Flask, client: FlaskClient) -> None:
    name = f"Two  {NO_BREAK_SPACE}blanks"
    product(client, sku=name, name=name, location=name, category_id=category(client, name=name)["id"])
    before = contents(app)
    assert import_file(client, export(client))["unchanged"] == 1
    assert contents(app) | {"batches": []} == before


def test_sku_found_with_its_whitespace_keeps_it(client: FlaskClient) -> None:
    """Even if its case differs: without the white space, it could be another product's SKU."""
    home = category(client)["id"]
    product(client, sku="A B", category_id=home)
    product(client, sku="A  B", category_id=home)
    assert import_file(client, "sku,name\na  b,New\n")["updated"] == 1
    assert [(row["sku"], row["name"]) for row in listed(client.get("/products"))][1] == ("A  B", "New")


def test_whitespace_removed_in_file_counts_as_update(client: FlaskClient) -> None:
    product(client, sku="A", name="Two  blanks")
    assert import_file(client, "sku,name\nA,Two blanks\n")["updated"] == 1
    assert only_product(client)["name"] == "Two blanks"


# Headings and duplicate SKUs


def test_price_list_can_be_imported(app: Flask, client: FlaskClient) -> None:
    product(client, sku="A", price=10, quantity_on_hand=3)
    file = client.get("/export/products-csv").text
    assert import_file(client, file)["unchanged"] == 1
    changed = file.replace("10.00,3,10", "11.5,4,6")
    assert import_file(client, changed)["updated"] == 1
    after = only_product(client)
    assert (after["price"], after["quantity_on_hand"], after["reorder_point"]) == (11.5, 4, 6)
    assert_ledger_is_consistent(app)


def test_unknown_column_error_names_heading(client: FlaskClient) -> None:
    assert 'Unknown column 2 "Colour".' in message(client, "sku,Colour\nA,red\n")


def test_duplicate_sku_is_reported_when_first_row_is_invalid(client: FlaskClient) -> None:
    response = send(client, f"{NEW}A,Bolt,x,C\na,Bolt,1,C\nA,Bolt,y,C\n")
    assert body(response)["details"]["errors"] == [
        {"row": 2, "column": "price", "message": body(response)["details"]["errors"][0]["message"]},
        {"row": 3, "column": "sku", "message": "Duplicate SKU, also in row 2."},
        {"row": 4, "column": "price", "message": body(response)["details"]["errors"][0]["message"]},
        {"row": 4, "column": "sku", "message": "Duplicate SKU, also in row 2."},
    ]


def test_duplicate_sku_is_reported_when_first_row_has_extra_cell(client: FlaskClient) -> None:
    response = send(client, f"{NEW}A,Bolt,1,C,surplus\na,Bolt,1,C\n")
    problems = body(response)["details"]["errors"]
    assert [(problem["row"], problem["column"]) for problem in problems] == [(2, None), (3, "sku")]


def test_row_too_short_for_sku_reports_one_error(client: FlaskClient) -> None:
    response = send(client, "name,price,category,sku\nBolt,1,C\nBolt,1,C,A\n")
    problems = body(response)["details"]["errors"]
    assert [(problem["row"], problem["column"]) for problem in problems] == [(2, None)]
