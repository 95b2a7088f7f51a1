"""Imports and exports at the same time: a worker processes a limited number, and refuses others."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.test import EnvironBuilder

from inventory import create_app
from inventory.database.base import db
from inventory.errors import RateLimited
from inventory.import_export.routes import SLOTS, SMALL_FILE
from inventory.import_export.slots import Slots
from tests.builders import error_of, insert_products, product

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from flask import Flask
    from flask.testing import FlaskClient


@pytest.fixture
def app(database_url: str) -> Iterator[Flask]:
    """An application whose workers process one import or export at a time."""
    app = create_app({"DATABASE_URL": database_url, "INVENTORY_MAX_TRANSFERS": 1})
    yield app
    with app.app_context():
        db.engine.dispose()


EXPORTS = ["/export/products", "/export/products-csv", "/export/transactions?format=jsonl"]
FILE = b"sku,name,price,category\nA,Bolt,1,Nuts\n"
# Blank lines are no rows.
LARGE_FILE = FILE + b"\n" * SMALL_FILE


def begin_response(app: Flask, path: str) -> Any:
    """The body of a response as the server gets it, before it is sent."""
    begun: list[str] = []
    body: Iterable[bytes] = app.wsgi_app(
        EnvironBuilder(path=path).get_environ(),
        lambda status, _headers, _exc_info=None: begun.append(status),  # type: ignore[arg-type]
    )
    assert begun == ["200 OK"]
    return body


@pytest.mark.parametrize("path", EXPORTS)
def test_second_export_is_refused_until_the_first_ends(app: Flask, client: FlaskClient, path: str) -> None:
    body = begin_response(app, path)
    refused = client.get("/export/products-csv")
    assert error_of(refused) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) >= 1
    list(body)
    assert client.get("/export/products-csv").status_code == 200
    body.close()


@pytest.mark.parametrize("chunks", [0, 1])
def test_export_of_a_client_that_disconnects_is_ended(app: Flask, client: FlaskClient, chunks: int) -> None:
    found = product(client)
    insert_products(app, found["category_id"], [{} for _ in range(1_100)])
    body = begin_response(app, "/export/products")
    for _ in range(chunks):
        next(iter(body))
    body.close()
    assert client.get("/export/products").status_code == 200


def test_export_that_is_not_sent_at_all_is_ended(app: Flask, client: FlaskClient) -> None:
    begin_response(app, "/export/products")
    gc.collect()
    assert client.get("/export/products").status_code == 200


def test_head_of_an_export_keeps_no_slot(client: FlaskClient) -> None:
    for _ in range(3):
        assert client.head("/export/products").status_code == 200


def test_invalid_exports_and_imports_keep_no_slot(client: FlaskClient) -> None:
    for _ in range(3):
        assert client.get("/export/products?format=x").status_code == 422
        assert client.post("/import/products", data=b"x", content_type="text/plain").status_code == 415
        large = b"sku\n" + b" " * SMALL_FILE
        assert client.post("/import/products", data=large, content_type="text/csv").status_code != 429


def test_second_import_is_refused_until_the_first_ends(app: Flask, client: FlaskClient) -> None:
    with app.extensions[SLOTS].take():
        small = client.post("/import/products", data=FILE, content_type="text/csv")
        refused = client.post("/import/products", data=LARGE_FILE, content_type="text/csv")
    assert small.status_code == 200
    assert error_of(refused) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) >= 1
    assert client.post("/import/products", data=LARGE_FILE, content_type="text/csv").status_code == 200


def test_slot_is_free_after_a_failed_start_and_a_failed_stream() -> None:
    slots = Slots(1)

    def fail() -> Generator[bytes]:
        raise ZeroDivisionError

    def fail_later() -> Generator[bytes]:
        yield b""
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        slots.stream(fail)
    stream = slots.stream(fail_later)
    with pytest.raises(RateLimited):
        slots.take()
    with pytest.raises(ZeroDivisionError):
        list(stream)
    slots.take()


def test_slot_released_twice_counts_once() -> None:
    slots = Slots(1)
    slot = slots.take()
    slot.release()
    slot.release()
    slots.take()
    with pytest.raises(RateLimited):
        slots.take()
