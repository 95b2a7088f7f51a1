"""Dry runs: everything is checked, the answer says what would have been, and nothing is recorded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests import postgresql
from tests.builders import body, nothing_changes, refusal, refused_fields, transaction
from tests.conftest import on_postgresql
from tests.transactions.endpoints import DOORS, Post, Shop, line, open_shop, post_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

# An import's answer holds counts and no rows; a product's creation cannot be rehearsed.
REHEARSED = [name for name in DOORS if name not in {"product", "import"}]

each_door = pytest.mark.parametrize("door", REHEARSED)


@pytest.fixture
def shop(client: FlaskClient) -> Shop:
    return open_shop(client)


def rows_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = answer.get("transactions", [answer])
    return rows


def lasting(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an answer without what a dry run cannot know."""
    return [
        {name: value for name, value in row.items() if name not in {"id", "batch_id", "created_at"}}
        for row in rows_of(answer)
    ]


@each_door
def test_a_dry_run_records_nothing(app: Flask, client: FlaskClient, shop: Shop, door: str) -> None:
    with nothing_changes(app):
        for _time in range(2):
            assert DOORS[door](shop).send(client, dry_run="true").status_code == 200


@each_door
def test_a_dry_run_answers_what_is_recorded_afterwards(client: FlaskClient, shop: Shop, door: str) -> None:
    post = DOORS[door](shop)
    rehearsal = post.send(client, dry_run="true")
    performance = post.send(client)
    assert (rehearsal.status_code, performance.status_code) == (200, 201)
    assert lasting(body(rehearsal)) == lasting(body(performance))
    assert body(rehearsal).keys() == body(performance).keys()


@each_door
def test_what_was_only_rehearsed_has_no_id_and_no_location(client: FlaskClient, shop: Shop, door: str) -> None:
    response = DOORS[door](shop).send(client, dry_run="true")
    assert "Location" not in response.headers
    assert {row["id"] for row in rows_of(body(response))} == {None}
    assert {row["batch_id"] for row in rows_of(body(response))} == {None}
    assert body(response).get("batch_id") is None


@pytest.mark.parametrize(("word", "status"), [("true", 200), ("1", 200), ("yes", 200), ("false", 201), ("0", 201)])
def test_dry_run_is_a_flag(client: FlaskClient, shop: Shop, word: str, status: int) -> None:
    assert DOORS["transaction"](shop).send(client, dry_run=word).status_code == status


@pytest.mark.parametrize("word", ["", "maybe", "2"])
def test_any_other_word_is_refused(app: Flask, client: FlaskClient, shop: Shop, word: str) -> None:
    with nothing_changes(app):
        assert refused_fields(DOORS["transaction"](shop).send(client, dry_run=word)) == {"query": {"dry_run"}}


def test_the_creation_of_a_product_cannot_be_rehearsed(app: Flask, client: FlaskClient, shop: Shop) -> None:
    with nothing_changes(app):
        assert refused_fields(DOORS["product"](shop).send(client, dry_run="true")) == {"query": {"dry_run"}}


REFUSALS: dict[str, tuple[Callable[[Shop], Post], tuple[int, str]]] = {
    "a sale of too much": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 98)),
        (400, "insufficient_stock"),
    ),
    "stale stock": (
        lambda shop: post_json("/transactions", line(shop.bolt, "sale", 1, expected_quantity=1)),
        (409, "stale_quantity"),
    ),
    "a batch that cannot be": (
        lambda shop: post_json("/transactions/batch", [line(shop.bolt, "sale", 97), line(shop.bolt, "sale", 1)]),
        (400, "batch_rejected"),
    ),
    "a stale count": (
        lambda shop: post_json(f"/products/{shop.bolt}/counts", {"counted_quantity": 1, "expected_quantity": 2}),
        (409, "stale_quantity"),
    ),
    "an unknown product": (lambda _shop: post_json("/transactions", line(999, "sale", 1)), (400, "unknown_product")),
    "an unknown transaction": (lambda _shop: Post("/transactions/999/reversal"), (404, "transaction_not_found")),
    "an invalid body": (lambda shop: post_json("/transactions", line(shop.bolt, "sale", 0)), (422, "validation_error")),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_dry_run_is_refused_as_the_real_one(app: Flask, client: FlaskClient, shop: Shop, case: str) -> None:
    make, expected = REFUSALS[case]
    with nothing_changes(app):
        rehearsal = make(shop).send(client, dry_run="true")
        performance = make(shop).send(client)
    assert refusal(rehearsal) == expected
    assert rehearsal.data == performance.data


def test_what_was_reversed_cannot_be_rehearsed_again(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = DOORS["reversal"](shop)
    assert post.send(client, dry_run="true").status_code == 200
    assert post.send(client).status_code == 201
    with nothing_changes(app):
        assert refusal(post.send(client, dry_run="true")) == (409, "already_reversed")


@each_door
def test_a_dry_run_leaves_its_key_free(app: Flask, client: FlaskClient, shop: Shop, door: str) -> None:
    with nothing_changes(app):
        rehearsal = DOORS[door](shop).send(client, "k", dry_run="true")
    assert rehearsal.status_code == 200
    performance = DOORS["import"](shop).send(client, "k")
    assert performance.status_code == 200
    assert not replayed(rehearsal)
    assert not replayed(performance)


def replayed(response: TestResponse) -> bool:
    return "Idempotent-Replayed" in response.headers


def test_a_dry_run_under_a_used_key_is_judged_anew(app: Flask, client: FlaskClient, shop: Shop) -> None:
    post = DOORS["transaction"](shop)
    recorded = body(post.send(client, "k"))
    with nothing_changes(app):
        rehearsal = post.send(client, "k", dry_run="true")
    assert rehearsal.status_code == 200
    assert not replayed(rehearsal)
    assert body(rehearsal)["balance_after"] == recorded["balance_after"] - 4
    assert replayed(post.send(client, "k"))


def test_rehearsals_leave_no_gap_in_seq(client: FlaskClient, shop: Shop) -> None:
    last = transaction(client, shop.bolt, "sale", 1)["seq"]
    for _time in range(3):
        DOORS["batch"](shop).send(client, dry_run="true")
    assert transaction(client, shop.bolt, "sale", 1)["seq"] == last + 1


@on_postgresql
@each_door
def test_a_dry_run_waits_for_the_product_as_the_real_one_does(
    app: Flask, database_url: str, shop: Shop, door: str
) -> None:
    with (
        psycopg.connect(database_url) as holder,
        psycopg.connect(database_url, autocommit=True) as observer,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("SELECT 1 FROM products WHERE id = %s FOR UPDATE", [shop.bolt])
        pending = pool.submit(DOORS[door](shop).send, app.test_client(), dry_run="true")
        postgresql.await_blocked(observer, 1)
        holder.rollback()
        assert pending.result().status_code == 200
