"""Malformed requests, and uploads rejected before they end, get a response in the error envelope."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients import HttpClient, answer_to

if TYPE_CHECKING:
    from tests.servers import Gunicorn

LONG = b"x" * 9_000
MALFORMED = {
    "long URI": (b"GET /products?search=" + LONG + b" HTTP/1.1\r\n\r\n", 414, "uri_too_long"),
    "long header": (b"GET / HTTP/1.1\r\nX-Long: " + LONG + b"\r\n\r\n", 431, "headers_too_large"),
    "too many headers": (b"GET / HTTP/1.1\r\n" + b"X-Many: 1\r\n" * 200 + b"\r\n", 431, "headers_too_large"),
    "control character": (b"GET / HTTP/1.1\r\nIdempotency-Key: a\x7fb\r\n\r\n", 400, "bad_request"),
    "header name with a space": (b"GET / HTTP/1.1\r\nIdempotency Key: a\r\n\r\n", 400, "bad_request"),
    "invalid Content-Length": (b"POST /products HTTP/1.1\r\nContent-Length: abc\r\n\r\n", 400, "bad_request"),
    "lowercase method": (b"get / HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "unknown HTTP version": (b"GET / HTTP/9.9\r\n\r\n", 400, "bad_request"),
    "TLS handshake": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "bad_request"),
}


@pytest.fixture(params=["sqlite"])
def engine_name(request: pytest.FixtureRequest) -> str:
    """The database engine does not matter here."""
    return str(request.param)


def test_malformed_request_returns_error_envelope(server: Gunicorn) -> None:
    for name, (request, status, slug) in MALFORMED.items():
        answer = answer_to(server.url, request)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json.keys() == {"error", "message", "code"}
        assert (answer.status, answer.json["code"], answer.json["error"]) == (status, status, slug), name


@pytest.mark.parametrize("megabytes", [9, 30])
def test_large_upload_receives_413(server: Gunicorn, megabytes: int) -> None:
    with HttpClient(server.url) as client:
        answer = client.request("POST", "/categories", b"x" * megabytes * 1_000_000)
        assert (answer.status, answer.json["error"]) == (413, "payload_too_large")
        assert client.get("/health/live").status == 200


REJECTED_MIDWAY = {
    "unknown path": ("/nothing", {}, 404),
    "cross-site request": ("/categories", {"Sec-Fetch-Site": "cross-site"}, 403),
    "unsupported media type": ("/import/products", {"Content-Type": "image/png"}, 415),
}


@pytest.mark.parametrize(("path", "headers", "status"), REJECTED_MIDWAY.values(), ids=REJECTED_MIDWAY)
def test_upload_rejected_midway_receives_the_error(
    server: Gunicorn, path: str, headers: dict[str, str], status: int
) -> None:
    with HttpClient(server.url) as client:
        answer = client.request("POST", path, b"x" * 30_000_000, headers=headers)
        assert (answer.status, answer.json["code"]) == (status, status)


def test_longest_allowed_url_is_accepted(server: Gunicorn) -> None:
    with HttpClient(server.url) as client:
        assert (
            client.get(f"/products?search={'x' * 200}&cursor={'x' * 4_000}&sort=name").json["error"] == "invalid_cursor"
        )
