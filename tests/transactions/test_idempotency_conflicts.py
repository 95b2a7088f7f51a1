"""Idempotency conflicts: a key reused for a different request, and concurrent requests with the same key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import TYPE_CHECKING

import psycopg
import pytest

from inventory import create_app
from inventory.database.base import begin, db
from inventory.database.engines import WRITE, advisory_lock
from tests import postgresql
from tests.builders import assert_ledger_is_consistent, error_of, listed, nothing_changes
from tests.conftest import on_postgresql
from tests.transactions.endpoints import ENDPOINTS, FILE, Post, Shop, change, line, post_file, post_json, product_fields
from tests.transactions.idempotency import REUSED, accepted, comparable, each_endpoint, is_replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse


def send_concurrently(app: Flask, posts: list[Post], key: str) -> list[TestResponse]:
    """Send all requests at the same time, each from its own thread and connection."""
    start = Barrier(len(posts))

    def send(post: Post) -> TestResponse:
        client = app.test_client()
        start.wait()
        return post.send(client, key)

    with ThreadPoolExecutor(len(posts)) as pool:
        return list(pool.map(send, posts))


# Reuse of a key for a different request


@each_endpoint
def test_key_reuse_on_another_endpoint_returns_422(app: Flask, client: FlaskClient, shop: Shop, endpoint: str) -> None:
    accepted(ENDPOINTS[endpoint](shop).send(client, "k"))
    with nothing_changes(app):
        others = {name: ENDPOINTS[name](shop).send(client, "k") for name in ENDPOINTS if name != endpoint}
    assert {name: error_of(response) for name, response in others.items()} == dict.fromkeys(others, REUSED)
    assert not any(is_replay(response) for response in others.values())


DIFFERENT_REQUESTS: dict[str, tuple[Callable[[Shop], Post], Callable[[Shop], Post]]] = {
    "quantity": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 4)),
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5)),
    ),
    "product": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 4)),
        lambda shop: post_json("/transactions", line(shop.nut, "sale", 4)),
    ),
    "type": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 4)),
        lambda shop: post_json("/transactions", line(shop.bolt, "purchase", 4)),
    ),
    "reason": (
        lambda shop: post_json("/transactions", line(shop.bolt, "adjustment", 4)),
        lambda shop: post_json("/transactions", line(shop.bolt, "adjustment", 4, reason="return")),
    ),
    "reference": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 4, reference="A")),
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 4, reference="a")),
    ),
    "notes": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 4)),
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 4, notes="x")),
    ),
    "reference instead of notes": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 4, reference="x")),
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 4, notes="x")),
    ),
    "expected quantity": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 4)),
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 4, expected_quantity=97)),
    ),
    "order of lines": (
        lambda shop: post_json("/transactions/batch", [line(shop.bolt, "sale", 4), line(shop.nut, "sale", 4)]),
        lambda shop: post_json("/transactions/batch", [line(shop.nut, "sale", 4), line(shop.bolt, "sale", 4)]),
    ),
    "number of lines": (
        lambda shop: post_json("/transactions/batch", [line(shop.bolt, "sale", 4)]),
        lambda shop: post_json("/transactions/batch", [line(shop.bolt, "sale", 4)] * 2),
    ),
    "reversed transaction": (
        lambda shop: Post(f"/transactions/{shop.sale}/reversal"),
        lambda shop: Post(f"/transactions/{shop.sale + 1}/reversal"),
    ),
    "notes of a reversal": (
        lambda shop: Post(f"/transactions/{shop.sale}/reversal"),
        lambda shop: post_json(f"/transactions/{shop.sale}/reversal", {"notes": "x"}),
    ),
    "reversed batch": (
        lambda shop: Post(f"/transactions/batch/{shop.batch_id}/reversal"),
        lambda _shop: Post(f"/transactions/batch/{'0' * 8}-0000-0000-0000-{'0' * 12}/reversal"),
    ),
    "counted product": (
        lambda shop: post_json(f"/products/{shop.bolt}/counts", {"counted_quantity": 4}),
        lambda shop: post_json(f"/products/{shop.nut}/counts", {"counted_quantity": 4}),
    ),
    "counted quantity": (
        lambda shop: post_json(f"/products/{shop.bolt}/counts", {"counted_quantity": 4}),
        lambda shop: post_json(f"/products/{shop.bolt}/counts", {"counted_quantity": 5}),
    ),
    "price": (
        lambda shop: post_json("/products", product_fields(shop)),
        lambda shop: post_json("/products", product_fields(shop, price=2.51)),
    ),
    "opening stock": (
        lambda shop: post_json("/products", product_fields(shop)),
        lambda shop: post_json("/products", product_fields(shop, quantity_on_hand=31)),
    ),
    "quantity of an update": (
        lambda shop: change(shop.bolt, {"quantity_on_hand": 60}),
        lambda shop: change(shop.bolt, {"quantity_on_hand": 61}),
    ),
    "price with a quantity": (
        lambda shop: change(shop.bolt, {"quantity_on_hand": 60}),
        lambda shop: change(shop.bolt, {"quantity_on_hand": 60, "price": 11}),
    ),
    "updated product": (
        lambda shop: change(shop.bolt, {"quantity_on_hand": 60}),
        lambda shop: change(shop.nut, {"quantity_on_hand": 60}),
    ),
    "method": (
        lambda shop: change(shop.bolt, {"quantity_on_hand": 60}, "PUT"),
        lambda shop: change(shop.bolt, {"quantity_on_hand": 60}, "PATCH"),
    ),
    "file": (lambda _shop: post_file(FILE), lambda _shop: post_file(FILE.replace("80", "81"))),
    "mode of import": (
        lambda _shop: post_file(FILE.replace("BOLT", "BOLT2")),
        lambda _shop: Post("/import/products?mode=create", post_file(FILE.replace("BOLT", "BOLT2")).content),
    ),
}


@pytest.mark.parametrize("difference", DIFFERENT_REQUESTS)
def test_key_reuse_with_different_request_returns_422(
    app: Flask, client: FlaskClient, shop: Shop, difference: str
) -> None:
    first, other = DIFFERENT_REQUESTS[difference]
    original = accepted(first(shop).send(client, "k"))
    with nothing_changes(app):
        response = other(shop).send(client, "k")
    assert error_of(response) == REUSED
    assert not is_replay(response)
    assert comparable(first(shop).send(client, "k")) == comparable(original)


# Concurrent requests with the same key


@each_endpoint
def test_concurrent_duplicates_have_one_effect_and_one_response(
    app: Flask, client: FlaskClient, shop: Shop, endpoint: str
) -> None:
    post = ENDPOINTS[endpoint](shop)
    before = len(listed(client.get("/transactions?limit=1000")))
    responses = send_concurrently(app, [post] * 4, "k")
    assert len({comparable(response) for response in responses}) == 1
    assert sorted(is_replay(response) for response in responses) == [False, True, True, True]
    assert accepted(min(responses, key=is_replay)).status_code in {200, 201}
    moved = {"batch": 3, "batch reversal": 2, "import": 2}.get(endpoint, 1)
    assert len(listed(client.get("/transactions?limit=1000"))) == before + moved
    assert_ledger_is_consistent(app)


def test_concurrent_key_reuse_rejects_one_of_two_requests(app: Flask, shop: Shop) -> None:
    posts = [ENDPOINTS["transaction"](shop), ENDPOINTS["batch"](shop)]
    success, error = sorted(send_concurrently(app, posts, "k"), key=lambda response: response.status_code)
    accepted(success)
    assert error_of(error) == REUSED
    assert_ledger_is_consistent(app)


@on_postgresql
def test_concurrent_duplicate_waits_and_replays_first_response(
    app: Flask, client: FlaskClient, database_url: str, shop: Shop
) -> None:
    post = ENDPOINTS["transaction"](shop)
    with (
        psycopg.connect(database_url, autocommit=True) as observer,
        psycopg.connect(database_url) as holder,
        ThreadPoolExecutor(2) as pool,
    ):
        holder.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [shop.bolt])
        pending = [pool.submit(post.send, app.test_client(), "k") for _request in range(2)]
        postgresql.await_blocked(observer, 2)
        holder.rollback()
        responses = [one.result() for one in pending]
    assert comparable(responses[0]) == comparable(responses[1])
    assert sorted(is_replay(response) for response in responses) == [False, True]
    assert len(listed(client.get(f"/transactions/product/{shop.bolt}"))) == 3


@contextmanager
def key_in_progress(app: Flask, key: str) -> Iterator[None]:
    """A database transaction that holds the lock of a key, as a request does while it is processed."""
    with app.app_context(), begin(WRITE) as connection:
        advisory_lock(connection, f"/{key}")
        yield


@each_endpoint
def test_concurrent_duplicate_gets_retry_after_on_lock_timeout(
    app: Flask, impatient: Flask, engine_name: str, shop: Shop, endpoint: str
) -> None:
    post = ENDPOINTS[endpoint](shop)
    with nothing_changes(app), key_in_progress(app, "k"):
        response = post.send(impatient.test_client(), "k")
    expected = {"sqlite": (503, "database_busy"), "postgresql": (409, "idempotency_in_progress")}
    assert error_of(response) == expected[engine_name]
    assert int(response.headers["Retry-After"]) > 0
    accepted(post.send(app.test_client(), "k"))


@on_postgresql
def test_concurrent_duplicate_returns_409_on_statement_timeout(app: Flask, database_url: str, shop: Shop) -> None:
    brief = create_app({"DATABASE_URL": database_url, "TESTING": True, "INVENTORY_STATEMENT_TIMEOUT_MS": 1_000})
    with key_in_progress(app, "k"):
        response = ENDPOINTS["transaction"](shop).send(brief.test_client(), "k")
    with brief.app_context():
        db.engine.dispose()
    assert error_of(response) == (409, "idempotency_in_progress")


@on_postgresql
def test_request_with_another_key_does_not_wait(app: Flask, impatient: Flask, shop: Shop) -> None:
    with key_in_progress(app, "k"):
        accepted(ENDPOINTS["transaction"](shop).send(impatient.test_client(), "another"))


@on_postgresql
def test_locked_product_returns_503_instead_of_key_in_progress(database_url: str, impatient: Flask, shop: Shop) -> None:
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [shop.bolt])
        response = ENDPOINTS["transaction"](shop).send(impatient.test_client(), "k")
        holder.rollback()
    assert error_of(response) == (503, "database_busy")


@on_postgresql
@pytest.mark.parametrize("endpoint", ["transaction", "update"])
def test_concurrent_duplicate_returns_503_on_lost_connection(
    app: Flask, database_url: str, shop: Shop, endpoint: str
) -> None:
    post = ENDPOINTS[endpoint](shop)
    with (
        psycopg.connect(database_url, autocommit=True) as observer,
        key_in_progress(app, "k"),
        ThreadPoolExecutor(1) as pool,
    ):
        pending = pool.submit(post.send, app.test_client(), "k")
        # The unit of work is retried four times, each time on a new connection.
        for _attempt in range(5):
            postgresql.await_blocked(observer, 1)
            observer.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        response = pending.result()
    assert error_of(response) == (503, "database_unavailable")
