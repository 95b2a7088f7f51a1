"""Invalid requests of maximum size: short responses and bounded memory."""

from __future__ import annotations

import re
import traceback
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import psutil
import pytest

from inventory import create_app
from inventory.database.base import db
from inventory.errors import ServiceError
from inventory.transactions.schemas import BatchIn
from inventory.web.parsing import Parser
from tests import builders
from tests.builders import error_of
from tests.clients import Answer, HttpClient, at_once
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from flask.testing import FlaskClient

LARGEST = 1024 * 1024
MEBIBYTE = 1024 * 1024
# Of one worker, which takes about 70 MiB at start. Parsing eight bodies at the same time would take more than 300.
ALLOWED_GROWTH = 280 * MEBIBYTE
ALLOWED_RESPONSE = 100_000


def as_many_as_fit(head: bytes, item: Callable[[int], bytes], tail: bytes) -> bytes:
    items, size = [], len(head) + len(tail)
    for number in count():
        items.append(item(number))
        size += len(items[-1]) + 1
        if size > LARGEST:
            return head + b",".join(items[:-1]) + tail
    raise AssertionError


def line_of_unknown_fields(_number: int) -> bytes:
    return b"{" + b",".join(b'"%x":1' % name for name in range(110)) + b"}"


EXCESSIVE = {
    "unknown fields": ("/categories", as_many_as_fit(b"{", lambda number: b'"%x":1' % number, b"}")),
    "unknown fields with arrays": ("/products", as_many_as_fit(b"{", lambda number: b'"%x":[]' % number, b"}")),
    "arrays": ("/transactions/batch", as_many_as_fit(b"[", lambda _number: b"[]", b"]")),
    "nested arrays": ("/transactions/batch", as_many_as_fit(b"[", lambda _number: b"[" * 500 + b"]" * 500, b"]")),
    "lines of unknown fields": ("/transactions/batch", as_many_as_fit(b"[", line_of_unknown_fields, b"]")),
    "an array instead of a string": ("/products", as_many_as_fit(b'{"sku":[', lambda _number: b"1", b"]}")),
    "a field name of a megabyte": ("/categories", b'{"' + b"x" * (LARGEST - 7) + b'":1}'),
}


@pytest.fixture(scope="module")
def lone_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    """A server with one worker. No request of these tests reaches a database."""
    with Gunicorn(f"sqlite:///{tmp_path_factory.mktemp('excess') / 'unused.db'}", workers=1) as server:
        yield server


def peak_memory(server: Gunicorn) -> int:
    """The peak memory of the worker, in bytes."""
    (worker,) = psutil.Process(server.process.pid).children()
    status = Path(f"/proc/{worker.pid}/status").read_text()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(peak) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is only available on Linux")
def test_memory_stays_bounded_under_concurrent_excessive_bodies(lone_worker: Gunicorn) -> None:
    before = peak_memory(lone_worker)
    for what, (path, body) in EXCESSIVE.items():

        def post(path: str = path, body: bytes = body) -> Answer:
            with HttpClient(lone_worker.url) as client:
                return client.request("POST", path, body)

        for answer in at_once(post, 8):
            assert answer.status == 422, what
        grown = peak_memory(lone_worker) - before
        assert grown < ALLOWED_GROWTH, f"{what}: grown by {grown // MEBIBYTE} MiB"


@pytest.mark.slow
@pytest.mark.parametrize(("path", "body"), EXCESSIVE.values(), ids=EXCESSIVE)
def test_excessive_body_returns_short_422(shared_app: Flask, path: str, body: bytes) -> None:
    assert LARGEST - 2_000 < len(body) <= LARGEST
    answer = shared_app.test_client().post(path, data=body, content_type="application/json")
    assert error_of(answer) == (422, "validation_error")
    assert len(answer.data) < ALLOWED_RESPONSE


def test_error_of_a_large_body_does_not_keep_what_was_parsed(shared_app: Flask) -> None:
    """Its traceback would, until the response is sent, while the next body is parsed."""
    path, body = EXCESSIVE["nested arrays"]
    request = shared_app.test_request_context(path, method="POST", data=body, content_type="application/json")
    with request, pytest.raises(ServiceError) as caught:
        Parser().parse(BatchIn(), location="json")
    functions = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert functions[-1] == "parse"
    assert "load_json" not in functions
    assert caught.value.__context__ is None


def messages(details: Any) -> list[str]:
    if isinstance(details, dict):
        return [message for below in details.values() for message in messages(below)]
    return list(details)


@pytest.mark.parametrize("number", [100, 101, 1_000])
def test_error_details_list_100_problems_and_count_the_rest(shared_app: Flask, number: int) -> None:
    lines = [{"sku": "BOLT-8", "transaction_type": "sale", "quantity": "x"}] * number
    answer = shared_app.test_client().post("/transactions/batch", json=lines)
    details = builders.body(answer)["details"]
    assert details.pop("omitted", 0) == number - 100
    assert messages(details) == ["Not a valid integer."] * 100
    assert list(details["json"]["lines"]) == [str(position) for position in range(100)]


def test_error_details_truncate_long_names(shared_app: Flask) -> None:
    name = "surplus " * 10
    answer = shared_app.test_client().post("/categories", json={"name": "Nuts", name: 1})
    assert builders.body(answer)["details"] == {"json": {name[:49] + "…": ["Unknown field."]}}


def test_unknown_query_parameters_return_short_422(shared_app: Flask) -> None:
    for query in ("&".join(f"x{number}=1" for number in range(1_000)), "&".join(f"x{number}" for number in range(999))):
        answer = shared_app.test_client().get(f"/products?{query}")
        assert error_of(answer) == (422, "validation_error")
        assert len(answer.data) < ALLOWED_RESPONSE


def test_form_with_too_many_parts_returns_413(shared_app: Flask) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    with builders.nothing_changes(shared_app):
        answer = shared_app.test_client().post(
            "/import/products", data=part * 900 + b"--b--", content_type="multipart/form-data; boundary=b"
        )
        assert error_of(answer) == (413, "payload_too_large")


@pytest.fixture
def narrow(database_url: str) -> Iterator[FlaskClient]:
    """A service with the smallest bounds."""
    bounds = {"INVENTORY_MAX_QUERY_BYTES": 256, "INVENTORY_MAX_JSON_DEPTH": 3, "INVENTORY_MAX_BATCH_LINES": 2}
    app = create_app({"DATABASE_URL": database_url, **bounds})
    yield app.test_client()
    with app.app_context():
        db.engine.dispose()


def test_query_longer_than_the_maximum_returns_414(client: FlaskClient, narrow: FlaskClient) -> None:
    for sender, longest in ((client, 8_000), (narrow, 256)):
        query = "search=" + "x" * (longest - len("search="))
        assert sender.get(f"/products?{query}").status_code in {200, 422}
        assert error_of(sender.get(f"/products?{query}x")) == (414, "uri_too_long")
    assert narrow.get("/products?search=" + "x" * 200).status_code == 200


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_body_nested_deeper_than_the_maximum_returns_422(
    client: FlaskClient, narrow: FlaskClient, opening: bytes, closing: bytes
) -> None:
    for sender, deepest in ((client, 20), (narrow, 3)):
        for depth, is_too_deep in ((deepest, False), (deepest + 1, True), (900, True)):
            body = opening * depth + b"1" + closing * depth
            answer = sender.post("/categories", data=body, content_type="application/json")
            assert error_of(answer) == (422, "validation_error")
            assert (f"at most {deepest} levels" in answer.text) == is_too_deep


def test_batch_longer_than_the_maximum_returns_422(client: FlaskClient, narrow: FlaskClient) -> None:
    builders.product(client, sku="BOLT")
    line = {"sku": "BOLT", "transaction_type": "purchase", "quantity": 1}
    assert narrow.post("/transactions/batch", json=[line] * 2).status_code == 201
    refused = narrow.post("/transactions/batch", json=[line] * 3)
    assert builders.invalid_fields(refused) == {"json": {"lines"}}
    assert "At most 2 lines" in refused.text


@pytest.mark.slow
def test_full_batch_fits_into_the_body_limit(client: FlaskClient) -> None:
    bolt = builders.product(client, sku="BOLT-8-STAINLESS-ZINC-PLATED")
    line = {
        "sku": "BOLT-8-STAINLESS-ZINC-PLATED",
        "transaction_type": "purchase",
        "quantity": 1_000_000,
        "reference": "DELIVERY NOTE 2026-11-20/000815",
        "notes": "Delivered with the van on Friday; two boxes were open, counted again by the door. " * 6,
    }
    answer = client.post("/transactions/batch", data=orjson.dumps([line] * 1_000), content_type="application/json")
    assert answer.status_code == 201
    assert builders.body(client.get(f"/products/{bolt['id']}"))["quantity_on_hand"] == 10**9
