"""Errors not raised by a view: unknown paths and methods, large or malformed bodies, unexpected exceptions."""

from __future__ import annotations

import http.client
from collections import defaultdict
from typing import TYPE_CHECKING, NoReturn

import pytest
import sqlalchemy.exc
from sqlalchemy import text

from inventory import create_app
from inventory.database.base import db
from tests.contract import assert_envelope, routes
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

    from tests.environments import Environment

PRIVATE = "SELECT fingerprint FROM /srv/inventory/keys.py"

UNKNOWN_PATHS = ["/nothing", "/products/1/nothing", "/products/one", "/products;1", "/products%00", "/%FF"]
UNKNOWN_PATHS += ["/docs/nothing", "/static/style.css", "/.git/config", "/docs/../wsgi.py", "/docs/%2e%2e/wsgi.py"]


@pytest.mark.parametrize("path", UNKNOWN_PATHS)
def test_unknown_path_returns_404(shared_app: Flask, path: str) -> None:
    response = shared_app.test_client().get(path)
    assert assert_envelope(response, 404, path) == "not_found"


def test_unknown_path_with_parameters_returns_404(shared_app: Flask) -> None:
    response = shared_app.test_client().get("/nothing?a=1&a=2")
    assert assert_envelope(response, 404, "repeated parameters") == "not_found"


def served(app: Flask) -> Iterator[tuple[str, set[str]]]:
    """A path of every route, and its methods."""
    methods = defaultdict(set)
    for method, rule in routes(app):
        methods[rule].add(method)
    known = {"path": "index.html", "batch_id": "00000000-0000-4000-8000-000000000000"}
    for rule, allowed in methods.items():
        yield rule.format_map(defaultdict(lambda: "1", known)), allowed


def test_wrong_method_returns_405_with_allow(shared_app: Flask) -> None:
    client = shared_app.test_client()
    for path, methods in served(shared_app):
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"} - methods:
            response = client.open(f"{path}?a=1&a=2", method=method)
            assert assert_envelope(response, 405, f"{method} {path}") == "method_not_allowed"
            assert set(response.headers["Allow"].split(", ")) - {"HEAD", "OPTIONS"} == methods, path


def test_options_returns_allowed_methods_in_header_and_body(shared_app: Flask) -> None:
    client = shared_app.test_client()
    for path, methods in served(shared_app):
        allowed = sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set()))
        response = client.options(path)
        assert (response.status_code, response.get_json()) == (200, {"allow": allowed}), path
        assert response.headers["Allow"] == ", ".join(allowed), path


@pytest.mark.parametrize("path", [path for path in UNKNOWN_PATHS if not path.startswith("/docs/")])
def test_options_of_unknown_path_returns_404(shared_app: Flask, path: str) -> None:
    assert assert_envelope(shared_app.test_client().options(path), 404, path) == "not_found"


@pytest.fixture
def small_server(database_url: str) -> Iterator[Gunicorn]:
    """A server with a body limit of 1 KiB, for JSON and CSV."""
    with Gunicorn(database_url, INVENTORY_MAX_BODY_BYTES="1024", INVENTORY_MAX_IMPORT_BYTES="1024") as running:
        yield running


def post(
    server: Gunicorn, path: str, content_type: str, chunks: list[bytes], *, length: int | None
) -> tuple[int, bytes]:
    """Send a body with a Content-Length, or chunked, with ``chunks`` as the encoded body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", content_type)
    if length is None:
        connection.putheader("Transfer-Encoding", "chunked")
    else:
        connection.putheader("Content-Length", str(length))
    connection.endheaders()
    connection.send(b"".join(chunks))
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


BODIES = [("/categories", "application/json", b'{"name": "Nuts"}'), ("/import/products", "text/csv", b"sku,name\n")]


@pytest.mark.slow
@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("path", "content_type", "body"), BODIES, ids=["JSON", "CSV"])
def test_body_over_limit_returns_413_with_and_without_length(
    small_server: Gunicorn, path: str, content_type: str, body: bytes
) -> None:
    padded = body.ljust(1_025, b"\n")
    chunked = [b"%x\r\n%b\r\n" % (len(padded), padded), b"0\r\n\r\n"]
    for status, answer in (
        post(small_server, path, content_type, [padded], length=len(padded)),
        post(small_server, path, content_type, chunked, length=None),
        post(small_server, path, content_type, [], length=10**30),
    ):
        assert (status, b'"payload_too_large"' in answer) == (413, True), answer


@pytest.mark.slow
@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("path", "content_type", "body"), BODIES, ids=["JSON", "CSV"])
def test_malformed_chunks_return_400(small_server: Gunicorn, path: str, content_type: str, body: bytes) -> None:
    status, answer = post(small_server, path, content_type, [b"zz\r\n", body, b"\r\n0\r\n\r\n"], length=None)
    assert (status, b'"code":400' in answer) == (400, True), answer
    assert "Traceback" not in small_server.output()


UNEXPECTED = [
    RuntimeError(PRIVATE),
    KeyError(PRIVATE),
    RecursionError(PRIVATE),
    OSError(5, PRIVATE),
    sqlalchemy.exc.InvalidRequestError(PRIVATE),
    sqlalchemy.exc.StatementError(PRIVATE, PRIVATE, {"sku": PRIVATE}, ValueError(PRIVATE)),
]


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_unexpected_exception_returns_500(error: Exception) -> None:
    app = create_app({"DATABASE_URL": "sqlite://"})

    @app.get("/broken")
    def broken() -> NoReturn:
        raise error

    response = app.test_client().get("/broken")
    assert assert_envelope(response, 500, error) == "internal_error"
    assert "keys" not in response.text


@pytest.mark.parametrize("statement", ["SELEKT 1", "INSERT INTO categories (id) VALUES (1)"])
def test_unexpected_database_error_returns_500(own_environment: Environment, statement: str) -> None:
    app = own_environment.app

    @app.get("/broken")
    def broken() -> str:
        db.session.execute(text(statement))
        return "not reached"

    response = app.test_client().get("/broken")
    assert assert_envelope(response, 500, statement) == "internal_error"
    assert "categories" not in response.text
