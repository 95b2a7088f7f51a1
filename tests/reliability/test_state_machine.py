"""Random requests in random order against a model in plain Python: every answer has to be the model's."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select

from inventory import create_app
from inventory.database.base import db, settled_before
from inventory.models.product import Product
from inventory.models.transaction import Transaction
from inventory.transactions import verification
from tests.builders import assert_ledger_is_sound, body, category, listed, refusal
from tests.conftest import new_database
from tests.reliability.figures import scaled
from tests.reliability.model import Draft, Item, Refused, Shop
from tests.transactions.endpoints import Post, post_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    import pytest
    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from tests.reliability.figures import Report

# At least so many steps, each a request or a few, with the model's invariant after it.
STEPS = {"sqlite": 10_000, "postgresql": 3_000}
STEPS_PER_RUN = 250
STEPS_BETWEEN_RESTARTS = 100
OPENING_STOCK = (0, 6, 25, 400)

which = st.integers(0, 9_999)
often = st.sampled_from([True, True, True, False])
rarely = st.sampled_from([False, False, False, True])
lines = st.tuples(which, st.sampled_from(["purchase", "sale", "adjustment"]), st.integers(1, 20), often)
NEXT_LINK = re.compile(r'<([^>]*)>; rel="next"')
UNKNOWN_BATCH = "00000000-0000-0000-0000-000000000000"


def answer(response: TestResponse) -> tuple[Any, ...]:
    return response.status_code, response.data, response.headers.get("Location"), response.headers.get("ETag")


def without_sentences(details: Any) -> Any:
    if "errors" in details:
        errors = [{name: value for name, value in error.items() if name != "message"} for error in details["errors"]]
        return details | {"errors": errors}
    return details


def verdict_of(judge: Callable[[], Draft]) -> Draft | Refused:
    try:
        return judge()
    except Refused as refused:
        return refused


class ClientsOfTheService(RuleBasedStateMachine):
    """What clients do to one service. ``open_database`` and ``done``, which counts, are given by the test."""

    open_database: ClassVar[Callable[[], AbstractContextManager[str]]]
    done: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.database_url = self.stack.enter_context(type(self).open_database())
        self.shop = Shop()
        self.keys: dict[str, tuple[Post, tuple[Any, ...]]] = {}
        self.unused_keys: list[str] = []
        self.etags: dict[tuple[int, int, int], str] = {}
        self.numbers = iter(range(1, 1_000_000))
        self.feed_address, self.fed = "/transactions/feed?limit=3", 0
        self.start()

    def start(self) -> None:
        self.app: Flask = create_app({"DATABASE_URL": self.database_url, "TESTING": True})
        self.client: FlaskClient = self.app.test_client()
        self.steps_since_start = 0

    def stop(self) -> None:
        with self.app.app_context():
            db.engine.dispose()

    def teardown(self) -> None:
        try:
            with self.app.app_context():
                assert verification.verify(None, print).findings == 0
        finally:
            self.stop()
            self.stack.close()

    @initialize()
    def open_the_shop(self) -> None:
        self.category_id = category(self.client)["id"]
        for stock in OPENING_STOCK:
            self.create_product(stock, reorder_point=10, is_active=True, keyed=False)
        self.done["steps"] -= 1  # the invariant is looked at after this one too

    # What stands for what in the model

    def item(self, number: int) -> Item:
        return list(self.shop.items.values())[number % len(self.shop.items)]

    def row_id(self, number: int) -> int:
        """A row of the ledger, the newest ones more often; now and then one that does not exist."""
        return max(self.shop.rows, default=0) + 1 - number % (len(self.shop.rows) + 1)

    def batch_id(self, number: int) -> str:
        known = [UNKNOWN_BATCH, *self.shop.batches]
        return known[number % len(known)]

    def line(self, number: int, transaction_type: str, quantity: int, by_id: bool) -> dict[str, Any]:
        item = self.item(number)
        names = {"product_id": item.id} if by_id else {"sku": f" {item.sku.swapcase()} "}
        signed = -quantity if transaction_type == "adjustment" and number % 2 else quantity
        return {**names, "transaction_type": transaction_type, "quantity": signed}

    def key(self, wanted: bool) -> str | None:
        if not wanted:
            return None
        return self.unused_keys.pop() if self.unused_keys else f"key-{next(self.numbers)}"

    # One request that moves stock, and what the model says of it

    def attempt(self, post: Post, judge: Callable[[], Draft], *, keyed: bool = False, dry: bool = False) -> None:
        """Send it and hold the answer against the model's."""
        key = self.key(keyed)
        response = post.send(self.client, key, **({"dry_run": "true"} if dry else {}))
        assert "Idempotent-Replayed" not in response.headers
        verdict = verdict_of(judge)
        if isinstance(verdict, Refused):
            assert refusal(response) == verdict.answer
            if verdict.details:
                assert without_sentences(body(response)["details"]) == verdict.details
            outcome = "refused"
        else:
            outcome = self.settle(verdict, response, dry=dry)
        if key is not None:
            if outcome == "recorded":
                self.keys[key] = post, answer(response)
            else:
                self.unused_keys.append(key)
        self.done[outcome] += 1

    def settle(self, draft: Draft, response: TestResponse, *, dry: bool) -> str:
        assert response.status_code == (200 if dry else 201), response.text
        content = body(response)
        rows = content["transactions"] if draft.batch else [content]
        batch_id = content["batch_id"]
        assert (batch_id is not None) == (draft.batch and not dry)
        assert {row["batch_id"] for row in rows} == {batch_id}
        assert [self.shown(row) for row in rows] == [self.shown(row) for row in draft.rows]
        if dry:
            assert {row["id"] for row in rows} == {None}
            return "rehearsed"
        self.take_in(draft, rows)
        return "recorded"

    def take_in(self, draft: Draft, rows: list[dict[str, Any]]) -> None:
        ids, moments = [row["id"] for row in rows], [row["created_at"] for row in rows]
        self.shop.record(draft, ids, rows[0]["batch_id"], moments)

    @staticmethod
    def shown(row: dict[str, Any]) -> dict[str, Any]:
        """A row without what only the service can know, and without what only the feed shows."""
        return {
            name: value
            for name, value in row.items()
            if name not in {"id", "batch_id", "created_at", "crossed", "cursor"}
        }

    # Products

    @rule(stock=st.integers(0, 30), reorder_point=st.integers(0, 12), is_active=often, keyed=st.booleans())
    @precondition(lambda self: len(self.shop.items) < 12)
    def create(self, stock: int, reorder_point: int, is_active: bool, keyed: bool) -> None:
        self.create_product(stock, reorder_point, is_active, keyed)
        self.create_the_same_product_again(stock)

    def create_product(self, stock: int, reorder_point: int, is_active: bool, keyed: bool) -> None:
        number = next(self.numbers)
        facts = {
            "sku": f"Größe-{number}",
            "name": f"Product {number}",
            "price": 5,
            "category_id": self.category_id,
            "quantity_on_hand": stock,
            "reorder_point": reorder_point,
            "is_active": is_active,
        }
        key, post = self.key(keyed), post_json("/products", facts)
        response = post.send(self.client, key)
        assert response.status_code == 201
        created = body(response)
        assert {name: created[name] for name in facts} == facts
        item = Item(created["id"], created["sku"], reorder_point, is_active, created["created_at"])
        assert item.id not in self.shop.items
        self.shop.items[item.id] = item
        if stock:
            self.take_in_newest(item, stock, "opening")
        self.note_etag(item, response)
        if key is not None and stock:
            self.keys[key] = post, answer(response)
        elif key is not None:
            self.unused_keys.append(key)

    def take_in_newest(self, item: Item, units: int, reason: str) -> None:
        """A row that an answer about the product does not show, from the product's history."""
        draft = Draft()
        draft.move(item, "adjustment", units, reason=reason)
        (row,) = listed(self.client.get(f"/transactions/product/{item.id}?limit=1"))
        assert self.shown(row) == self.shown(draft.rows[0])
        assert row["batch_id"] is None
        self.take_in(draft, [row])

    def create_the_same_product_again(self, number: int) -> None:
        facts = {"sku": self.item(number).sku.swapcase(), "name": "Twin", "price": 5, "category_id": self.category_id}
        assert refusal(self.client.post("/products", json=facts)) == (409, "duplicate_sku")

    @rule(number=which, what=st.sampled_from(["activate", "activate", "deactivate", "rename", "delete"]))
    def change(self, number: int, what: str) -> None:
        if what == "rename":
            self.rename(number)
        elif what == "delete":
            self.delete(number)
        else:
            self.activate_or_deactivate(number, what == "activate")

    def activate_or_deactivate(self, number: int, is_active: bool) -> None:
        item = self.item(number)
        response = self.client.patch(f"/products/{item.id}", json={"is_active": is_active})
        assert response.status_code == 200
        item.version += item.is_active != is_active
        item.is_active = is_active
        self.note_etag(item, response)

    def rename(self, number: int) -> None:
        item = self.item(number)
        item.sku, item.version = f"renamed-{next(self.numbers)}", item.version + 1
        response = self.client.put(f"/products/{item.id}", json={"sku": item.sku})
        assert (response.status_code, body(response)["sku"]) == (200, item.sku)
        self.note_etag(item, response)

    @rule(number=which, quantity=st.integers(0, 30), condition=st.sampled_from([None, "current", "earlier"]))
    def put_quantity(self, number: int, quantity: int, condition: str | None) -> None:
        item = self.item(number)
        known = {state: etag for state, etag in self.etags.items() if state[0] == item.id}
        stale = [etag for state, etag in known.items() if state != item.state]
        headers = {}
        if condition == "current":
            headers["If-Match"] = known[item.state] if item.state in known else self.look(item)
        elif condition == "earlier" and stale:
            headers["If-Match"] = stale[number % len(stale)]
        response = self.client.put(f"/products/{item.id}", json={"quantity_on_hand": quantity}, headers=headers)
        if headers.get("If-Match") in stale:
            assert refusal(response) == (412, "precondition_failed")
            return
        assert (response.status_code, body(response)["quantity_on_hand"]) == (200, quantity)
        if quantity != item.stock:
            self.take_in_newest(item, quantity - item.stock, "count")
        self.note_etag(item, response)

    def delete(self, number: int) -> None:
        item = self.item(number)
        response = self.client.delete(f"/products/{item.id}")
        if item.rows:
            assert refusal(response) == (409, "product_has_history")
        else:
            assert response.status_code == 204
            del self.shop.items[item.id]
            assert refusal(self.client.get(f"/products/{item.id}")) == (404, "product_not_found")

    # Movements

    @rule(
        what=lines,
        expectation=st.sampled_from([None, None, None, "right", "wrong"]),
        keyed=st.booleans(),
        dry=rarely,
        named=st.sampled_from(["plainly", "plainly", "plainly", "with a reference", "not at all"]),
    )
    def move(
        self, what: tuple[int, str, int, bool], expectation: str | None, keyed: bool, dry: bool, named: str
    ) -> None:
        line = self.line(*what)
        if named == "not at all":
            line = {name: value for name, value in line.items() if name != "sku"} | {"product_id": 10**6}
        if expectation is not None:
            line["expected_quantity"] = self.item(what[0]).stock + (expectation == "wrong")
        if named == "with a reference":
            line["reference"] = f"order {next(self.numbers)}"
        self.attempt(post_json("/transactions", line), lambda: self.shop.move(line), keyed=keyed, dry=dry)

    @rule(wanted=st.lists(lines, min_size=1, max_size=5), keyed=st.booleans(), dry=rarely, unknown=rarely)
    def batch(self, wanted: list[tuple[int, str, int, bool]], keyed: bool, dry: bool, unknown: bool) -> None:
        sent = [self.line(*what) for what in wanted]
        if unknown:
            sent.insert(1, {"sku": "no such thing", "transaction_type": "sale", "quantity": 1})
        post = post_json("/transactions/batch", {"lines": sent})
        self.attempt(post, lambda: self.shop.batch(sent), keyed=keyed, dry=dry)

    @rule(
        number=which,
        counted=st.integers(0, 30),
        expectation=st.sampled_from([None, "right", "wrong"]),
        keyed=st.booleans(),
        dry=rarely,
    )
    def count(self, number: int, counted: int, expectation: str | None, keyed: bool, dry: bool) -> None:
        item = self.item(number)
        facts, expected = {"counted_quantity": counted}, None
        if expectation is not None:
            expected = facts["expected_quantity"] = item.stock + (expectation == "wrong")
        post = post_json(f"/products/{item.id}/counts", facts)
        self.attempt(post, lambda: self.shop.count(item, counted, expected), keyed=keyed, dry=dry)

    @rule(number=which, keyed=st.booleans(), dry=rarely)
    def reverse(self, number: int, keyed: bool, dry: bool) -> None:
        row_id = self.row_id(number)
        post = post_json(f"/transactions/{row_id}/reversal", {"notes": "undone"})
        self.attempt(post, lambda: self.shop.reverse(row_id, notes="undone"), keyed=keyed, dry=dry)

    @rule(number=which, keyed=st.booleans(), dry=rarely)
    def reverse_batch(self, number: int, keyed: bool, dry: bool) -> None:
        batch_id = self.batch_id(number)
        post = Post(f"/transactions/batch/{batch_id}/reversal")
        self.attempt(post, lambda: self.shop.reverse_batch(batch_id), keyed=keyed, dry=dry)

    # Keys

    @rule(number=which, how=st.sampled_from(["bare", "quoted", "other content", "other route"]))
    @precondition(lambda self: self.keys)
    def use_a_key_again(self, number: int, how: str) -> None:
        if how in {"bare", "quoted"}:
            self.replay(number, how == "quoted")
        else:
            self.misuse_a_key(number, how)

    def replay(self, number: int, quoted: bool) -> None:
        key = list(self.keys)[number % len(self.keys)]
        post, first = self.keys[key]
        again = post.send(self.client, f'"{key}"' if quoted else key)
        assert answer(again) == first
        assert again.headers["Idempotent-Replayed"] == "true"
        self.done["replayed"] += 1

    def misuse_a_key(self, number: int, other: str) -> None:
        key = list(self.keys)[number % len(self.keys)]
        post, _first = self.keys[key]
        if other == "other content" and "json" in post.content and isinstance(post.content["json"], dict):
            content = post.content["json"]
            if "lines" in content:
                wrong = post_json(post.path, {"lines": content["lines"] * 2})
            else:
                field = "notes" if post.path != "/products" else "description"
                wrong = post_json(post.path, content | {field: "something else"})
        else:
            address = f"/products/{self.item(number).id}/counts"
            wrong = post_json(address, {"counted_quantity": 1, "reference": f"misuse {next(self.numbers)}"})
        response = wrong.send(self.client, key)
        assert refusal(response) == (422, "idempotency_key_reused")
        assert "Idempotent-Replayed" not in response.headers
        self.done["misused_keys"] += 1

    # Looking

    def look(self, item: Item) -> str:
        response = self.client.get(f"/products/{item.id}")
        assert response.status_code == 200
        shown = body(response)
        assert (shown["sku"], shown["quantity_on_hand"], shown["is_active"], shown["version"]) == (
            item.sku,
            item.stock,
            item.is_active,
            item.version,
        )
        assert shown["transactions"] == [self.listed_row(row) for row in item.rows[:-51:-1]]
        return self.note_etag(item, response)

    def note_etag(self, item: Item, response: TestResponse) -> str:
        """One state, one tag; another state, another tag."""
        etag = response.headers["ETag"]
        assert self.etags.setdefault(item.state, etag) == etag
        own = [tag for state, tag in self.etags.items() if state[0] == item.id]
        assert len(set(own)) == len(own)
        return etag

    @staticmethod
    def listed_row(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name != "crossed"}

    def look_at_a_product(self, number: int) -> None:
        item = self.item(number)
        etag = self.look(item)
        assert self.client.get(f"/products/{item.id}", headers={"If-None-Match": etag}).status_code == 304

    def look_at_a_row(self, number: int) -> None:
        row = self.shop.rows.get(self.row_id(number))
        response = self.client.get(f"/transactions/{self.row_id(number)}")
        if row is None:
            assert refusal(response) == (404, "transaction_not_found")
        else:
            assert body(response) == self.listed_row(row)

    def look_at_the_stock_of_then(self, number: int) -> None:
        row = list(self.shop.rows.values())[number % len(self.shop.rows)]
        item, then = self.shop.items[row["product_id"]], datetime.fromisoformat(row["created_at"])
        response = self.client.get(f"/products/{item.id}/stock", query_string={"as_of": row["created_at"]})
        balances = [
            earlier["balance_after"] for earlier in item.rows if datetime.fromisoformat(earlier["created_at"]) <= then
        ]
        assert body(response)["quantity_on_hand"] == balances[-1]

    def pages(self, address: str) -> Iterable[dict[str, Any]]:
        """All rows of a list, by its links."""
        while address:
            response = self.client.get(address)
            yield from listed(response)
            address = next(iter(NEXT_LINK.findall(response.headers.get("Link", ""))), "")

    def page_through_products(self, number: int) -> None:
        values: dict[str, Callable[[Item], Any]] = {
            "id": lambda item: item.id,
            "-id": lambda item: -item.id,
            "sku": lambda item: item.sku.casefold(),
            "-quantity_on_hand": lambda item: -item.stock,
            "reorder_point": lambda item: item.reorder_point,
        }
        order, limit = list(values)[number % 5], 2 + number % 4
        expected = sorted(self.shop.items.values(), key=lambda item: (values[order](item), item.id))
        seen = [(row["id"], row["quantity_on_hand"]) for row in self.pages(f"/products?limit={limit}&sort={order}")]
        assert seen == [(item.id, item.stock) for item in expected]

    def page_through_a_history(self, number: int) -> None:
        item = self.item(number)
        seen = list(self.pages(f"/transactions/product/{item.id}?limit={3 + number % 9}"))
        assert seen == [self.listed_row(row) for row in reversed(item.rows)]

    def look_at_what_is_low(self, _number: int) -> None:
        low = [item for item in self.shop.items.values() if item.is_active and item.stock <= item.reorder_point]
        expected = sorted(low, key=lambda item: (item.stock - item.reorder_point, item.id))
        assert [row["id"] for row in self.pages("/products/low-stock?limit=4")] == [item.id for item in expected]

    @rule(number=which, at=st.sampled_from(["product", "row", "then", "products", "history", "low"]))
    def look_at(self, number: int, at: str) -> None:
        {
            "product": self.look_at_a_product,
            "row": self.look_at_a_row,
            "then": self.look_at_the_stock_of_then,
            "products": self.page_through_products,
            "history": self.page_through_a_history,
            "low": self.look_at_what_is_low,
        }[at](number)

    @rule(pages=st.integers(1, 8))
    def follow_the_feed(self, pages: int) -> None:
        """Each row once, in the order of the ledger; none is held back that no transaction can get before any more."""
        with self.app.app_context():
            settled = db.session.scalar(select(func.count()).where(Transaction.xid < settled_before())) or 0
        for _page in range(pages):
            response = self.client.get(self.feed_address)
            rows = listed(response)
            expected = list(self.shop.rows.values())[self.fed :][: len(rows)]
            assert [{name: value for name, value in row.items() if name != "cursor"} for row in rows] == expected
            self.fed += len(rows)
            assert len(rows) == 3 or self.fed >= settled
            (self.feed_address,) = NEXT_LINK.findall(response.headers["Link"])

    # The process

    @rule()
    @precondition(lambda self: self.steps_since_start >= STEPS_BETWEEN_RESTARTS)
    def restart(self) -> None:
        self.stop()
        self.start()
        self.done["restarts"] += 1

    @invariant()
    def the_ledger_is_sound_and_the_models(self) -> None:
        assert_ledger_is_sound(self.app)
        with self.app.app_context():
            stored = db.session.execute(select(Product.id, Product.quantity_on_hand, Product.last_seq)).all()
        assert {tuple(row) for row in stored} == {
            (item.id, item.stock, len(item.rows)) for item in self.shop.items.values()
        }
        self.steps_since_start += 1
        self.done["steps"] += 1


def test_every_answer_is_that_of_a_plain_model(
    request: pytest.FixtureRequest, engine_name: str, tmp_path: Path, report: Report
) -> None:
    """Random requests against a model in plain Python: every answer equals the model's, and the ledger is sound after
    every step.
    """
    done: Counter[str] = Counter()

    def open_database() -> AbstractContextManager[str]:
        done["runs"] += 1
        directory = tmp_path / f"run-{done['runs']}"
        directory.mkdir()
        return new_database(request, engine_name, directory)

    wanted = scaled(STEPS[engine_name])
    run_state_machine_as_test(
        type("Clients", (ClientsOfTheService,), {"open_database": staticmethod(open_database), "done": done}),
        settings=settings(
            # A third more, because some runs are cut short.
            max_examples=wanted // STEPS_PER_RUN + wanted // (3 * STEPS_PER_RUN) + 2,
            stateful_step_count=STEPS_PER_RUN,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
    report("state machine against a model", **done)
    assert done["steps"] >= wanted
    assert min(done[outcome] for outcome in ("recorded", "refused", "rehearsed", "replayed", "restarts")) > 0
