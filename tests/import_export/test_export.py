"""The export endpoints."""

from __future__ import annotations

import json
import socket
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest

from inventory.database.base import db
from inventory.import_export import exporter, temporary
from tests.builders import assert_ledger_is_consistent, body, category, product, transaction
from tests.clients import HttpClient
from tests.import_export.files import EXPORTED, NEW, exported, import_file, json_lines
from tests.servers import Gunicorn, checkout

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient

LEDGER_COLUMNS = (
    "id,product_id,sku,transaction_type,quantity,delta,balance_after,seq,reason,reference,notes,"
    "reverses_id,batch_id,actor,created_at"
)
DIFFICULT = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "'",
    "'=1",
    "''=1",
    "'plain",
    'say "hi"',
    '"',
    '""',
    "a,b;c",
    "=cmd|' /C calc'!A0",
    "Gustaf's Knäckebröd",
    "Straße £ 😀 \u202eabc",
    "e\u0301 and \u00e9",
    "0012",
    "1e3",
    "true",
    "NULL",
    "\\N",
    "%_",
]


def pages(client: FlaskClient, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(path).get_json()
    return found


# Content


def test_product_export_uses_import_columns(client: FlaskClient) -> None:
    tools = category(client, name="Tools")
    product(
        client,
        sku="A-1",
        name="Saw",
        description="Long",
        price=13.75,
        cost=2.125,
        quantity_on_hand=7,
        reorder_point=3,
        location="B-1",
        category_id=tools["id"],
        is_active=False,
    )
    product(client, sku="B", name="Axe", price=1, category_id=tools["id"])
    response = client.get("/export/products")
    assert response.get_data() == (
        f"{EXPORTED}\r\nA-1,Saw,Long,13.75,2.125,7,3,B-1,Tools,false,7\r\nB,Axe,,1.00,,0,10,,Tools,true,0\r\n".encode()
    )


def test_price_list_has_own_columns_and_only_active_products(client: FlaskClient) -> None:
    product(client, sku="A", name="Saw", price=13.75, quantity_on_hand=7, reorder_point=3)
    product(client, sku="B", name="Axe", price=1, is_active=False)
    product(client, sku="-C", name="=Hat, red", price=0.5)
    response = client.get("/export/products-csv")
    assert response.get_data() == (
        b"SKU,Name,Price,Quantity,Reorder Point\r\nA,Saw,13.75,7,3\r\n'-C,\"'=Hat, red\",0.50,0,10\r\n"
    )


def test_transaction_export_lists_rows_in_ledger_order(client: FlaskClient) -> None:
    bolt, nut = (product(client, sku=sku, quantity_on_hand=10) for sku in ("BOLT", "NUT"))
    transaction(client, bolt["id"], "sale", 4, reference="INV-1", notes="=1+1")
    transaction(client, nut["id"], "purchase", 2)
    transaction(client, bolt["id"], "adjustment", -1, reason="damage")
    rows = exported(client, "/export/transactions")
    assert ",".join(rows[0]) == LEDGER_COLUMNS
    assert [(row["sku"], row["transaction_type"], row["delta"], row["balance_after"]) for row in rows] == [
        ("BOLT", "adjustment", "10", "10"),
        ("NUT", "adjustment", "10", "10"),
        ("BOLT", "sale", "-4", "6"),
        ("NUT", "purchase", "2", "12"),
        ("BOLT", "adjustment", "-1", "5"),
    ]
    assert (rows[2]["reference"], rows[2]["notes"], rows[2]["reason"]) == ("INV-1", "'=1+1", "")


def test_jsonl_export_matches_list_endpoints(client: FlaskClient) -> None:
    bolt = product(client, sku="=BOLT", name="'Bolt", price=1.5, quantity_on_hand=10)
    product(client, is_active=False)
    transaction(client, bolt["id"], "sale", 4, notes="two\nlines")
    assert json_lines(client, "/export/products?format=jsonl") == pages(client, "/products")
    assert json_lines(client, "/export/transactions?format=jsonl") == pages(client, "/transactions?sort=id")


def test_export_without_rows_is_csv_header_or_empty_jsonl(client: FlaskClient) -> None:
    assert client.get("/export/products").text == f"{EXPORTED}\r\n"
    assert client.get("/export/transactions").text == f"{LEDGER_COLUMNS}\r\n"
    assert client.get("/export/products-csv").text == "SKU,Name,Price,Quantity,Reorder Point\r\n"
    assert client.get("/export/products?format=jsonl").text == ""
    assert client.get("/export/transactions?format=jsonl").text == ""


def test_export_of_several_chunks_contains_every_row_once(client: FlaskClient) -> None:
    skus = [f"S{number}" for number in range(2 * exporter.CHUNK + 1)]
    import_file(client, NEW + "".join(f"{sku},Bolt,1,C\n" for sku in skus))
    assert [row["sku"] for row in exported(client)] == skus
    assert [row["sku"] for row in json_lines(client, "/export/products?format=jsonl")] == skus
    assert [row["SKU"] for row in exported(client, "/export/products-csv")] == skus


@pytest.mark.parametrize(
    ("path", "media_type", "name"),
    [
        ("/export/products-csv", "text/csv; charset=utf-8", "price-list.csv"),
        ("/export/products", "text/csv; charset=utf-8", "products.csv"),
        ("/export/products?format=csv", "text/csv; charset=utf-8", "products.csv"),
        ("/export/products?format=jsonl", "application/x-ndjson", "products.jsonl"),
        ("/export/transactions", "text/csv; charset=utf-8", "transactions.csv"),
        ("/export/transactions?format=jsonl", "application/x-ndjson", "transactions.jsonl"),
    ],
)
def test_export_sets_content_type_and_file_name(client: FlaskClient, path: str, media_type: str, name: str) -> None:
    response = client.get(path)
    assert response.headers["Content-Type"] == media_type
    assert response.headers["Content-Disposition"] == f'attachment; filename="{name}"'
    response.close()


# Round trip


@pytest.mark.parametrize("start", range(0, len(DIFFICULT), 8))
def test_difficult_text_survives_export_and_import(app: Flask, client: FlaskClient, start: int) -> None:
    for number, text in enumerate(DIFFICULT[start : start + 8]):
        home = category(client, name=text)
        product(
            client,
            sku=text,
            name=text,
            description=f"{text}\n{text}\r\n\t{text}",
            location=text,
            price=number + 0.0001,
            quantity_on_hand=number,
            category_id=home["id"],
        )
    before = pages(client, "/products?limit=1000")
    file = client.get("/export/products").get_data()
    outcome = import_file(client, file)
    assert (outcome["unchanged"], outcome["updated"], outcome["created"]) == (len(before), 0, 0)
    assert pages(client, "/products?limit=1000") == before

    for item in before:
        changes = {"name": "x", "description": None, "location": None, "price": 1, "quantity_on_hand": 99}
        assert client.patch(f"/products/{item['id']}", json=changes).status_code == 200
    assert import_file(client, file)["updated"] == len(before)
    fields = ("sku", "name", "description", "location", "price", "category_id")
    after = pages(client, "/products?limit=1000")
    assert {item["quantity_on_hand"] for item in after} == {99}
    assert [[item[name] for name in fields] for item in after] == [[item[name] for name in fields] for item in before]
    assert_ledger_is_consistent(app)


def test_csv_export_quotes_formulas_but_not_numbers(client: FlaskClient) -> None:
    for text in DIFFICULT:
        found = product(client, sku=text, name=text, quantity_on_hand=5)
        transaction(client, found["id"], "sale", 1, reference=text, notes=text)
    products, ledger = exported(client), exported(client, "/export/transactions")
    texts = [row[name] for row in products for name in ("sku", "name", "description", "location", "category")]
    texts += [row[name] for row in ledger for name in ("sku", "reference", "notes")]
    assert [text for text in texts if text.startswith(("=", "+", "-", "@", "\t", "\r"))] == []
    assert {row["delta"] for row in ledger} == {"5", "-1"}


# Filters


@pytest.mark.parametrize(
    ("query", "skus"),
    [
        ("", ["A", "B", "C"]),
        ("is_active=false", ["C"]),
        ("search=saw", ["A", "B"]),
        ("sku=b", ["B"]),
        ("low_stock=true", ["B", "C"]),
        ("low_stock=false", ["A"]),
        ("min_price=2", ["B", "C"]),
        ("max_price=2", ["A", "B"]),
        ("min_quantity=3&max_quantity=20", ["B"]),
        ("search=saw&min_price=2", ["B"]),
        ("updated_since=2999-01-01", []),
        ("updated_since=2000-01-01", ["A", "B", "C"]),
        ("search=", ["A", "B", "C"]),
    ],
)
def test_product_export_filters_match_product_list(client: FlaskClient, query: str, skus: list[str]) -> None:
    product(client, sku="A", name="Saw", price=1, quantity_on_hand=30)
    product(client, sku="B", name="Jigsaw", price=2, quantity_on_hand=5)
    product(client, sku="C", name="Hat", price=3, quantity_on_hand=0, is_active=False)
    assert [item["sku"] for item in pages(client, f"/products?{query}")] == skus
    assert [row["sku"] for row in exported(client, f"/export/products?{query}")] == skus
    assert [row["sku"] for row in json_lines(client, f"/export/products?format=jsonl&{query}")] == skus


def test_product_export_filters_by_category(client: FlaskClient) -> None:
    wanted = product(client)
    product(client)
    rows = exported(client, f"/export/products?category_id={wanted['category_id']}")
    assert [row["sku"] for row in rows] == [wanted["sku"]]


@pytest.mark.parametrize(
    "query",
    [
        "transaction_type=sale",
        "reason=opening",
        "reference=INV-1",
        "sku=nut",
        "created_from=2999-01-01",
        "created_to=2999-01-01",
        "transaction_type=sale&sku=BOLT",
        "batch_id=none",
    ],
)
def test_transaction_export_filters_match_transaction_list(client: FlaskClient, query: str) -> None:
    bolt, nut = (product(client, sku=sku, quantity_on_hand=10) for sku in ("BOLT", "NUT"))
    transaction(client, bolt["id"], "sale", 4, reference="INV-1")
    transaction(client, nut["id"], "sale", 1, reference="INV-1")
    transaction(client, nut["id"], "purchase", 1, reference="PO-1")
    ids = [row["id"] for row in pages(client, f"/transactions?sort=id&{query}")]
    assert len(ids) < 5 or query.startswith("created_to")
    assert [int(row["id"]) for row in exported(client, f"/export/transactions?{query}")] == ids
    assert [row["id"] for row in json_lines(client, f"/export/transactions?format=jsonl&{query}")] == ids


@pytest.mark.parametrize(
    "path",
    [
        "/export/products?format=xlsx",
        "/export/products?format=CSV",
        "/export/products?limit=1",
        "/export/products?sort=id",
        "/export/products?is_active=perhaps",
        "/export/transactions?reason=none",
        "/export/transactions?skip=1",
        "/export/products-csv?format=csv",
        "/export/products-csv?category_id=1",
        "/export/products?format=csv&format=jsonl",
    ],
)
def test_export_rejects_unknown_parameters_and_values(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, body(response)["error"]) == (422, "validation_error")


# Snapshots and connections


def many_products(client: FlaskClient, count: int, *, stock: int = 0, description: str = "") -> None:
    rows = "".join(f"S{number},Bolt,{description},1,C,{stock}\n" for number in range(count))
    import_file(client, f"sku,name,description,price,category,quantity_on_hand\n{rows}")


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
def test_product_export_is_one_snapshot_despite_concurrent_writes(
    app: Flask, client: FlaskClient, file_format: str
) -> None:
    count = 3 * exporter.CHUNK
    many_products(client, count)
    with app.app_context():
        parts = exporter.export_products({}, file_format)
        first = b"".join(islice(parts, 2 if file_format == "csv" else 1))
        last = pages(client, f"/products?sku=S{count - 1}")[0]
        transaction(client, last["id"], "purchase", 5)
        assert client.patch(f"/products/{last['id']}", json={"name": "Renamed"}).status_code == 200
        product(client, sku="LATE")
        content = (first + b"".join(parts)).decode()
    assert content.count("Bolt") == count
    assert "Renamed" not in content
    assert "LATE" not in content
    assert content.count(",0," if file_format == "csv" else '"quantity_on_hand":0,') == count


def test_transaction_export_is_one_snapshot_despite_concurrent_sale(app: Flask, client: FlaskClient) -> None:
    many_products(client, 2 * exporter.CHUNK, stock=5)
    with app.app_context():
        parts = exporter.export_transactions({}, "jsonl")
        first = next(parts)
        transaction(client, pages(client, "/products?limit=1")[0]["id"], "sale", 5)
        rows = [json.loads(line) for line in (first + b"".join(parts)).splitlines()]
    assert {row["reason"] for row in rows} == {"opening"}
    assert len(rows) == 2 * exporter.CHUNK


def test_export_streams_rows_in_chunks(app: Flask, client: FlaskClient) -> None:
    many_products(client, 4 * exporter.CHUNK)
    with app.app_context():
        parts = [part.count(b"\n") for part in exporter.export_products({}, "csv")]
    assert parts == [1] + 4 * [exporter.CHUNK]


def test_completed_export_releases_connection(app: Flask, client: FlaskClient) -> None:
    product(client)
    for path in ("/export/products", "/export/products?format=jsonl", "/export/transactions", "/export/products-csv"):
        response = client.get(path)
        assert (response.status_code, bool(response.data)) == (200, True)
        with app.app_context():  # while the response still exists
            assert checked_out_connections() == 0


def test_aborted_or_unstarted_export_releases_connection(app: Flask, client: FlaskClient) -> None:
    many_products(client, 3 * exporter.CHUNK)
    with app.app_context():
        for file_format in ("csv", "jsonl"):
            parts = exporter.export_products({}, file_format)
            next(parts)
            assert checked_out_connections() == 1
            del parts
            assert checked_out_connections() == 0
    for _attempt in range(20):
        assert client.head("/export/products").status_code == 200
    with app.app_context():
        assert checked_out_connections() == 0


def checked_out_connections() -> int:
    """Connections that are checked out of the pool."""
    pool: Any = db.engine.pool
    count: int = pool.checkedout()
    return count


@pytest.mark.slow
def test_export_to_disconnected_clients_leaks_no_connections(client: FlaskClient, server: Gunicorn) -> None:
    # More than the socket buffers hold, so that the server is still sending when the client disconnects.
    count = 12 * exporter.CHUNK
    many_products(client, count, description="x" * 1_000)
    # More clients than the pool has connections: none may be leaked.
    for _attempt in range(30):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.sendall(b"GET /export/products?format=jsonl HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
    with HttpClient(server.url) as other:
        answer = other.get("/export/products")
    assert (answer.status, answer.content.count(b"\n")) == (200, count + 1)
    assert answer.headers["Transfer-Encoding"] == "chunked"


def test_slow_client_does_not_keep_the_snapshot(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_products(client, 4 * exporter.CHUNK)
    whole = client.get("/export/products").data
    monkeypatch.setattr(temporary, "PATIENCE", -1)
    parts = client.get("/export/products", buffered=False).iter_encoded()
    read = next(parts)
    with app.app_context():
        assert checked_out_connections() == 1
        read += next(parts)
        assert checked_out_connections() == 0
    assert read + b"".join(parts) == whole


def test_fast_client_gets_no_file(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    many_products(client, 2 * exporter.CHUNK)
    monkeypatch.setattr(temporary, "spooled", None)
    assert client.get("/export/products").status_code == 200


def test_slow_client_gets_something_while_the_file_is_written(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_products(client, 4 * exporter.CHUNK)
    whole = client.get("/export/products").data
    monkeypatch.setattr(temporary, "PATIENCE", -1)
    monkeypatch.setattr(temporary, "PAUSE", -1)
    monkeypatch.setattr(temporary, "BLOCK", 1_000)
    parts = list(client.get("/export/products", buffered=False).iter_encoded())
    assert b"".join(parts) == whole
    assert len(parts) > 10


def test_slow_client_is_served_without_a_temporary_directory(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_products(client, 2 * exporter.CHUNK)
    whole = client.get("/export/products").data
    monkeypatch.setattr(temporary, "PATIENCE", -1)
    monkeypatch.setitem(app.config, "INVENTORY_TEMP_DIR", "/nonexistent")
    assert client.get("/export/products").data == whole


@pytest.mark.parametrize("read", [0, 1, 2, 3])
def test_slow_client_that_disconnects_leaks_nothing(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch, read: int
) -> None:
    many_products(client, 4 * exporter.CHUNK)
    monkeypatch.setattr(temporary, "PATIENCE", -1)
    response = client.get("/export/products", buffered=False)
    parts = response.iter_encoded()
    for _ in range(read):
        next(parts)
    response.close()
    with app.app_context():
        assert checked_out_connections() == 0


@pytest.mark.slow
def test_client_that_does_not_read_is_given_up(database_url: str, client: FlaskClient, tmp_path: Path) -> None:
    source = checkout(tmp_path) / "inventory" / "import_export" / "temporary.py"
    text = source.read_text()
    assert "STALLED_SECONDS = 5.0, 600.0\n" in text
    source.write_text(text.replace("STALLED_SECONDS = 5.0, 600.0\n", "STALLED_SECONDS = 5.0, 5.0\n"))
    many_products(client, 12 * exporter.CHUNK, description="x" * 1_000)
    with (
        Gunicorn(database_url, folder=tmp_path, workers=1, INVENTORY_MAX_TRANSFERS="1") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as stalled,
        HttpClient(server.url) as other,
    ):
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stalled.sendall(b"GET /export/products?format=jsonl HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stalled.recv(12) == b"HTTP/1.1 200"
        deadline = time.monotonic() + 60
        while other.get("/export/products").status == 429:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "Socket error processing request" in server.output()
