"""What cannot be read as a request, and what a client has not finished sending, is answered in the envelope too."""

from __future__ import annotations

import socket
from http.client import HTTPResponse
from typing import TYPE_CHECKING

import pytest

from tests.clients import Answer, HttpClient

if TYPE_CHECKING:
    from tests.servers import Gunicorn

LONG = b"x" * 9_000
UNREADABLE = {
    "an address too long": (b"GET /products?search=" + LONG + b" HTTP/1.1\r\n\r\n", 414, "uri_too_long"),
    "a header too long": (b"GET / HTTP/1.1\r\nX-Long: " + LONG + b"\r\n\r\n", 431, "headers_too_large"),
    "too many headers": (b"GET / HTTP/1.1\r\n" + b"X-Many: 1\r\n" * 200 + b"\r\n", 431, "headers_too_large"),
    "a control character": (b"GET / HTTP/1.1\r\nIdempotency-Key: a\x7fb\r\n\r\n", 400, "bad_request"),
    "a name with a space": (b"GET / HTTP/1.1\r\nIdempotency Key: a\r\n\r\n", 400, "bad_request"),
    "no length": (b"POST /products HTTP/1.1\r\nContent-Length: abc\r\n\r\n", 400, "bad_request"),
    "no method": (b"get / HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "no version": (b"GET / HTTP/9.9\r\n\r\n", 400, "bad_request"),
    "no HTTP": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "bad_request"),
}


@pytest.fixture(params=["sqlite"])
def engine_name(request: pytest.FixtureRequest) -> str:
    """No database has a part in this."""
    return str(request.param)


def answer_to(server: Gunicorn, request: bytes) -> Answer:
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection,
        HTTPResponse(connection) as response,
    ):
        connection.sendall(request)
        response.begin()
        return Answer(response.status, dict(response.headers), response.read())


def test_what_cannot_be_read_is_refused_in_the_envelope(server: Gunicorn) -> None:
    for name, (request, status, slug) in UNREADABLE.items():
        answer = answer_to(server, request)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json.keys() == {"error", "message", "code"}
        assert (answer.status, answer.json["code"], answer.json["error"]) == (status, status, slug), name


@pytest.mark.parametrize("megabytes", [9, 30])
def test_a_client_that_sends_too_much_gets_to_read_why_not(server: Gunicorn, megabytes: int) -> None:
    with HttpClient(server.url) as client:
        answer = client.request("POST", "/categories", b"x" * megabytes * 1_000_000)
        assert (answer.status, answer.json["error"]) == (413, "payload_too_large")
        assert client.get("/health/live").status == 200


def test_the_longest_address_that_the_parameters_allow_is_read(server: Gunicorn) -> None:
    with HttpClient(server.url) as client:
        assert (
            client.get(f"/products?search={'x' * 200}&cursor={'x' * 4_000}&sort=name").json["error"] == "invalid_cursor"
        )
