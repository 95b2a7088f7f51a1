"""Idempotency keys: one effect and one answer, however often a request is sent."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import select, union_all, update

from inventory import create_app
from inventory.database.base import db, unit_of_work
from inventory.database.engines import begin_write, hold
from inventory.models.product import Product
from inventory.models.transaction import Batch, Transaction
from inventory.transactions import batches, service
from inventory.transactions.idempotency import claim
from inventory.web.idempotency import RequestKey, fingerprint
from tests import postgresql
from tests.builders import (
    assert_ledger_is_sound,
    body,
    category,
    contents,
    listed,
    nothing_changes,
    product,
    refusal,
    transaction,
)
from tests.conftest import on_postgresql
from tests.transactions.endpoints import (
    DOORS,
    FILE,
    Post,
    Shop,
    line,
    open_shop,
    post_file,
    post_json,
    product_facts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

REUSED = (422, "idempotency_key_reused")

each_door = pytest.mark.parametrize("door", DOORS)


@pytest.fixture
def shop(client: FlaskClient) -> Shop:
    return open_shop(client)


def answer(response: TestResponse) -> tuple[Any, ...]:
    return response.status_code, response.data, response.headers.get("Location"), response.headers.get("ETag")


def is_replay(response: TestResponse) -> bool:
    return response.headers.get("Idempotent-Replayed") == "true"


def accepted(response: TestResponse) -> TestResponse:
    assert response.status_code in {200, 201}, response.text
    assert "Idempotent-Replayed" not in response.headers
    return response


def send_at_once(app: Flask, posts: list[Post], key: str) -> list[TestResponse]:
    """Send each from a thread and a connection of its own, all at the same moment."""
    start = Barrier(len(posts))

    def send(post: Post) -> TestResponse:
        client = app.test_client()
        start.wait()
        return post.send(client, key)

    with ThreadPoolExecutor(len(posts)) as pool:
        return list(pool.map(send, posts))


def change_everything(client: FlaskClient) -> None:
    """Rename, re-price, empty, move and deactivate every product, and delete the categories they were in."""
    old_categories = listed(client.get("/categories"))
    home = category(client)["id"]
    for old in listed(client.get("/products")):
        changes = {
            "sku": f"NEW-{old['id']}",
            "name": f"New {old['id']}",
            "description": "changed",
            "price": 99.99,
            "cost": 1,
            "reorder_point": 77,
            "location": "Z9",
            "category_id": home,
            "quantity_on_hand": 0,
            "is_active": False,
        }
        assert client.put(f"/products/{old['id']}", json=changes).status_code == 200
    for old in old_categories:
        assert client.delete(f"/categories/{old['id']}").status_code == 204


@each_door
def test_the_same_request_again_has_the_first_answer_and_no_second_effect(
    app: Flask, client: FlaskClient, shop: Shop, door: str
) -> None:
    post = DOORS[door](shop)
    first = accepted(post.send(client, "k"))
    with nothing_changes(app):
        again = post.send(client, "k")
        and_again = post.send(client, "k")
    assert answer(again) == answer(and_again) == answer(first)
    assert is_replay(again)
    assert is_replay(and_again)
    assert_ledger_is_sound(app)


@each_door
def test_the_first_answer_comes_again_whatever_has_happened_since(
    app: Flask, client: FlaskClient, shop: Shop, door: str
) -> None:
    post = DOORS[door](shop)
    first = accepted(post.send(client, "k"))
    change_everything(client)
    with nothing_changes(app):
        again = post.send(client, "k")
    assert answer(again) == answer(first)
    assert is_replay(again)


@each_door
def test_a_key_is_remembered_over_a_restart(client: FlaskClient, database_url: str, shop: Shop, door: str) -> None:
    post = DOORS[door](shop)
    first = accepted(post.send(client, "k"))
    restarted = create_app({"DATABASE_URL": database_url, "TESTING": True})
    with nothing_changes(restarted):
        again = post.send(restarted.test_client(), "k")
    assert answer(again) == answer(first)
    with restarted.app_context():
        db.engine.dispose()


@each_door
def test_without_a_key_the_same_request_is_done_or_judged_again(client: FlaskClient, shop: Shop, door: str) -> None:
    post = DOORS[door](shop)
    accepted(post.send(client, "k"))
    again = post.send(client)
    assert not is_replay(again)
    with_another_key = post.send(client, "l")
    assert not is_replay(with_another_key)


def test_a_sale_that_was_reversed_since_is_still_answered_as_at_first(
    app: Flask, client: FlaskClient, shop: Shop
) -> None:
    post = DOORS["transaction"](shop)
    first = accepted(post.send(client, "k"))
    reversal = post_json(f"/transactions/{body(first)['id']}/reversal", {})
    undone = accepted(reversal.send(client, "undo"))
    with nothing_changes(app):
        assert answer(post.send(client, "k")) == answer(first)
        assert answer(reversal.send(client, "undo")) == answer(undone)


def test_a_batch_comes_again_in_its_order_also_where_its_rows_are_of_different_times(
    app: Flask, client: FlaskClient, shop: Shop
) -> None:
    """As after a clock was set back: the one product's time is ahead of the other's."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with app.app_context():
        db.session.execute(update(Product).where(Product.id == shop.bolt).values(updated_at=tomorrow))
        db.session.commit()
    post = DOORS["batch"](shop)
    first = accepted(post.send(client, "k"))
    moments = [row["created_at"] for row in body(first)["transactions"]]
    assert moments != sorted(moments)
    assert answer(post.send(client, "k")) == answer(first)


def test_the_same_movement_under_two_keys_happens_twice(client: FlaskClient, shop: Shop) -> None:
    post = DOORS["transaction"](shop)
    first, second = body(accepted(post.send(client, "k"))), body(accepted(post.send(client, "l")))
    assert (second["seq"], second["balance_after"]) == (first["seq"] + 1, first["balance_after"] - 4)


def test_keys_that_differ_in_case_are_two_keys(client: FlaskClient, shop: Shop) -> None:
    post = DOORS["transaction"](shop)
    accepted(post.send(client, "key"))
    accepted(post.send(client, "KEY"))


# What a request is known by at each door. The hashes of these stand in ledgers: a release that alters one no longer
# knows the keys again that clients have used.
CANONICAL = {
    "transaction": r"""["POST","/transactions",[{"dry_run":false},{"notes":"two\nlines","product_id":1,"quantity":4,"""
    """"reference":"A-1","transaction_type":"sale"}]]""",
    "batch": """["POST","/transactions/batch",[{"dry_run":false},{"lines":["""
    """{"product_id":1,"quantity":3,"transaction_type":"sale"},"""
    """{"product_id":2,"quantity":4,"reference":"B","transaction_type":"purchase"},"""
    """{"product_id":1,"quantity":-1,"reason":"other","transaction_type":"adjustment"}]}]]""",
    "reversal": """["POST","/transactions/3/reversal",[{"dry_run":false},{"notes":"came back"}]]""",
    "count": """["POST","/products/1/counts",[{"dry_run":false},{"counted_quantity":90,"expected_quantity":97}]]""",
    "product": """["POST","/products",[{"category_id":1,"is_active":true,"name":"Washer","price":"2.5","""
    """"quantity_on_hand":30,"reorder_point":10,"sku":"WASHER"}]]""",
    "import": f"""["POST","/import/products",[{{"dry_run":false,"mode":"upsert"}},"""
    f""""{hashlib.sha256(FILE.encode()).hexdigest()}"]]""",
}


@pytest.mark.parametrize("door", CANONICAL)
def test_a_request_is_known_again_by_a_later_release(app: Flask, client: FlaskClient, shop: Shop, door: str) -> None:
    accepted(DOORS[door](shop).send(client, "k"))
    with app.app_context():
        kept = [select(model.fingerprint).where(model.idempotency_key == "k") for model in (Transaction, Batch)]
        stored = db.session.scalars(union_all(*kept)).one()
    assert stored == hashlib.sha256(CANONICAL[door].encode()).hexdigest()


def test_a_field_that_is_null_is_a_field_left_out() -> None:
    assert fingerprint([{"a": 1, "b": None, "c": [{"d": None}]}]) == fingerprint([{"a": 1, "c": [{}]}])
    assert fingerprint([None, 1]) != fingerprint([1, None])


# Another request under the same key


@each_door
def test_a_key_belongs_to_its_route(app: Flask, client: FlaskClient, shop: Shop, door: str) -> None:
    accepted(DOORS[door](shop).send(client, "k"))
    with nothing_changes(app):
        others = {name: DOORS[name](shop).send(client, "k") for name in DOORS if name != door}
    assert {name: refusal(response) for name, response in others.items()} == dict.fromkeys(others, REUSED)
    assert not any(is_replay(response) for response in others.values())


OTHER_REQUESTS: dict[str, tuple[Callable[[Shop], Post], Callable[[Shop], Post]]] = {
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
    "reference for notes": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 4, reference="x")),
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 4, notes="x")),
    ),
    "expectation": (
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
    "reversal's notes": (
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
        lambda shop: post_json("/products", product_facts(shop)),
        lambda shop: post_json("/products", product_facts(shop, price=2.51)),
    ),
    "opening stock": (
        lambda shop: post_json("/products", product_facts(shop)),
        lambda shop: post_json("/products", product_facts(shop, quantity_on_hand=31)),
    ),
    "file": (lambda _shop: post_file(FILE), lambda _shop: post_file(FILE.replace("80", "81"))),
    "mode of import": (
        lambda _shop: post_file(FILE.replace("BOLT", "BOLT2")),
        lambda _shop: Post("/import/products?mode=create", post_file(FILE.replace("BOLT", "BOLT2")).content),
    ),
}


@pytest.mark.parametrize("difference", OTHER_REQUESTS)
def test_another_request_under_a_used_key_is_refused(
    app: Flask, client: FlaskClient, shop: Shop, difference: str
) -> None:
    first, other = OTHER_REQUESTS[difference]
    original = accepted(first(shop).send(client, "k"))
    with nothing_changes(app):
        response = other(shop).send(client, "k")
    assert refusal(response) == REUSED
    assert not is_replay(response)
    assert answer(first(shop).send(client, "k")) == answer(original)


# Requests that mean the same


def raw(path: str, text: str) -> Post:
    return Post(path, {"data": text.encode(), "content_type": "application/json"})


SAME_REQUESTS: dict[str, tuple[Callable[[Shop], Post], Callable[[Shop], Post]]] = {
    "5 and 5.0": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5)),
        lambda shop: raw("/transactions", f'{{"product_id":{shop.bolt},"transaction_type":"sale","quantity":5.0}}'),
    ),
    "another order of keys": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5)),
        lambda shop: raw("/transactions", f'{{"quantity":5, "transaction_type":"sale", "product_id":{shop.bolt}}}'),
    ),
    "escapes": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5, notes="Größe")),
        lambda shop: raw(
            "/transactions",
            f'{{"product_id":{shop.bolt},"transaction_type":"\\u0073ale","quantity":5,"notes":"Gr\\u00f6\\u00dfe"}}',
        ),
    ),
    "blanks at the ends": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5, reference="A 1", notes="x")),
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5, reference="  A 1 ", notes=" x\n")),
    ),
    "nulls spelled out": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5)),
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5, reason=None, reference=None, notes=None)),
    ),
    "blank text for null": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5, reference="", notes="  ")),
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5)),
    ),
    "the default reason spelled out": (
        lambda shop: post_json("/transactions", line(shop.bolt, "adjustment", -5)),
        lambda shop: post_json("/transactions", line(shop.bolt, "adjustment", -5, reason="other")),
    ),
    "dry_run=false": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 5)),
        lambda shop: Post("/transactions?dry_run=false", {"json": line(shop.bolt, "sale", 5)}),
    ),
    "a bare array of lines": (
        lambda shop: post_json("/transactions/batch", {"lines": [line(shop.bolt, "sale", 5)]}),
        lambda shop: post_json("/transactions/batch", [line(shop.bolt, "sale", 5, notes=None)]),
    ),
    "an empty body": (
        lambda shop: Post(f"/transactions/{shop.sale}/reversal"),
        lambda shop: post_json(f"/transactions/{shop.sale}/reversal", {"notes": None, "reference": " "}),
    ),
    "leading zeros of an id": (
        lambda shop: Post(f"/transactions/{shop.sale}/reversal"),
        lambda shop: Post(f"/transactions/00{shop.sale}/reversal/"),
    ),
    "case of a batch's id": (
        lambda shop: Post(f"/transactions/batch/{shop.batch_id}/reversal"),
        lambda shop: Post(f"/transactions/batch/{shop.batch_id.upper()}/reversal"),
    ),
    "nulls of a count": (
        lambda shop: post_json(f"/products/{shop.bolt}/counts", {"counted_quantity": 5}),
        lambda shop: post_json(f"/products/{shop.bolt}/counts", {"notes": "", "counted_quantity": 5.0}),
    ),
    "10, 10.0 and 1e1": (
        lambda shop: raw(
            "/products",
            f'{{"sku":"W","name":"W","category_id":{shop.category_id},"quantity_on_hand":1,"price":10,"cost":0}}',
        ),
        lambda shop: raw(
            "/products",
            f'{{"sku":"W","name":"W","category_id":{shop.category_id},"quantity_on_hand":1,"price":1e1,"cost":0.00}}',
        ),
    ),
    "defaults of a product spelled out": (
        lambda shop: post_json("/products", product_facts(shop)),
        lambda shop: post_json(
            "/products",
            product_facts(
                shop, description=None, cost=None, reorder_point=10, location=None, is_active=True, sku=" WASHER "
            ),
        ),
    ),
    "the default mode of an import": (
        lambda _shop: post_file(FILE),
        lambda _shop: Post("/import/products?mode=upsert&dry_run=no", post_file(FILE).content),
    ),
    "a file in a form": (
        lambda _shop: post_file(FILE),
        lambda _shop: Post("/import/products", {"data": {"file": (io.BytesIO(FILE.encode()), "any.csv")}}),
    ),
}


@pytest.mark.parametrize("notation", SAME_REQUESTS)
def test_a_request_that_means_the_same_is_the_same(app: Flask, client: FlaskClient, shop: Shop, notation: str) -> None:
    one, other = SAME_REQUESTS[notation]
    first = accepted(one(shop).send(client, "k"))
    with nothing_changes(app):
        again = other(shop).send(client, "k")
    assert answer(again) == answer(first)
    assert is_replay(again)


# Refusals are not remembered


REFUSED: dict[str, tuple[Callable[[Shop], Post], str]] = {
    "transaction": (lambda shop: post_json("/transactions", line(shop.bolt, "sale", 200)), "insufficient_stock"),
    "batch": (
        lambda shop: post_json("/transactions/batch", [line(shop.nut, "sale", 1), line(shop.bolt, "sale", 200)]),
        "batch_rejected",
    ),
    "count": (
        lambda shop: post_json(f"/products/{shop.bolt}/counts", {"counted_quantity": 1, "expected_quantity": 597}),
        "stale_quantity",
    ),
}


@pytest.mark.parametrize("door", REFUSED)
def test_a_refusal_stores_nothing_and_is_judged_anew(app: Flask, client: FlaskClient, shop: Shop, door: str) -> None:
    make, slug = REFUSED[door]
    post = make(shop)
    with nothing_changes(app):
        assert refusal(post.send(client, "k"))[1] == slug
        assert refusal(post.send(client, "k"))[1] == slug
    transaction(client, shop.bolt, "purchase", 500)
    first = accepted(post.send(client, "k"))
    with nothing_changes(app):
        assert answer(post.send(client, "k")) == answer(first)


def test_a_reversal_refused_for_want_of_stock_may_come_again_with_its_key(
    app: Flask, client: FlaskClient, shop: Shop
) -> None:
    purchase = transaction(client, shop.bolt, "purchase", 20)
    transaction(client, shop.bolt, "sale", 110)
    post = Post(f"/transactions/{purchase['id']}/reversal")
    with nothing_changes(app):
        assert refusal(post.send(client, "k")) == (400, "insufficient_stock")
    transaction(client, shop.bolt, "purchase", 13)
    first = accepted(post.send(client, "k"))
    assert body(first)["balance_after"] == 0
    assert is_replay(post.send(client, "k"))


def test_a_product_refused_for_its_sku_may_come_again_with_its_key(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = post_json("/products", product_facts(shop, sku="bolt"))
    with nothing_changes(app):
        assert refusal(post.send(client, "k")) == (409, "duplicate_sku")
    assert client.patch(f"/products/{shop.bolt}", json={"sku": "SCREW"}).status_code == 200
    accepted(post.send(client, "k"))
    assert is_replay(post.send(client, "k"))


def test_an_import_refused_may_come_again_with_its_key(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = Post("/import/products?mode=create", post_file(FILE).content)
    with nothing_changes(app):
        assert refusal(post.send(client, "k")) == (422, "import_invalid")
    assert client.patch(f"/products/{shop.bolt}", json={"sku": "SCREW"}).status_code == 200
    accepted(post.send(client, "k"))
    assert is_replay(post.send(client, "k"))


def test_a_key_that_only_met_refusals_is_free_for_another_request(client: FlaskClient, shop: Shop) -> None:
    too_much = post_json("/transactions", line(shop.bolt, "sale", 200))
    assert refusal(too_much.send(client, "k")) == (400, "insufficient_stock")
    unreadable = post_json("/transactions", {"quantity": "many"})
    assert refusal(unreadable.send(client, "k")) == (422, "validation_error")
    accepted(DOORS["count"](shop).send(client, "k"))


def test_a_product_without_stock_leaves_its_key_free(client: FlaskClient, shop: Shop) -> None:
    accepted(post_json("/products", product_facts(shop, quantity_on_hand=0)).send(client, "k"))
    accepted(DOORS["transaction"](shop).send(client, "k"))


def test_an_import_that_changes_no_stock_is_remembered_as_well(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = post_file("sku,location\nBOLT,A1\nNUT,\n")
    first = accepted(post.send(client, "k"))
    assert body(first) == {
        "rows": 2,
        "created": 0,
        "updated": 1,
        "unchanged": 1,
        "stock_transactions": 0,
        "dry_run": False,
    }
    assert client.patch(f"/products/{shop.bolt}", json={"location": "B2"}).status_code == 200
    with nothing_changes(app):
        again = post.send(client, "k")
    assert answer(again) == answer(first)


# Copies at the same time


@each_door
def test_copies_sent_at_once_have_one_effect_and_one_answer(
    app: Flask, client: FlaskClient, shop: Shop, door: str
) -> None:
    post = DOORS[door](shop)
    before = len(listed(client.get("/transactions?limit=1000")))
    responses = send_at_once(app, [post] * 4, "k")
    assert len({answer(response) for response in responses}) == 1
    assert sorted(is_replay(response) for response in responses) == [False, True, True, True]
    assert accepted(min(responses, key=is_replay)).status_code in {200, 201}
    moved = {"batch": 3, "batch reversal": 2, "import": 2}.get(door, 1)
    assert len(listed(client.get("/transactions?limit=1000"))) == before + moved
    assert_ledger_is_sound(app)


def test_of_two_requests_sent_at_once_under_one_key_one_is_refused(app: Flask, shop: Shop) -> None:
    posts = [DOORS["transaction"](shop), DOORS["batch"](shop)]
    with_effect, refused = sorted(send_at_once(app, posts, "k"), key=lambda response: response.status_code)
    accepted(with_effect)
    assert refusal(refused) == REUSED
    assert_ledger_is_sound(app)


@on_postgresql
def test_a_copy_waits_for_the_first_and_repeats_its_answer(
    app: Flask, client: FlaskClient, database_url: str, shop: Shop
) -> None:
    post = DOORS["transaction"](shop)
    with (
        psycopg.connect(database_url, autocommit=True) as observer,
        psycopg.connect(database_url) as holder,
        ThreadPoolExecutor(2) as pool,
    ):
        holder.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [shop.bolt])
        pending = [pool.submit(post.send, app.test_client(), "k") for _copy in range(2)]
        postgresql.await_blocked(observer, 2)
        holder.rollback()
        responses = [one.result() for one in pending]
    assert answer(responses[0]) == answer(responses[1])
    assert sorted(is_replay(response) for response in responses) == [False, True]
    assert len(listed(client.get(f"/transactions/product/{shop.bolt}"))) == 4


@contextmanager
def a_first_copy_at_work(app: Flask, key: str) -> Iterator[None]:
    """A transaction that holds a key, as a request does while it is worked on."""
    with app.app_context():
        begin_write(db.session())
        hold(db.session(), f"\0{key}")
        yield
        db.session.rollback()


@each_door
def test_a_copy_that_waits_too_long_is_told_to_come_back(
    app: Flask, impatient: Flask, engine_name: str, shop: Shop, door: str
) -> None:
    post = DOORS[door](shop)
    with nothing_changes(app), a_first_copy_at_work(app, "k"):
        response = post.send(impatient.test_client(), "k")
    expected = {"sqlite": (503, "database_busy"), "postgresql": (409, "idempotency_in_progress")}
    assert refusal(response) == expected[engine_name]
    assert int(response.headers["Retry-After"]) > 0
    accepted(post.send(app.test_client(), "k"))


@on_postgresql
def test_a_copy_whose_statement_may_not_take_as_long_is_told_to_come_back_as_well(
    app: Flask, database_url: str, shop: Shop
) -> None:
    brief = create_app({"DATABASE_URL": database_url, "TESTING": True, "INVENTORY_STATEMENT_TIMEOUT_MS": 100})
    with a_first_copy_at_work(app, "k"):
        response = DOORS["transaction"](shop).send(brief.test_client(), "k")
    with brief.app_context():
        db.engine.dispose()
    assert refusal(response) == (409, "idempotency_in_progress")


@on_postgresql
def test_another_key_does_not_wait_for_the_first(app: Flask, impatient: Flask, shop: Shop) -> None:
    with a_first_copy_at_work(app, "k"):
        accepted(DOORS["transaction"](shop).send(impatient.test_client(), "another"))


@on_postgresql
def test_a_busy_product_is_not_mistaken_for_a_busy_key(database_url: str, impatient: Flask, shop: Shop) -> None:
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [shop.bolt])
        response = DOORS["transaction"](shop).send(impatient.test_client(), "k")
        holder.rollback()
    assert refusal(response) == (503, "database_busy")


@on_postgresql
def test_a_lost_connection_while_a_copy_waits_is_no_busy_key(app: Flask, database_url: str, shop: Shop) -> None:
    post = DOORS["transaction"](shop)
    with (
        psycopg.connect(database_url, autocommit=True) as observer,
        a_first_copy_at_work(app, "k"),
        ThreadPoolExecutor(1) as pool,
    ):
        pending = pool.submit(post.send, app.test_client(), "k")
        # The unit of work begins anew on another connection, four times over.
        for _attempt in range(5):
            postgresql.await_blocked(observer, 1)
            observer.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        response = pending.result()
    assert refusal(response) == (503, "database_unavailable")


# The header


ASCII = "".join(map(chr, range(0x21, 0x7F)))
SOUND_HEADERS = {
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


@pytest.mark.parametrize("form", SOUND_HEADERS)
def test_a_key_is_visible_ascii_bare_or_quoted(app: Flask, client: FlaskClient, shop: Shop, form: str) -> None:
    header, key = SOUND_HEADERS[form]
    accepted(DOORS["transaction"](shop).send(client, header))
    stored = [row[columns(app, "idempotency_key")] for row in contents(app)["transactions"]]
    assert [value for value in stored if value is not None] == [key]


def columns(app: Flask, name: str) -> int:
    with app.app_context():
        return list(db.metadata.tables["transactions"].columns.keys()).index(name)


def test_a_bare_key_and_the_same_quoted_are_one(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = DOORS["transaction"](shop)
    first = accepted(post.send(client, "order-7"))
    with nothing_changes(app):
        again = post.send(client, '"order-7"')
    assert answer(again) == answer(first)


BAD_HEADERS = {
    "empty": "",
    "an empty string": '""',
    "256 characters": "x" * 256,
    "256 quoted characters": f'"{"x" * 256}"',
    "a blank inside": "a b",
    "a quoted blank": '"a b"',
    "only a blank": " ",
    "a tab": "a\tb",
    "a delete": "a\x7f",
    "Latin letters beyond ASCII": "clé",
    "quoted letters beyond ASCII": '"clé"',
    "a comma": "a,b",
    "two quoted": '"a","b"',
    "no closing quote": '"a',
    "a lone quote": '"',
    "a backslash in quotes": '"a\\b"',
    "a quote within quotes": '"a"b"',
    "something after the quotes": '"a"b',
}


@pytest.mark.parametrize("form", BAD_HEADERS)
def test_any_other_key_is_refused(app: Flask, client: FlaskClient, shop: Shop, form: str) -> None:
    with nothing_changes(app):
        response = DOORS["transaction"](shop).send(client, BAD_HEADERS[form])
    assert refusal(response) == (400, "invalid_idempotency_key")


@each_door
def test_every_door_refuses_a_bad_key(app: Flask, client: FlaskClient, shop: Shop, door: str) -> None:
    with nothing_changes(app):
        response = DOORS[door](shop).send(client, "a b")
    assert refusal(response) == (400, "invalid_idempotency_key")


@pytest.mark.parametrize("second", ["b", "a"])
def test_a_key_sent_twice_is_refused(app: Flask, client: FlaskClient, shop: Shop, second: str) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", second)]
    with nothing_changes(app):
        response = client.post("/transactions", json=line(shop.bolt, "sale", 1), headers=headers)
    assert refusal(response) == (400, "invalid_idempotency_key")


def test_each_client_has_keys_of_its_own(app: Flask, shop: Shop) -> None:
    facts = line(shop.bolt, "sale", 1)
    with app.app_context():
        unit_of_work(service.create)(facts, RequestKey("till", "k", "a sale"))
        unit_of_work(batches.create)([facts], RequestKey("till", "l", "a batch"))
        for key, request in (("k", "a sale"), ("l", "a batch")):
            assert unit_of_work(claim)(RequestKey("till", key, request)) is not None
            assert unit_of_work(claim)(RequestKey("scanner", key, "another request")) is None


# Keys as a must


@pytest.fixture
def strict(database_url: str) -> Iterator[FlaskClient]:
    app = create_app({"DATABASE_URL": database_url, "TESTING": True, "INVENTORY_REQUIRE_IDEMPOTENCY_KEY": "true"})
    yield app.test_client()
    with app.app_context():
        db.engine.dispose()


@each_door
def test_where_keys_are_required_no_stock_moves_without_one(
    app: Flask, strict: FlaskClient, shop: Shop, door: str
) -> None:
    post = DOORS[door](shop)
    with nothing_changes(app):
        assert refusal(post.send(strict)) == (400, "idempotency_key_required")
    first = accepted(post.send(strict, "k"))
    assert answer(post.send(strict, "k")) == answer(first)


def test_where_keys_are_required_other_writes_need_none(strict: FlaskClient, shop: Shop) -> None:
    assert strict.post("/categories", json={"name": "Other"}).status_code == 201
    assert strict.patch(f"/products/{shop.bolt}", json={"location": "A1"}).status_code == 200
    assert strict.delete(f"/products/{shop.bolt}").status_code == 409


@pytest.mark.parametrize("door", [name for name in DOORS if name != "product"])
def test_where_keys_are_required_a_dry_run_needs_none(app: Flask, strict: FlaskClient, shop: Shop, door: str) -> None:
    with nothing_changes(app):
        assert DOORS[door](shop).send(strict, dry_run="true").status_code == 200


def test_where_keys_are_required_a_product_without_stock_needs_none(strict: FlaskClient, shop: Shop) -> None:
    facts = product_facts(shop, quantity_on_hand=0)
    assert strict.post("/products", json=facts).status_code == 201
    bad_key = {"Idempotency-Key": ""}
    assert refusal(strict.post("/products", json=facts, headers=bad_key)) == (400, "invalid_idempotency_key")


@pytest.mark.parametrize("door", [name for name in DOORS if name != "product"])
def test_a_dry_run_refuses_a_bad_key_and_uses_no_good_one(
    app: Flask, client: FlaskClient, shop: Shop, door: str
) -> None:
    post = DOORS[door](shop)
    with nothing_changes(app):
        assert refusal(post.send(client, "a b", dry_run="true")) == (400, "invalid_idempotency_key")
        accepted(post.send(client, "k", dry_run="true"))
    accepted(post.send(client, "k"))


def test_a_replay_marks_no_other_answer(client: FlaskClient, shop: Shop) -> None:
    post = DOORS["transaction"](shop)
    accepted(post.send(client, "k"))
    assert is_replay(post.send(client, "k"))
    accepted(client.get("/transactions"))
    accepted(DOORS["batch"](shop).send(client))
    accepted(DOORS["batch"](shop).send(client, "l"))


def test_a_movement_named_by_sku_is_answered_as_at_first_after_the_sku_went_to_another_product(
    app: Flask, client: FlaskClient, shop: Shop
) -> None:
    post = post_json("/transactions", {"sku": "bolt", "transaction_type": "sale", "quantity": 2})
    first = accepted(post.send(client, "k"))
    assert client.patch(f"/products/{shop.bolt}", json={"sku": "SCREW"}).status_code == 200
    product(client, sku="BOLT", quantity_on_hand=5, category_id=shop.category_id)
    with nothing_changes(app):
        assert answer(post.send(client, "k")) == answer(first)
