"""The Idempotency-Key header: valid and invalid keys, and which requests require one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inventory import create_app
from inventory.database.base import db
from inventory.database.unit_of_work import unit_of_work
from inventory.transactions import batches, service
from inventory.web.idempotency import RequestKey, claim
from tests.builders import contents, error_of, nothing_changes
from tests.transactions.endpoints import ENDPOINTS, WITHOUT_DRY_RUN, Shop, line, product_fields
from tests.transactions.idempotency import accepted, comparable, each_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient

ASCII = "".join(map(chr, range(0x21, 0x7F)))
VALID_HEADERS = {
    "one character": ("a", "a"),
    "255 characters": ("x" * 255, "x" * 255),
    "quoted": ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
    "255 quoted characters": (f'"{"x" * 255}"', "x" * 255),
    "quoted with a comma": ('"a,b"', "a,b"),
    "all visible ASCII, bare": (ASCII.replace(",", ""), ASCII.replace(",", "")),
    "all visible ASCII, quoted": (
        f'"{ASCII.replace(chr(34), "").replace(chr(92), "")}"',
        ASCII.replace('"', "").replace("\\", ""),
    ),
    "a tilde and an exclamation mark": ("!~", "!~"),
}


@pytest.mark.parametrize("form", VALID_HEADERS)
def test_key_accepts_visible_ascii_bare_or_quoted(app: Flask, client: FlaskClient, shop: Shop, form: str) -> None:
    header, key = VALID_HEADERS[form]
    accepted(ENDPOINTS["transaction"](shop).send(client, header))
    stored = [row[column_index(app, "idempotency_key")] for row in contents(app)["transactions"]]
    assert [value for value in stored if value is not None] == [key]


def column_index(app: Flask, name: str) -> int:
    with app.app_context():
        return list(db.metadata.tables["transactions"].columns.keys()).index(name)


def test_bare_and_quoted_key_are_the_same(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = ENDPOINTS["transaction"](shop)
    first = accepted(post.send(client, "order-7"))
    with nothing_changes(app):
        again = post.send(client, '"order-7"')
    assert comparable(again) == comparable(first)


INVALID_HEADERS = {
    "empty": "",
    "an empty string": '""',
    "256 characters": "x" * 256,
    "256 quoted characters": f'"{"x" * 256}"',
    "a space inside": "a b",
    "a quoted space": '"a b"',
    "only a space": " ",
    "a tab": "a\tb",
    "a DEL character": "a\x7f",
    "letters beyond ASCII": "clé",
    "quoted letters beyond ASCII": '"clé"',
    "a comma": "a,b",
    "two quoted keys": '"a","b"',
    "no closing quote": '"a',
    "a lone quote": '"',
    "a backslash in quotes": '"a\\b"',
    "a quote within quotes": '"a"b"',
    "text after the quotes": '"a"b',
}


@pytest.mark.parametrize("form", INVALID_HEADERS)
def test_invalid_key_returns_400(app: Flask, client: FlaskClient, shop: Shop, form: str) -> None:
    with nothing_changes(app):
        response = ENDPOINTS["transaction"](shop).send(client, INVALID_HEADERS[form])
    assert error_of(response) == (400, "invalid_idempotency_key")


@each_endpoint
def test_invalid_key_returns_400_on_every_endpoint(app: Flask, client: FlaskClient, shop: Shop, endpoint: str) -> None:
    with nothing_changes(app):
        response = ENDPOINTS[endpoint](shop).send(client, "a b")
    assert error_of(response) == (400, "invalid_idempotency_key")


@pytest.mark.parametrize("second", ["b", "a"])
def test_repeated_key_header_returns_400(app: Flask, client: FlaskClient, shop: Shop, second: str) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", second)]
    with nothing_changes(app):
        response = client.post("/transactions", json=line(shop.bolt, "sale", 1), headers=headers)
    assert error_of(response) == (400, "invalid_idempotency_key")


def test_keys_are_scoped_to_their_client(app: Flask, shop: Shop) -> None:
    fields = line(shop.bolt, "sale", 1)
    with app.app_context():
        unit_of_work(service.create)(fields, RequestKey("till", "k", "a sale"))
        unit_of_work(batches.create)([fields], RequestKey("till", "l", "a batch"))
        for key, request in (("k", "a sale"), ("l", "a batch")):
            assert unit_of_work(claim)(RequestKey("till", key, request)) is not None
            assert unit_of_work(claim)(RequestKey("scanner", key, "another request")) is None


def test_keys_are_case_sensitive(client: FlaskClient, shop: Shop) -> None:
    post = ENDPOINTS["transaction"](shop)
    accepted(post.send(client, "key"))
    accepted(post.send(client, "KEY"))


# Required keys


@pytest.fixture
def strict(database_url: str) -> Iterator[FlaskClient]:
    app = create_app({"DATABASE_URL": database_url, "TESTING": True, "INVENTORY_REQUIRE_IDEMPOTENCY_KEY": "true"})
    yield app.test_client()
    with app.app_context():
        db.engine.dispose()


@each_endpoint
def test_required_key_missing_returns_400(app: Flask, strict: FlaskClient, shop: Shop, endpoint: str) -> None:
    post = ENDPOINTS[endpoint](shop)
    with nothing_changes(app):
        assert error_of(post.send(strict)) == (400, "idempotency_key_required")
    first = accepted(post.send(strict, "k"))
    assert comparable(post.send(strict, "k")) == comparable(first)


def test_required_key_is_not_needed_for_other_writes(strict: FlaskClient, shop: Shop) -> None:
    assert strict.post("/categories", json={"name": "Other"}).status_code == 201
    assert strict.patch(f"/products/{shop.bolt}", json={"location": "A1"}).status_code == 200
    assert strict.delete(f"/products/{shop.bolt}").status_code == 409


@pytest.mark.parametrize("endpoint", sorted(ENDPOINTS.keys() - WITHOUT_DRY_RUN))
def test_required_key_is_not_needed_for_dry_run(app: Flask, strict: FlaskClient, shop: Shop, endpoint: str) -> None:
    with nothing_changes(app):
        assert ENDPOINTS[endpoint](shop).send(strict, dry_run="true").status_code == 200


def test_required_key_is_not_needed_for_product_without_stock(strict: FlaskClient, shop: Shop) -> None:
    fields = product_fields(shop, quantity_on_hand=0)
    assert strict.post("/products", json=fields).status_code == 201
    bad_key = {"Idempotency-Key": ""}
    assert error_of(strict.post("/products", json=fields, headers=bad_key)) == (400, "invalid_idempotency_key")


@pytest.mark.parametrize("endpoint", sorted(ENDPOINTS.keys() - WITHOUT_DRY_RUN))
def test_dry_run_validates_key_without_using_it(app: Flask, client: FlaskClient, shop: Shop, endpoint: str) -> None:
    post = ENDPOINTS[endpoint](shop)
    with nothing_changes(app):
        assert error_of(post.send(client, "a b", dry_run="true")) == (400, "invalid_idempotency_key")
        accepted(post.send(client, "k", dry_run="true"))
    accepted(post.send(client, "k"))
