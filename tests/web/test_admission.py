"""Which requests are accepted: cross-origin writes, untrusted hosts and malformed paths are rejected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inventory import create_app
from tests import builders
from tests.builders import error_of
from tests.contract import OPERATIONS, Operation, assert_documented_refusal
from tests.valid_requests import valid_requests

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

REJECTED = (403, "cross_site_request")
# The test client's Host is localhost.
CROSS_ORIGIN = {
    "cross-site": {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    "same-site, but cross-origin": {"Sec-Fetch-Site": "same-site", "Origin": "http://a.localhost"},
    "cross-site with opaque origin": {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
    "unknown Sec-Fetch-Site": {"Sec-Fetch-Site": "future"},
    "two values": {"Sec-Fetch-Site": "same-origin,cross-site"},
    "cross-site in an old browser": {"Origin": "https://evil.example"},
    "another port in an old browser": {"Origin": "http://localhost:3000"},
    "opaque origin in an old browser": {"Origin": "null"},
    "malformed Origin": {"Origin": "http://["},
    "empty Origin": {"Origin": ""},
}
ALLOWED = {
    "same-origin": {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
    "address bar": {"Sec-Fetch-Site": "none"},
    "same-origin in an old browser": {"Origin": "http://localhost"},
    "same-origin behind TLS": {"Origin": "https://LOCALHOST"},
    "not a browser": {},
}


@pytest.mark.parametrize("operation", [found for found in OPERATIONS if found.method != "GET"], ids=str)
def test_cross_site_write_returns_403_and_changes_nothing(shared_app: Flask, operation: Operation) -> None:
    valid = valid_requests(operation)[0]
    with builders.nothing_changes(shared_app):
        for sender, headers in CROSS_ORIGIN.items():
            answer = valid.send(shared_app.test_client(), headers=headers)
            assert answer.status_code == 403, sender
            assert assert_documented_refusal(answer, operation, sender) == "cross_site_request"


@pytest.mark.parametrize("headers", ALLOWED.values(), ids=ALLOWED)
def test_same_origin_and_non_browser_writes_succeed(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.post("/categories", json={"name": "Nuts"}, headers=headers).status_code == 201
    assert [found["name"] for found in builders.listed(client.get("/categories"))] == ["Nuts"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_cross_site_safe_methods_succeed(shared_app: Flask, method: str) -> None:
    for headers in CROSS_ORIGIN.values():
        assert shared_app.test_client().open("/products", method=method, headers=headers).status_code == 200


def test_cross_site_request_rejected_before_parsing_body(shared_app: Flask) -> None:
    answer = shared_app.test_client().post("/categories", data=b"{" * 2_000_000, headers=CROSS_ORIGIN["two values"])
    assert error_of(answer) == REJECTED


def client_of(names: str) -> FlaskClient:
    return create_app({"DATABASE_URL": "sqlite://", "INVENTORY_TRUSTED_HOSTS": names}).test_client()


@pytest.mark.parametrize("host", ["stock.example.com", "STOCK.example.com:8000", "a.shop.example", "shop.example"])
def test_trusted_host_is_accepted(host: str) -> None:
    assert client_of("stock.example.com, .shop.example").get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "stock.example.com.evil.example", "evilshop.example", "10.0.0.1"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/nothing"), ("POST", "/categories")])
def test_untrusted_host_returns_400(host: str, method: str, path: str) -> None:
    answer = client_of("stock.example.com,.shop.example").open(path, method=method, headers={"Host": host})
    assert error_of(answer) == (400, "bad_request")
    assert "INVENTORY_TRUSTED_HOSTS" in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000"])
def test_health_check_from_localhost_bypasses_trusted_hosts(host: str) -> None:
    assert client_of("stock.example.com").get("/health/live", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["stock.example.com", "10.0.0.1:8000", "[2001:db8::1]", "inventory_web:8000"])
def test_any_host_is_accepted_without_trusted_hosts(shared_app: Flask, host: str) -> None:
    assert shared_app.test_client().get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a@b", "a:b", "a>; rel=x", "é", "[::1"])
def test_malformed_host_header_returns_400(shared_app: Flask, host: str) -> None:
    answer = shared_app.test_client().get("/health", headers={"Host": host})
    assert error_of(answer) == (400, "bad_request")
    assert "Host" in answer.text


@pytest.mark.parametrize("coding", ["gzip, chunked", "deflate", "identity", ""])
def test_unsupported_transfer_encoding_returns_501(shared_app: Flask, coding: str) -> None:
    with builders.nothing_changes(shared_app):
        answer = shared_app.test_client().post(
            "/categories", json={"name": "Nuts"}, headers={"Transfer-Encoding": coding}
        )
        assert error_of(answer) == (501, "not_implemented")


@pytest.mark.parametrize("path", ["//", "///", "//products", "//docs", "//evil.example", "//evil.example/products"])
def test_path_with_leading_double_slash_returns_404(shared_app: Flask, path: str) -> None:
    answer = shared_app.test_client().get("/", environ_overrides={"PATH_INFO": path})
    assert error_of(answer) == (404, "not_found")


@pytest.mark.parametrize("path", ["/products//", "/products//1", "/docs//x", "/categories///1", "/health//"])
def test_path_with_double_slash_returns_404_without_redirect(shared_app: Flask, path: str) -> None:
    answer = shared_app.test_client().get(path)
    assert error_of(answer) == (404, "not_found")
    assert "Location" not in answer.headers


def test_leading_zeros_in_path_id_are_ignored(client: FlaskClient) -> None:
    nuts = builders.category(client)
    for zeros in ("0", "0" * 40, "0" * 2_000):
        assert builders.body(client.get(f"/categories/{zeros}{nuts['id']}"))["id"] == nuts["id"]


@pytest.mark.parametrize("parameter", ["id", "category_id", "limit"])
def test_leading_zeros_in_query_number_are_ignored(client: FlaskClient, parameter: str) -> None:
    nut = builders.product(client)
    assert nut["id"] == nut["category_id"] == 1
    for zeros in ("0" * 40, "0" * 5_000):
        found = builders.listed(client.get(f"/products?{parameter}={zeros}1"))
        assert [row["id"] for row in found] == [1]
