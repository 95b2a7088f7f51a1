"""Headers for browsers: security headers on all responses, and CORS for the listed origins only."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from inventory import create_app
from inventory.database.base import db
from tests import builders
from tests.clients import HttpClient, answer_to
from tests.conftest import on_sqlite
from tests.contract import DOCUMENT, OPERATIONS, Operation, assert_envelope
from tests.valid_requests import valid_requests
from tests.web.conftest import WITH_KEYS
from tests.web.test_unreadable_requests import MALFORMED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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


def test_no_json_response_may_be_kept_by_a_shared_cache(own_environment: Environment) -> None:
    add_broken_view(own_environment.app)
    for status, answer in answers_by_status(own_environment.app.test_client()).items():
        assert answer.headers["Cache-Control"] == "private, no-cache", status


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


LISTED = "https://shop.example.com"
ORIGINS = f"{LISTED},http://[::1]:3000"
FROM_PAGE = {"Origin": LISTED, "Sec-Fetch-Site": "cross-site"}
# Almost a listed origin.
UNLISTED = [
    "https://evil.example",
    "http://shop.example.com",
    "https://shop.example.com:8443",
    "https://shop.example.com.evil.example",
    "https://evil.shop.example.com",
    "https://shopxexample.com",
    "HTTPS://SHOP.EXAMPLE.COM",
    "https://shop.example.com/",
    "https://shop.example.com,https://evil.example",
    "http://1:3000",  # if the brackets were those of a pattern
    "null",
    "*",
    "",
]


@contextmanager
def listing_app(environment: Environment, **settings: Any) -> Iterator[Flask]:
    """Another instance of the application, which lists origins."""
    app = create_app({"DATABASE_URL": environment.url, "INVENTORY_CORS_ORIGINS": ORIGINS} | settings)
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def listing(environment: Environment) -> Iterator[FlaskClient]:
    with listing_app(environment) as app:
        yield app.test_client()


@pytest.fixture
def keyed(environment: Environment) -> Iterator[FlaskClient]:
    """A client without a key, of a service that requires one."""
    with listing_app(environment, **WITH_KEYS) as app:
        yield app.test_client()


def cors_of(answer: TestResponse) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("Access-Control-")}


def exposed_by(answer: TestResponse) -> set[str]:
    return set(answer.headers["Access-Control-Expose-Headers"].split(", "))


def preflight(client: FlaskClient, path: str, method: str = "POST", headers: str = "", **sent: str) -> TestResponse:
    asked = {"Access-Control-Request-Method": method} | ({"Access-Control-Request-Headers": headers} if headers else {})
    return client.options(path, headers=FROM_PAGE | asked | sent)


def test_cors_is_off_by_default(shared_app: Flask) -> None:
    client = shared_app.test_client()
    for answer in (client.get("/products", headers=FROM_PAGE), preflight(client, "/products")):
        assert answer.status_code == 200
        assert cors_of(answer) == {}
        assert "Origin" not in answer.vary


@pytest.mark.parametrize("origin", ORIGINS.split(","))
def test_page_of_listed_origin_may_read_responses(listing: FlaskClient, origin: str) -> None:
    answer = listing.get("/products", headers={"Origin": origin, "Sec-Fetch-Site": "cross-site"})
    assert cors_of(answer).keys() == {"Access-Control-Allow-Origin", "Access-Control-Expose-Headers"}
    assert answer.headers.getlist("Access-Control-Allow-Origin") == [origin]


@pytest.mark.parametrize("origin", UNLISTED)
def test_page_of_unlisted_origin_may_not_read_responses_or_write(listing: FlaskClient, origin: str) -> None:
    headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    refused = listing.post("/categories", json={"name": "Nuts"}, headers=headers)
    assert builders.error_of(refused) == (403, "cross_site_request")
    for answer in (refused, listing.get("/products", headers=headers), preflight(listing, "/products", **headers)):
        assert cors_of(answer) == {}
    assert listing.get("/categories").json == []


def test_request_without_origin_has_no_cors_headers(listing: FlaskClient) -> None:
    assert cors_of(listing.get("/products")) == {}


def test_page_of_listed_origin_reads_every_response_including_errors(own_environment: Environment) -> None:
    with listing_app(own_environment) as app:
        add_broken_view(app)
        client = app.test_client()
        client.environ_base |= {"HTTP_ORIGIN": LISTED}
        answers = answers_by_status(client)
    assert answers.keys() == {200, 201, 204, 304, 400, 404, 405, 409, 422, 500, 403}
    readable = {status for status, answer in answers.items() if answer.access_control_allow_origin == LISTED}
    assert readable == answers.keys() - {403}  # from an unlisted origin


def test_page_of_listed_origin_reads_401_and_403_of_keys(keyed: FlaskClient) -> None:
    created = keyed.application.test_cli_runner().invoke(args=["keys", "create", "reader", "--scopes", "read"])
    without = keyed.get("/products", headers=FROM_PAGE)
    reader = {"Authorization": f"Bearer {created.stdout.strip()}"}
    beyond = keyed.post("/categories", json={"name": "Nuts"}, headers=FROM_PAGE | reader)
    assert assert_envelope(without, 401, "without a key") == "unauthorized"
    assert assert_envelope(beyond, 403, "without the scope") == "insufficient_scope"
    for answer in (without, beyond):
        assert answer.access_control_allow_origin == LISTED
        assert "WWW-Authenticate" in exposed_by(answer)
        assert "WWW-Authenticate" in answer.headers


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_preflight_needs_no_key_and_is_answered_for_every_operation(keyed: FlaskClient, operation: Operation) -> None:
    headers = "authorization,content-type,idempotency-key,if-match,if-none-match,traceparent,x-api-key,x-request-id"
    answer = preflight(keyed, valid_requests(operation)[0].path, operation.method, headers)
    assert (answer.status_code, answer.data) == (204, b"")
    assert answer.access_control_allow_origin == LISTED
    assert operation.method in answer.headers["Access-Control-Allow-Methods"].split(", ")
    assert answer.headers["Access-Control-Allow-Headers"].replace(" ", "") == headers
    assert answer.headers["Access-Control-Max-Age"] == "600"
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/nothing", "/products?id=1&id=2", "/transactions?dry_run=true", "/products/1?x=1"])
def test_preflight_succeeds_where_the_request_can_fail(keyed: FlaskClient, path: str) -> None:
    assert preflight(keyed, path).status_code == 204


def test_preflight_allows_only_known_request_headers(listing: FlaskClient) -> None:
    allowed = preflight(listing, "/products", headers="x-forwarded-for,idempotency-key,cookie")
    assert allowed.headers["Access-Control-Allow-Headers"] == "idempotency-key"


def test_preflight_to_untrusted_host_returns_400(environment: Environment) -> None:
    with listing_app(environment, INVENTORY_TRUSTED_HOSTS="stock.example.com") as app:
        answer = preflight(app.test_client(), "/products", Host="evil.example")
    assert builders.error_of(answer) == (400, "bad_request")


def test_options_that_is_no_preflight_returns_allowed_methods(listing: FlaskClient) -> None:
    assert "GET" in listing.options("/products", headers=FROM_PAGE).get_json()["allow"]


def test_documented_response_headers_are_exposed(listing: FlaskClient) -> None:
    exposed = exposed_by(listing.get("/products", headers=FROM_PAGE))
    assert exposed >= {*DOCUMENT["components"]["headers"], "X-Request-ID", "WWW-Authenticate", "Content-Disposition"}


def test_every_response_varies_by_origin_where_origins_are_listed(own_environment: Environment) -> None:
    with listing_app(own_environment) as app:
        add_broken_view(app)
        client = app.test_client()
        answers = answers_by_status(client)
        others = [preflight(client, "/products"), client.get("/docs"), client.get("/openapi.json")]
    for answer in (*answers.values(), *others):
        assert "Origin" in answer.vary, answer
    assert {"Origin", "Accept-Encoding"} <= set(others[-1].vary)


def test_page_of_listed_origin_writes(listing: FlaskClient) -> None:
    for number, headers in enumerate((FROM_PAGE, FROM_PAGE | {"Sec-Fetch-Site": "same-site"}, {"Origin": LISTED})):
        assert listing.post("/categories", json={"name": f"Nuts {number}"}, headers=headers).status_code == 201


def test_refusal_names_the_setting(shared_app: Flask) -> None:
    answer = shared_app.test_client().post("/categories", json={"name": "Nuts"}, headers=FROM_PAGE)
    assert "INVENTORY_CORS_ORIGINS" in answer.get_json()["message"]
