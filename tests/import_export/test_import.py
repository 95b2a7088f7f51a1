"""POST /import/products."""

from __future__ import annotations

import io
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select

from inventory import create_app, errors
from inventory.database.base import db
from inventory.import_export import importer
from inventory.import_export.scratch import CHUNK
from inventory.models.category import Category
from inventory.models.product import Product
from inventory.models.transaction import Transaction
from tests.builders import assert_ledger_is_consistent, body, category, product, transaction
from tests.clients import HttpClient, at_once
from tests.import_export.files import COLUMNS, NEW, exported, import_file, message, only_product, problems, send

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from tests.servers import Gunicorn

TABLES = (Category, Product, Transaction)


def counts(app: Flask) -> tuple[int, int, int]:
    """The number of categories, products and transactions."""
    with app.app_context():
        found = [db.session.scalar(select(func.count()).select_from(model)) or 0 for model in TABLES]
    return found[0], found[1], found[2]


def ledger(client: FlaskClient, sku: str) -> list[tuple[str, int, int]]:
    """Reason, delta and balance of a product's movements, oldest first."""
    rows = client.get("/transactions", query_string={"sku": sku, "sort": "id"}).get_json()
    return [(row["reason"], row["delta"], row["balance_after"]) for row in rows]


# Valid files


def test_import_creates_product_with_all_columns(client: FlaskClient) -> None:
    outcome = import_file(client, f"{COLUMNS}\nA-1,Bolt,Hexagonal,13.75,2.5,7,3,Shelf 4,Fasteners,false\n")
    expected = {"rows": 1, "created": 1, "updated": 0, "unchanged": 0, "stock_transactions": 1, "dry_run": False}
    assert outcome == expected
    (home,) = client.get("/categories").get_json()
    fields = {
        "sku": "A-1",
        "name": "Bolt",
        "description": "Hexagonal",
        "price": 13.75,
        "cost": 2.5,
        "quantity_on_hand": 7,
        "reorder_point": 3,
        "location": "Shelf 4",
        "category_id": home["id"],
        "is_active": False,
        "version": 1,
    }
    found = only_product(client)
    assert {name: found[name] for name in fields} == fields
    assert home["name"] == "Fasteners"


def test_new_product_without_optional_columns_gets_defaults(client: FlaskClient) -> None:
    import_file(client, f"{NEW}A-1,Bolt,1,Fasteners\n")
    found = only_product(client)
    names = ("description", "cost", "quantity_on_hand", "reorder_point", "location", "is_active")
    assert [found[name] for name in names] == [None, None, 0, 10, None, True]


def test_stock_of_new_product_records_opening_transaction(app: Flask, client: FlaskClient) -> None:
    import_file(client, "sku,name,price,category,quantity_on_hand\nA,Bolt,1,C,7\nB,Nut,1,C,0\n")
    assert ledger(client, "A") == [("opening", 7, 7)]
    assert ledger(client, "B") == []
    assert_ledger_is_consistent(app)


def test_changed_stock_of_existing_product_records_count(app: Flask, client: FlaskClient) -> None:
    for sku, stock in [("UP", 10), ("DOWN", 10), ("SAME", 10), ("OUT", 10)]:
        product(client, sku=sku, quantity_on_hand=stock)
    outcome = import_file(client, "sku,quantity_on_hand\nUP,12\nDOWN,7\nSAME,10\nOUT,0\n")
    assert (outcome["updated"], outcome["unchanged"], outcome["stock_transactions"]) == (3, 1, 3)
    assert ledger(client, "UP") == [("opening", 10, 10), ("count", 2, 12)]
    assert ledger(client, "DOWN") == [("opening", 10, 10), ("count", -3, 7)]
    assert ledger(client, "SAME") == [("opening", 10, 10)]
    assert ledger(client, "OUT") == [("opening", 10, 10), ("count", -10, 0)]
    assert_ledger_is_consistent(app)


def test_missing_column_leaves_field_unchanged(client: FlaskClient) -> None:
    before = product(client, sku="A", description="Old", cost=2, location="B-1", reorder_point=4, quantity_on_hand=5)
    outcome = import_file(client, "sku,price\nA,99.5\n")
    assert (outcome["updated"], outcome["stock_transactions"]) == (1, 0)
    after = only_product(client)
    assert after["price"] == 99.5
    changing = {"price", "version", "updated_at"}
    assert {name: after[name] for name in before.keys() - changing} == {
        name: before[name] for name in before.keys() - changing
    }


def test_empty_cell_sets_nullable_field_to_null(client: FlaskClient) -> None:
    product(client, sku="A", description="Old", cost=2, location="B-1")
    import_file(client, "sku,description,cost,location\nA,, ,\n")
    found = only_product(client)
    assert (found["description"], found["cost"], found["location"]) == (None, None, None)


@pytest.mark.parametrize("column", ["name", "price", "quantity_on_hand", "reorder_point", "category", "is_active"])
def test_empty_cell_is_rejected_for_non_nullable_field(client: FlaskClient, column: str) -> None:
    product(client, sku="A", quantity_on_hand=3)
    before = only_product(client)
    assert problems(client, f"sku,{column}\nA,\n") == [(2, column)]
    assert only_product(client) == before


def test_importing_same_file_again_changes_nothing(client: FlaskClient) -> None:
    file = f"{COLUMNS}\nA-1,Bolt,Hexagonal,13.7500,2.5,7,3,Shelf 4,Fasteners,yes\n"
    import_file(client, file)
    before = only_product(client)
    outcome = import_file(client, file)
    assert (outcome["created"], outcome["updated"], outcome["unchanged"]) == (0, 0, 1)
    assert outcome["stock_transactions"] == 0
    assert only_product(client) == before


def test_sku_matches_existing_product_case_insensitively(client: FlaskClient) -> None:
    product(client, sku="Straße-1", quantity_on_hand=4)
    outcome = import_file(client, "sku,name,quantity_on_hand\nSTRASSE-1,New name,6\n")
    assert (outcome["created"], outcome["updated"]) == (0, 1)
    found = only_product(client)
    assert (found["name"], found["quantity_on_hand"]) == ("New name", 6)


def test_category_name_matches_case_insensitively(client: FlaskClient) -> None:
    tools = category(client, name="Werkzeug für draußen")
    import_file(client, f"{NEW}A,Saw,1,WERKZEUG FÜR DRAUSSEN\n")
    assert only_product(client)["category_id"] == tools["id"]
    assert [found["name"] for found in client.get("/categories").get_json()] == ["Werkzeug für draußen"]


def test_missing_category_is_created_once(client: FlaskClient) -> None:
    import_file(client, f"{NEW}A,Saw,1,Tools\nB,Axe,1,tools\nC,Hat,1,Safety\n")
    assert [found["name"] for found in client.get("/categories").get_json()] == ["Tools", "Safety"]
    ids = {found["sku"]: found["category_id"] for found in client.get("/products").get_json()}
    assert ids["A"] == ids["B"] != ids["C"]


def test_category_column_moves_product(client: FlaskClient) -> None:
    product(client, sku="A")
    import_file(client, "sku,category\nA,Elsewhere\n")
    (elsewhere,) = [found for found in client.get("/categories").get_json() if found["name"] == "Elsewhere"]
    assert only_product(client)["category_id"] == elsewhere["id"]


def test_inactive_product_accepts_count(app: Flask, client: FlaskClient) -> None:
    product(client, sku="A", quantity_on_hand=4, is_active=False)
    import_file(client, "sku,quantity_on_hand\nA,1\n")
    assert only_product(client)["quantity_on_hand"] == 1
    assert_ledger_is_consistent(app)


def test_import_of_several_chunks_imports_every_row(app: Flask, client: FlaskClient) -> None:
    rows = 2 * CHUNK + 1
    file = "sku,name,price,category,quantity_on_hand\n" + "".join(f"S{n},Bolt {n},1,C,2\n" for n in range(rows))
    outcome = import_file(client, file)
    assert (outcome["rows"], outcome["created"], outcome["stock_transactions"]) == (rows, rows, rows)
    assert counts(app) == (1, rows, rows)
    assert_ledger_is_consistent(app)


def test_product_ids_follow_file_order(client: FlaskClient) -> None:
    import_file(client, NEW + "".join(f"{sku},Bolt,1,C\n" for sku in "QWERTZ"))
    assert [found["sku"] for found in client.get("/products?sort=id").get_json()] == list("QWERTZ")


# Invalid files


@pytest.mark.parametrize("missing", ["name", "price", "category"])
def test_new_product_requires_name_price_and_category(client: FlaskClient, missing: str) -> None:
    cells = {"sku": "A", "name": "Bolt", "price": "1", "category": "C"}
    del cells[missing]
    file = f"{','.join(cells)}\n{','.join(cells.values())}\n"
    assert problems(client, file) == [(2, missing)]
    assert message(client, file) == "Required for new products."


def test_price_below_cost_is_rejected(client: FlaskClient) -> None:
    product(client, sku="OLD", price=10, cost=5)
    assert problems(client, "sku,name,price,cost,category\nNEW,Bolt,1,1.0001,C\n") == [(2, "price")]
    assert problems(client, "sku,price\nOLD,4.9999\n") == [(2, "price")]
    assert problems(client, "sku,cost\nOLD,10.01\n") == [(2, "cost")]
    assert import_file(client, "sku,cost\nOLD,10\n")["updated"] == 1
    assert import_file(client, "sku,price,cost\nOLD,4,\n")["updated"] == 1


def test_file_with_only_header_imports_nothing(app: Flask, client: FlaskClient) -> None:
    outcome = import_file(client, NEW)
    assert set(outcome.values()) == {0}
    assert counts(app) == (0, 0, 0)


def test_non_utf8_file_returns_400(app: Flask, client: FlaskClient) -> None:
    response = send(client, f"{NEW}A,Bolt,1,C\nB,Café,1,C\n".encode("latin-1"))
    assert (response.status_code, body(response)["error"]) == (400, "unsupported_encoding")
    assert counts(app) == (0, 0, 0)


def test_errors_include_row_column_and_message(client: FlaskClient) -> None:
    product(client, sku="OLD", price=10, cost=5)
    response = send(client, "sku,price,quantity_on_hand\nOLD,4,1\nNEW,13;75,\n")
    assert response.status_code == 422
    assert body(response) == {
        "error": "import_invalid",
        "message": "Nothing was imported: the file has 3 errors.",
        "code": 422,
        "details": {
            "error_count": 3,
            "errors": [
                {"row": 2, "column": "price", "message": "The price must not be below the cost."},
                {
                    "row": 3,
                    "column": "price",
                    "message": "Not a valid number: text. "
                    "Use a decimal point and up to 4 decimal places, such as 13.75.",
                },
                {"row": 3, "column": "quantity_on_hand", "message": "Must not be empty."},
            ],
        },
    }


def test_parser_and_database_errors_are_listed_in_row_order(client: FlaskClient) -> None:
    known = "".join(f"K{number},Bolt,1,C\n" for number in range(150))
    import_file(client, NEW + known)
    bad = "".join(f"B{number},Bolt,x,C\n" for number in range(150))
    details = body(send(client, NEW + known + bad, mode="create"))["details"]
    assert details["error_count"] == 300
    assert [(problem["row"], problem["column"]) for problem in details["errors"]] == [
        (row, "sku") for row in range(2, 102)
    ]


@pytest.mark.parametrize(
    "last_row",
    ["NEW,Bolt,x,C", "K2,Bolt,1,C", "NEW,Bolt,1", 'NEW,"Bolt', "K1,Bolt,0.5,C"],
    ids=["invalid cell", "duplicate SKU", "missing cell", "invalid CSV", "price below cost"],
)
def test_import_rejects_all_rows_when_last_row_is_invalid(app: Flask, client: FlaskClient, last_row: str) -> None:
    product(client, sku="K0", name="Old", quantity_on_hand=3)
    product(client, sku="K1", price=2, cost=1)
    before = counts(app)
    rows = "".join(f"K{number},Bolt,1,C\n" for number in range(2, 3 * CHUNK))
    assert problems(client, f"{NEW}K0,New,1,C\n{rows}{last_row}\n") != []
    assert counts(app) == before
    assert client.get("/products?sku=K0").get_json()[0]["name"] == "Old"


@pytest.mark.parametrize(
    ("first_row", "mode"),
    [("K0,Bolt,x,C", "upsert"), ("KNOWN,Bolt,1,C", "create")],
    ids=["invalid cell", "existing SKU"],
)
def test_invalid_import_does_not_block_writers_while_collecting_errors(
    app: Flask, client: FlaskClient, impatient: Flask, first_row: str, mode: str
) -> None:
    known = product(client, sku="KNOWN")["id"]
    other = impatient.test_client()
    statuses = []

    def buy(_rows: int) -> None:
        movement = {"product_id": known, "transaction_type": "purchase", "quantity": 1}
        statuses.append(other.post("/transactions", json=movement).status_code)

    rows = "".join(f"K{number},Bolt,1,C\n" for number in range(1, 2 * CHUNK))
    file = f"{NEW}{first_row}\n{rows}LAST,Bolt,x,C\n"
    with app.app_context(), pytest.raises(errors.ImportInvalid) as raised:
        importer.import_products(io.BytesIO(file.encode()), mode=mode, progress=buy)
    assert [problem["row"] for problem in (raised.value.details or {})["errors"]] == [2, 2 * CHUNK + 2]
    assert set(statuses) == {201}


# mode and dry_run


def test_mode_create_rejects_existing_skus(app: Flask, client: FlaskClient) -> None:
    product(client, sku="Known", name="Old", quantity_on_hand=3)
    before = counts(app)
    file = f"{NEW}NEW,Bolt,1,C\nKNOWN,Bolt,1,C\n"
    assert problems(client, file, mode="create") == [(3, "sku")]
    assert message(client, file, mode="create") == "A product with this SKU already exists."
    assert counts(app) == before
    assert import_file(client, f"{NEW}NEW,Bolt,1,C\n", mode="create")["created"] == 1


def test_dry_run_returns_counts_without_changes(app: Flask, client: FlaskClient) -> None:
    product(client, sku="CHANGED", quantity_on_hand=3)
    product(client, sku="SAME", name="Bolt")
    before, listed = counts(app), client.get("/products").get_json()
    file = "sku,name,price,category,quantity_on_hand\nNEW,Bolt,1,New category,5\n"
    outcome = import_file(client, file, dry_run="true")
    assert outcome == {
        "rows": 1,
        "created": 1,
        "updated": 0,
        "unchanged": 0,
        "stock_transactions": 1,
        "dry_run": True,
    }
    outcome = import_file(client, "sku,quantity_on_hand\nCHANGED,4\nSAME,0\n", dry_run="true")
    assert (outcome["updated"], outcome["unchanged"], outcome["stock_transactions"]) == (1, 1, 1)
    assert counts(app) == before
    assert client.get("/products").get_json() == listed


def test_dry_run_reports_same_errors_as_import(client: FlaskClient) -> None:
    file = f"{NEW}A,Bolt,x,C\nB,Bolt,1,\n"
    assert problems(client, file, dry_run="true") == problems(client, file) == [(2, "price"), (3, "category")]


def test_import_after_dry_run_returns_same_counts(client: FlaskClient) -> None:
    file = f"{NEW}A,Bolt,1,C\n"
    expected = import_file(client, file, dry_run="true")
    assert import_file(client, file) == expected | {"dry_run": False}


@pytest.mark.parametrize("query", [{"mode": "update"}, {"dry_run": "maybe"}, {"dry-run": "true"}, {"limit": "1"}])
def test_import_rejects_unknown_parameters_and_values(app: Flask, client: FlaskClient, query: dict[str, str]) -> None:
    response = send(client, f"{NEW}A,Bolt,1,C\n", **query)
    assert (response.status_code, body(response)["error"]) == (422, "validation_error")
    assert counts(app) == (0, 0, 0)


# Request formats


def upload(client: FlaskClient, *parts: tuple[str, str], content_type: str = "text/csv") -> TestResponse:
    """Send a form of named parts (RFC 7578). A text with a line break is sent as a file, others as plain fields."""
    lines = []
    for name, text in parts:
        filename = f'; filename="products.csv"\r\nContent-Type: {content_type}' if "\n" in text else ""
        lines += ["--limit", f'Content-Disposition: form-data; name="{name}"{filename}', "", text]
    content = "\r\n".join([*lines, "--limit--", ""])
    return client.post("/import/products", data=content, content_type="multipart/form-data; boundary=limit")


def test_multipart_upload_is_imported(client: FlaskClient) -> None:
    response = upload(client, ("file", f"{NEW}A,Bolt,1,C\n"))
    assert (response.status_code, body(response)["created"]) == (200, 1)
    assert only_product(client)["sku"] == "A"


def test_large_multipart_upload_is_imported(client: FlaskClient) -> None:
    # Larger than the part of an upload that is kept in memory; the rest is written to a temporary file.
    padding = " " * 1_000
    file = NEW + "".join(f"S{number},Bolt,1,C{padding}\n" for number in range(1_000))
    response = upload(client, ("file", file))
    assert (response.status_code, body(response)["created"]) == (200, 1_000)


@pytest.mark.parametrize(
    ("parts", "errors_by_field"),
    [
        ([("other", NEW)], {"other": ["Unknown field."], "file": ["Missing data for required field."]}),
        ([], {"file": ["Missing data for required field."]}),
        ([("file", f"{NEW}A,Bolt,1,C\n"), ("dry_run", "true")], {"dry_run": ["Unknown field."]}),
        ([("file", f"{NEW}A,Bolt,1,C\n"), ("file", f"{NEW}B,Bolt,1,C\n")], {"file": ["Duplicate field."]}),
    ],
)
def test_multipart_rejects_anything_but_one_file(
    app: Flask, client: FlaskClient, parts: list[tuple[str, str]], errors_by_field: dict[str, list[str]]
) -> None:
    response = upload(client, *parts)
    assert (response.status_code, body(response)["error"]) == (422, "validation_error")
    assert body(response)["details"] == {"form": errors_by_field}
    assert counts(app) == (0, 0, 0)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/vnd.ms-excel", ""])
def test_unsupported_content_type_returns_415(app: Flask, client: FlaskClient, content_type: str) -> None:
    response = send(client, f"{NEW}A,Bolt,1,C\n", content_type=content_type)
    assert (response.status_code, body(response)["error"]) == (415, "unsupported_media_type")
    assert counts(app) == (0, 0, 0)


@pytest.mark.parametrize(
    "content_type", ["TEXT/CSV", "text/csv; charset=utf-8", "text/csv; header=present; charset=UTF-8"]
)
def test_content_type_accepts_utf8_charset(client: FlaskClient, content_type: str) -> None:
    assert send(client, f"{NEW}A,Café,1,C\n", content_type=content_type).status_code == 200
    assert only_product(client)["name"] == "Café"


def test_other_charset_returns_400_even_for_valid_utf8(client: FlaskClient) -> None:
    response = send(client, f"{NEW}A,Ã©,1,C\n".encode(), content_type="text/csv; charset=iso-8859-1")
    assert (response.status_code, body(response)["error"]) == (400, "unsupported_encoding")
    response = upload(client, ("file", f"{NEW}A,Bolt,1,C\n"), content_type="text/csv; charset=iso-8859-1")
    assert (response.status_code, body(response)["error"]) == (400, "unsupported_encoding")


def test_compressed_body_returns_400(client: FlaskClient) -> None:
    response = client.post("/import/products", data=NEW, content_type="text/csv", headers={"Content-Encoding": "gzip"})
    assert (response.status_code, body(response)["error"]) == (400, "unsupported_encoding")


@pytest.fixture
def small_app(database_url: str) -> Iterator[Flask]:
    """Accepts 1 KiB of JSON and 2 KiB of CSV."""
    app = create_app(
        {"DATABASE_URL": database_url, "INVENTORY_MAX_BODY_BYTES": 1024, "INVENTORY_MAX_IMPORT_BYTES": 2048}
    )
    yield app
    with app.app_context():
        db.engine.dispose()


def file_of(size: int) -> str:
    file = f"{NEW}A,Bolt,1,C\n"
    return file + "\n" * (size - len(file))


def test_file_at_import_size_limit_is_accepted_above_json_limit(small_app: Flask) -> None:
    assert send(small_app.test_client(), file_of(2048)).status_code == 200


def test_file_above_size_limit_returns_413(small_app: Flask) -> None:
    response = send(small_app.test_client(), file_of(2049))
    assert (response.status_code, body(response)["error"]) == (413, "payload_too_large")
    assert counts(small_app) == (0, 0, 0)


def test_multipart_upload_above_size_limit_returns_413(small_app: Flask) -> None:
    response = upload(small_app.test_client(), ("file", file_of(2049)))
    assert (response.status_code, body(response)["error"]) == (413, "payload_too_large")
    assert counts(small_app) == (0, 0, 0)


@pytest.mark.parametrize("size", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_file_is_not_imported_when_connection_breaks(app: Flask, server: Gunicorn, size: str) -> None:
    rows = f"{NEW}A,Bolt,1,C\n"
    content = f"{len(rows):x}\r\n{rows}\r\n" if "chunked" in size else rows
    head = f"POST /import/products HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n{size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(f"{head}{content}".encode())
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert counts(app) == (0, 0, 0)


def test_get_returns_405_with_allow_header(client: FlaskClient) -> None:
    response = client.get("/import/products")
    assert (response.status_code, body(response)["error"]) == (405, "method_not_allowed")
    assert "POST" in response.headers["Allow"]


# Stock above the limit of one movement, and concurrent imports


def test_stock_above_movement_limit_survives_export_and_import(client: FlaskClient) -> None:
    found = product(client, sku="A", quantity_on_hand=10**9)
    transaction(client, found["id"], "purchase", 10**9)
    (row,) = exported(client)
    assert row["quantity_on_hand"] == "2000000000"
    assert import_file(client, "sku,quantity_on_hand\nA,2000000000\n")["unchanged"] == 1
    assert import_file(client, "sku,quantity_on_hand\nA,1000000000\n")["stock_transactions"] == 1
    transaction(client, found["id"], "purchase", 10**9)
    assert problems(client, "sku,quantity_on_hand\nA,0\n") == [(2, "quantity_on_hand")]


def test_concurrent_imports_of_same_file_create_rows_once(app: Flask, server: Gunicorn) -> None:
    rows = 200
    file = "sku,name,price,category,quantity_on_hand\n" + "".join(f"S{n},Bolt {n},1,C{n % 5},2\n" for n in range(rows))

    def import_it() -> dict[str, Any]:
        with HttpClient(server.url) as client:
            answer = client.post_csv("/import/products", file)
            assert answer.status == 200, answer.content
            outcome: dict[str, Any] = answer.json
            return outcome

    outcomes = at_once(import_it, 4)
    assert Counter(outcome["created"] for outcome in outcomes) == {rows: 1, 0: 3}
    assert sum(outcome["unchanged"] for outcome in outcomes) == 3 * rows
    assert counts(app) == (5, rows, rows)
    assert_ledger_is_consistent(app)
