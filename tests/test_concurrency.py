"""Concurrent requests to the service as it runs in production: gunicorn with two processes.

All tests of an engine share one server, so none may expect an empty database.
"""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import assert_ledger_is_consistent, body, category, listed, numbers, product
from tests.clients import Answer, HttpClient, post_all
from tests.conftest import ENGINES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flask import Flask
    from flask.testing import FlaskClient

    from tests.environments import Environment, Environments
    from tests.servers import Gunicorn

CLIENTS = 16
ROUNDS = 20

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    payload: Any = None


@pytest.fixture(scope="module", params=ENGINES)
def environment(request: pytest.FixtureRequest, environments: dict[str, Environments]) -> Iterator[Environment]:
    with environments[request.param].one() as environment:
        yield environment


def outcome(answer: Answer) -> tuple[int, str | None]:
    """The status, and the slug of an error."""
    return answer.status, answer.json["error"] if answer.status >= 400 else None


def outcomes(answers: Sequence[Answer]) -> Counter[tuple[int, str | None]]:
    return Counter(map(outcome, answers))


def at_once(server: Gunicorn, calls: Sequence[Call]) -> list[Answer]:
    """Send all calls at the same time, each on its own connection."""
    start = Barrier(len(calls))

    def send(call: Call) -> Answer:
        with HttpClient(server.url) as client:
            client.connection.connect()
            start.wait()
            content = None if call.payload is None else json.dumps(call.payload).encode()
            return client.request(call.method, call.path, content)

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(send, calls))


def sale(product_id: int, quantity: int = 1, **fields: Any) -> dict[str, Any]:
    return {"product_id": product_id, "transaction_type": "sale", "quantity": quantity} | fields


def test_concurrent_sales_never_oversell(app: Flask, client: FlaskClient, server: Gunicorn) -> None:
    bolt = product(client, quantity_on_hand=120)
    answers = post_all(server.url, "/transactions", [sale(bolt["id"])] * 200, clients=CLIENTS)
    assert outcomes(answers) == {(201, None): 120, (400, "insufficient_stock"): 80}
    sold = sorted(answer.json["seq"] for answer in answers if answer.status == 201)
    assert sold == list(range(2, 122))
    assert body(client.get(f"/products/{bolt['id']}"))["quantity_on_hand"] == 0
    assert_ledger_is_consistent(app)


def test_concurrent_movements_keep_ledgers_consistent(app: Flask, client: FlaskClient, server: Gunicorn) -> None:
    shelf = [product(client, quantity_on_hand=10)["id"] for _ in range(3)]
    movements = [
        {"product_id": shelf[number % 3], "transaction_type": kind, "quantity": 1 + number % 4}
        for number in range(80)
        for kind in ("sale", "purchase", "adjustment")
    ]
    answers = post_all(server.url, "/transactions", movements, clients=CLIENTS)
    assert outcomes(answers).keys() <= {(201, None), (400, "insufficient_stock")}
    rows = [row for name in shelf for row in listed(client.get(f"/transactions?product_id={name}"))]
    assert len(rows) == outcomes(answers)[201, None] + len(shelf)
    assert_ledger_is_consistent(app)


def test_expected_quantity_lets_one_concurrent_sale_succeed(app: Flask, client: FlaskClient, server: Gunicorn) -> None:
    bolt = product(client, quantity_on_hand=100)
    calls = [Call("POST", "/transactions", sale(bolt["id"], expected_quantity=100))] * CLIENTS
    answers = at_once(server, calls)
    assert outcomes(answers) == {(201, None): 1, (409, "stale_quantity"): CLIENTS - 1}
    assert body(client.get(f"/products/{bolt['id']}"))["quantity_on_hand"] == 99
    assert_ledger_is_consistent(app)


def test_concurrent_product_creation_rejects_duplicate_sku(client: FlaskClient, server: Gunicorn) -> None:
    category_id = category(client)["id"]
    for number in range(ROUNDS):
        calls = [
            Call("POST", "/products", {"sku": sku, "name": "New", "price": 1, "category_id": category_id})
            for sku in (f"straße-{number}", f"STRASSE-{number}")
        ]
        assert outcomes(at_once(server, calls)) == {(201, None): 1, (409, "duplicate_sku"): 1}
    assert len(listed(client.get(f"/products?category_id={category_id}"))) == ROUNDS


def test_concurrent_category_creation_rejects_duplicate_name(client: FlaskClient, server: Gunicorn) -> None:
    for number in range(ROUNDS):
        calls = [Call("POST", "/categories", {"name": name}) for name in (f"ß {number}", f"SS {number}")]
        assert outcomes(at_once(server, calls)) == {(201, None): 1, (409, "duplicate_category"): 1}
    names = [row["name"].casefold() for row in listed(client.get("/categories?limit=1000"))]
    assert [names.count(f"ss {number}") for number in range(ROUNDS)] == [1] * ROUNDS


def test_concurrent_renames_reject_duplicates(client: FlaskClient, server: Gunicorn) -> None:
    first, second = category(client)["id"], category(client)["id"]
    bolt, nut = (product(client, category_id=first)["id"] for _ in range(2))
    for number in range(ROUNDS):
        taken = [Call("PUT", f"/categories/{name}", {"name": f"Tools {number}"}) for name in (first, second)]
        assert outcomes(at_once(server, taken)) == {(200, None): 1, (409, "duplicate_category"): 1}
        taken = [Call("PUT", f"/products/{name}", {"sku": f"SKU {number}"}) for name in (bolt, nut)]
        assert outcomes(at_once(server, taken)) == {(200, None): 1, (409, "duplicate_sku"): 1}


def test_put_quantity_during_sales_keeps_ledger_consistent(app: Flask, client: FlaskClient, server: Gunicorn) -> None:
    bolt = product(client, quantity_on_hand=50)
    for number in range(ROUNDS):
        put = Call("PUT", f"/products/{bolt['id']}", {"quantity_on_hand": 40 + number, "name": f"Bolt {number}"})
        sales = [Call("POST", "/transactions", sale(bolt["id"], 3))] * 6
        answers = at_once(server, [put, *sales, put])
        assert {answer.status for answer in (answers[0], answers[-1])} == {200}
        assert outcomes(answers).keys() <= {(200, None), (201, None), (400, "insufficient_stock")}
    assert_ledger_is_consistent(app)
    # Two equal concurrent updates change the name once, so the version counts the rounds.
    assert body(client.get(f"/products/{bolt['id']}"))["version"] == 1 + ROUNDS


def test_concurrent_category_delete_and_product_create_exclude_each_other(
    client: FlaskClient, server: Gunicorn
) -> None:
    possible = {
        ((204, None), (400, "unknown_category")),
        ((409, "category_not_empty"), (201, None)),
    }
    for _ in range(ROUNDS):
        tools = category(client)["id"]
        created = {"sku": f"SKU-{next(numbers)}", "name": "New", "price": 1, "category_id": tools}
        deleted, entered = at_once(server, [Call("DELETE", f"/categories/{tools}"), Call("POST", "/products", created)])
        assert (outcome(deleted), outcome(entered)) in possible
        left = client.get(f"/categories/{tools}").status_code
        assert left == (200 if entered.status == 201 else 404)


def test_concurrent_category_delete_and_product_move_exclude_each_other(client: FlaskClient, server: Gunicorn) -> None:
    possible = {
        ((204, None), (400, "unknown_category")),
        ((409, "category_not_empty"), (200, None)),
    }
    bolt = product(client)
    for _ in range(ROUNDS):
        tools = category(client)["id"]
        move = Call("PUT", f"/products/{bolt['id']}", {"category_id": tools})
        deleted, moved = at_once(server, [Call("DELETE", f"/categories/{tools}"), move])
        assert (outcome(deleted), outcome(moved)) in possible


def test_concurrent_product_delete_and_purchase_exclude_each_other(
    app: Flask, client: FlaskClient, server: Gunicorn
) -> None:
    possible = {
        ((204, None), (400, "unknown_product")),
        ((409, "product_has_history"), (201, None)),
    }
    category_id = category(client)["id"]
    for _ in range(ROUNDS):
        bolt = product(client, category_id=category_id)["id"]
        purchase = {"product_id": bolt, "transaction_type": "purchase", "quantity": 1}
        deleted, moved = at_once(server, [Call("DELETE", f"/products/{bolt}"), Call("POST", "/transactions", purchase)])
        assert (outcome(deleted), outcome(moved)) in possible
    assert_ledger_is_consistent(app)


def test_deactivation_during_sales_rejects_later_sales(app: Flask, client: FlaskClient, server: Gunicorn) -> None:
    bolt = product(client, quantity_on_hand=100)
    sales = [Call("POST", "/transactions", sale(bolt["id"]))] * (CLIENTS - 1)
    answers = at_once(server, [*sales, Call("PATCH", f"/products/{bolt['id']}", {"is_active": False})])
    assert outcomes(answers).keys() <= {(200, None), (201, None), (409, "product_inactive")}
    assert outcomes(at_once(server, sales)) == {(409, "product_inactive"): len(sales)}
    assert_ledger_is_consistent(app)


def test_concurrent_deletes_succeed_once(client: FlaskClient, server: Gunicorn) -> None:
    for _ in range(ROUNDS // 4):
        bolt = product(client)
        calls = [Call("DELETE", f"/products/{bolt['id']}")] * 2
        assert outcomes(at_once(server, calls)) == {(204, None): 1, (404, "product_not_found"): 1}
        calls = [Call("DELETE", f"/categories/{bolt['category_id']}")] * 2
        assert outcomes(at_once(server, calls)) == {(204, None): 1, (404, "category_not_found"): 1}


def test_product_detail_agrees_with_ledger_during_sales(client: FlaskClient, server: Gunicorn) -> None:
    bolt = product(client, quantity_on_hand=1000)
    sales = [Call("POST", "/transactions", sale(bolt["id"]))] * (CLIENTS // 2)
    reads = [Call("GET", f"/products/{bolt['id']}?include_opening=true")] * (CLIENTS // 2)
    for _ in range(ROUNDS // 4):
        for answer in at_once(server, [*sales, *reads])[len(sales) :]:
            detail = answer.json
            assert detail["quantity_on_hand"] == detail["transactions"][0]["balance_after"]
