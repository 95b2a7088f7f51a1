"""Unusual requests, sent to gunicorn and through nginx: all errors use the envelope, and none hides another request."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.clients import HttpClient, answer_to

if TYPE_CHECKING:
    from tests.servers import Gunicorn

LONG = b"x" * 9_000
# Targets of a GET, and the allowed statuses: nginx rejects some as malformed that gunicorn does not find.
TARGETS = {
    b"//": {404},
    b"//evil.example/": {404},
    b"//evil.example/products": {404},
    b"///": {404},
    b"/products//1": {404},
    b"/docs//x": {404},
    b"/%00": {400, 404},
    b"/products/%00": {400, 404},
    b"/%2F..": {400, 404},
    b"/%2e%2e/%2e%2e/etc/passwd": {400, 404},
    b"/../products": {400, 404},
    b"/..;/products": {404},
    b"/products;a=b": {404},
    b"/\\evil.example": {404},
    b"/%5cevil.example": {404},
    b"/%": {400, 404},
    b"/%zz": {400, 404},
    b"/products/%zz": {400, 404},
    b"/%ff%fe": {404},
    b"/%E2%80%AE": {404},
    b"/" + b"a/" * 3_500: {404},
    b"/" + LONG: {414},
    b"/products?search=" + LONG: {414},
    b"/inventory-problem": {404},
    b"*": {400},
    b"products": {400},
}
HOST = b"Host: 127.0.0.1\r\n"
# Requests without their last lines, and the allowed statuses.
REQUESTS = {
    "TRACE": (b"TRACE /products HTTP/1.1\r\n" + HOST, {405}),
    "CONNECT": (b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST, {400, 404, 405}),
    "unknown method": (b"BREW /products HTTP/1.1\r\n" + HOST, {405}),
    "missing Host": (b"GET /products HTTP/1.1\r\n", {400}),
    "duplicate Host": (b"GET /products HTTP/1.1\r\n" + HOST + HOST, {400}),
    "invalid Host": (b"GET /products HTTP/1.1\r\nHost: a b\r\n", {400}),
    "unsupported version": (b"GET /products HTTP/3.0\r\n" + HOST, {400}),
    "long header": (b"GET / HTTP/1.1\r\n" + HOST + b"X-Long: " + LONG + b"\r\n", {431}),
    "long cookies": (b"GET / HTTP/1.1\r\n" + HOST + b"Cookie: " + b"a=b; " * 2_000 + b"\r\n", {431}),
    "many headers": (b"GET / HTTP/1.1\r\n" + HOST + (b"X-Flood: " + b"x" * 5_000 + b"\r\n") * 120, {431}),
    "unknown coding": (b"POST /categories HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xyz\r\n", {501}),
    "stacked coding": (b"POST /categories HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n", {501}),
    "empty coding": (b"POST /categories HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:\r\n", {501}),
    "duplicate length": (
        b"POST /categories HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n",
        {400},
    ),
    "invalid length": (b"POST /categories HTTP/1.1\r\n" + HOST + b"Content-Length: x\r\n", {400}),
    "large body": (b"POST /categories HTTP/1.1\r\n" + HOST + b"Content-Length: 999999999999\r\n", {413}),
    "length and coding": (
        b"POST /categories HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        {400},
    ),
}
UNUSUAL = {
    target.decode("latin-1")[:40]: (b"GET " + target + b" HTTP/1.1\r\n" + HOST, codes)
    for target, codes in TARGETS.items()
}
UNUSUAL |= REQUESTS


@pytest.fixture(params=["gunicorn", "nginx"])
def url(request: pytest.FixtureRequest, gunicorn: Gunicorn) -> str:
    return gunicorn.url if request.param == "gunicorn" else str(request.getfixturevalue("nginx").url)


@pytest.mark.slow
@pytest.mark.parametrize(("request_", "statuses"), UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_request_returns_error_envelope(url: str, request_: bytes, statuses: set[int]) -> None:
    answer = answer_to(url, request_ + b"Connection: close\r\n\r\n")
    assert answer.status in statuses, answer
    assert answer.headers["Content-Type"] == "application/json"
    assert "Location" not in answer.headers
    assert answer.json.keys() - {"details"} == {"error", "message", "code"}
    assert answer.json["code"] == answer.status


HIDDEN_BODY = b'{"name": "Hidden"}'
HIDDEN = (
    b"POST /categories HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(HIDDEN_BODY), HIDDEN_BODY)
)
# An end of a chunked body, and what follows it.
ENDED = b"0\r\n\r\n" + HIDDEN
IN_ONE_CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
LENGTH = b"Content-Length: %d\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
# The framing headers and the body of a request in which a careless parser sees another one.
FRAMINGS = {
    "length and chunks": (LENGTH % len(ENDED) + CHUNKED, ENDED),
    "chunks and length": (CHUNKED + LENGTH % len(ENDED), ENDED),
    "two lengths": (LENGTH % len(HIDDEN) + LENGTH % 0, HIDDEN),
    "two lengths in one line": (b"Content-Length: %d, 0\r\n" % len(HIDDEN), HIDDEN),
    "signed length": (b"Content-Length: +%d\r\n" % len(HIDDEN), HIDDEN),
    "hexadecimal length": (b"Content-Length: 0x%x\r\n" % len(HIDDEN), HIDDEN),
    "length with an underscore": (b"Content_Length: 0\r\n" + LENGTH % len(HIDDEN), HIDDEN),
    "length of digits with underscores": (b"Content-Length: 1_0\r\n", HIDDEN),
    "two codings": (CHUNKED + b"Transfer-Encoding: identity\r\n" + LENGTH % len(ENDED), ENDED),
    "blank before the colon": (b"Transfer-Encoding : chunked\r\n" + LENGTH % len(ENDED), ENDED),
    "vertical tab before the coding": (b"Transfer-Encoding: \x0bchunked\r\n" + LENGTH % len(ENDED), ENDED),
    "coding with an underscore": (b"Transfer_Encoding: chunked\r\n" + LENGTH % len(ENDED), ENDED),
    "folded coding": (b"X-Folded: a\r\n Transfer-Encoding: chunked\r\n" + LENGTH % len(ENDED), ENDED),
    "coding after a lone carriage return": (b"X-Long: a\rTransfer-Encoding: chunked\r\n" + LENGTH % len(ENDED), ENDED),
    "coding after a lone line feed": (b"X-Long: a\nTransfer-Encoding: chunked\r\n" + LENGTH % len(ENDED), ENDED),
    "coding after a NUL": (b"X-Long: a\0Transfer-Encoding: chunked\r\n" + LENGTH % len(ENDED), ENDED),
    "coding in quotes": (b'Transfer-Encoding: "chunked"\r\n' + LENGTH % len(ENDED), ENDED),
    "size with a prefix": (CHUNKED, b"0x" + IN_ONE_CHUNK),
    "size with a sign": (CHUNKED, b"+" + IN_ONE_CHUNK),
    "negative size": (CHUNKED, b"-1\r\n" + HIDDEN + b"\r\n0\r\n\r\n"),
    "size of 65 bits": (CHUNKED, b"1" + b"0" * 16 + b"\r\n" + HIDDEN),
    "size with an underscore": (CHUNKED, b"1_0\r\n" + HIDDEN),
    "size too small": (CHUNKED, b"1\r\n" + HIDDEN + b"\r\n0\r\n\r\n"),
    "lone line feed after the size": (CHUNKED, IN_ONE_CHUNK.replace(b"\r\n", b"\n", 1)),
    "line feed in an extension": (CHUNKED, b"%x;a=\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)),
    "trailer": (CHUNKED, b"0\r\nContent-Length: 0\r\nTransfer-Encoding: x\r\n\r\n"),
    "body of a GET": (LENGTH % len(HIDDEN), HIDDEN),
}


# Answered last, after which the server closes the connection.
LAST = b"GET /last HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


def statuses_of(url: str, request: bytes) -> list[int]:
    """The statuses of all answers to a request, and to LAST after it unless the server closes the connection before."""
    address, received = urlsplit(url), b""
    with socket.create_connection((address.hostname, address.port), timeout=120) as connection:
        connection.sendall(request + LAST)
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                received += part
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d+)", received)]


@pytest.mark.slow
@pytest.mark.parametrize(("headers", "body"), FRAMINGS.values(), ids=FRAMINGS)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_ambiguous_framing_hides_no_request(url: str, method: bytes, headers: bytes, body: bytes) -> None:
    """An error and a closed connection, or if the framing is clear, one answer before that to LAST."""
    statuses = statuses_of(url, method + b" /nothing HTTP/1.1\r\n" + HOST + headers + b"\r\n" + body)
    assert len(statuses) <= 2
    assert all(400 <= status < 500 or status == 501 for status in statuses), statuses
    with HttpClient(url) as client:
        assert client.get("/categories").json == []


@pytest.mark.slow
def test_request_that_is_not_hidden_is_answered(url: str) -> None:
    """Control: without a body around it, there is a second answer."""
    request = b"GET /nothing HTTP/1.1\r\n" + HOST + b"\r\n" + HIDDEN.replace(b"POST /categories", b"POST /nothing")
    assert statuses_of(url, request) == [404, 404, 404]
