"""General HTTP behaviour: HEAD, Accept, method override headers and Expect."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.contract import OPERATIONS, Operation
from tests.pollers import Poller
from tests.valid_requests import valid_requests

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.datastructures import Headers

    from tests.servers import Gunicorn

# A feed holds rows back while any transaction of the server is older.
ROWS_OF_FEEDS = {"/transactions/feed": 6, "/products/feed": 3}


@pytest.mark.parametrize("operation", [found for found in OPERATIONS if found.method == "GET"], ids=str)
def test_head_returns_the_headers_of_get_without_a_body(shared_app: Flask, operation: Operation) -> None:
    path, client = valid_requests(operation)[0].path, shared_app.test_client()
    if path in ROWS_OF_FEEDS:
        Poller(client, path).poll_until(ROWS_OF_FEEDS[path])
    whole, head = client.get(path), client.head(path)
    assert head.data == b""
    assert (head.status_code, without_date(head.headers)) == (whole.status_code, without_date(whole.headers))


def without_date(headers: Headers) -> dict[str, str]:
    """Headers other than `Date`, which Flask sets on what may be stored, and the id of the request."""
    return {name: value for name, value in headers.items() if name not in {"Date", "X-Request-ID"}}


@pytest.mark.parametrize("accept", ["text/html", "image/png, */*;q=0", "application/json;q=0", "nonsense", ""])
def test_accept_header_does_not_change_the_content_type(shared_app: Flask, accept: str) -> None:
    for path, status in (("/products", 200), ("/nothing", 404)):
        answer = shared_app.test_client().get(path, headers={"Accept": accept})
        assert (answer.status_code, answer.mimetype) == (status, "application/json")


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_method_override_headers_are_ignored(shared_app: Flask, name: str) -> None:
    client = shared_app.test_client()
    assert client.get("/products/2", headers={name: "DELETE"}).status_code == 200
    assert client.post("/products/2", headers={name: "DELETE"}).status_code == 405
    assert client.get("/products/2").status_code == 200


@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
def test_expect_100_continue_is_supported(server: Gunicorn) -> None:
    head = b"POST /categories HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    body = b'{"name": "Nuts"}'
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        with connection.makefile("rb") as answers:
            assert [answers.readline(), answers.readline()] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
            connection.sendall(body)
            assert answers.readline() == b"HTTP/1.1 201 CREATED\r\n"
