"""Headers for browsers: security headers on all responses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests import builders
from tests.clients import HttpClient, answer_to
from tests.conftest import on_sqlite
from tests.web.test_unreadable_requests import MALFORMED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.datastructures import Headers
    from werkzeug.test import TestResponse

    from tests.environments import Environment
    from tests.servers import Gunicorn

SECURITY = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def add_broken_view(app: Flask) -> None:
    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError


def answers_by_status(client: FlaskClient) -> dict[int, TestResponse]:
    """A response of each kind, of an application with the view /broken."""
    category = builders.category(client)
    one = f"/categories/{category['id']}"
    cross_site = {"Sec-Fetch-Site": "cross-site", "Origin": "https://unlisted.example"}
    answers = [
        client.get("/products"),
        client.post("/categories", json={"name": "Nuts"}),
        client.get(one, headers={"If-None-Match": client.get(one).headers["ETag"]}),
        client.get("/", headers={"Host": "a b"}),
        client.post("/categories", json={"name": "Bolts"}, headers=cross_site),
        client.get("/nothing"),
        client.put("/products"),
        client.post("/categories", json={"name": "Nuts"}),
        client.get("/products?limit=x"),
        client.get("/broken"),
        client.delete(one),
    ]
    return {answer.status_code: answer for answer in answers}


def security_of(headers: Headers | Mapping[str, str]) -> dict[str, str | None]:
    return {name: headers.get(name) for name in SECURITY}


def test_every_response_has_the_security_headers(own_environment: Environment) -> None:
    add_broken_view(own_environment.app)
    answers = answers_by_status(own_environment.app.test_client())
    assert answers.keys() == {200, 201, 204, 304, 400, 403, 404, 405, 409, 422, 500}
    for status, answer in answers.items():
        assert security_of(answer.headers) == SECURITY, status


@pytest.mark.parametrize("path", ["/", "/health/live", "/openapi.json", "/docs/docs.js", "/export/products-csv"])
def test_responses_other_than_json_have_the_security_headers(shared_app: Flask, path: str) -> None:
    assert security_of(shared_app.test_client().get(path).headers) == SECURITY


def test_page_has_the_security_headers_with_its_own_policy(shared_app: Flask) -> None:
    answer = shared_app.test_client().get("/docs")
    policy = answer.headers["Content-Security-Policy"]
    assert security_of(answer.headers) == SECURITY | {"Content-Security-Policy": policy}
    assert answer.headers.getlist("Content-Security-Policy") == [policy]
    assert "frame-ancestors 'none'" in policy


@on_sqlite
def test_response_to_malformed_request_has_the_security_headers(server: Gunicorn) -> None:
    for name, (request, _status, _slug) in MALFORMED.items():
        assert security_of(answer_to(server.url, request).headers) == SECURITY, name


@on_sqlite
def test_no_header_shows_a_version_of_the_server(server: Gunicorn) -> None:
    malformed, _status, _slug = MALFORMED["long URI"]
    with HttpClient(server.url) as client:
        answers = [client.get("/products"), client.get("/nothing"), answer_to(server.url, malformed)]
    for answer in answers:
        assert answer.headers.get("Server", "gunicorn") == "gunicorn"
        assert not re.search(r"gunicorn/|werkzeug|python|flask", str(answer.headers), re.IGNORECASE)
        assert "X-Powered-By" not in answer.headers
