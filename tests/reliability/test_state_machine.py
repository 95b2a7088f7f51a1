"""Random requests in random order: every response must equal that of a model in plain Python."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack, contextmanager
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
from inventory.database.base import db
from inventory.database.functions import settled_before
from inventory.models.product import Product
from inventory.models.transaction import Transaction
from inventory.transactions import verification
from tests.builders import assert_ledger_is_consistent, body, category, error_of, listed
from tests.reliability.figures import scaled
from tests.reliability.model import Draft, Item, Rejected, Shop
from tests.transactions.endpoints import Post, post_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from tests.environments import Environments
    from tests.reliability.figures import Report

# The minimum number of steps. Each sends one or a few requests; the invariant is checked after it.
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


def response_parts(response: TestResponse) -> tuple[Any, ...]:
    return response.status_code, response.data, response.headers.get("Location"), response.headers.get("ETag")


def without_messages(details: Any) -> Any:
    if "errors" in details:
        errors = [{name: value for name, value in error.items() if name != "message"} for error in details["errors"]]
        return details | {"errors": errors}
    return details


def evaluate(expected_outcome: Callable[[], Draft]) -> Draft | Rejected:
    try:
        return expected_outcome()
    except Rejected as error:
        return error


class ServiceClients(RuleBasedStateMachine):
    """Requests of clients to one service. The test sets ``open_database`` and ``done``, the counts."""

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
    def create_products(self) -> None:
        self.category_id = category(self.client)["id"]
        for stock in OPENING_STOCK:
            self.create_product(stock, reorder_point=10, is_active=True, keyed=False)
        self.done["steps"] -= 1  # the invariant is checked after this one too

    # Choices in the model

    def item(self, number: int) -> Item:
        return list(self.shop.items.values())[number % len(self.shop.items)]

    def row_id(self, number: int) -> int:
        """A row of the ledger, more often a new one, or sometimes one that does not exist."""
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

    # One request that moves stock, compared with the model

    def attempt(
        self, post: Post, expected_outcome: Callable[[], Draft], *, keyed: bool = False, dry: bool = False
    ) -> None:
        """Send a request and compare the response with the model."""
        key = self.key(keyed)
        response = post.send(self.client, key, **({"dry_run": "true"} if dry else {}))
        assert "Idempotent-Replayed" not in response.headers
        expected = evaluate(expected_outcome)
        if isinstance(expected, Rejected):
            assert error_of(response) == expected.response
            if expected.details:
                assert without_messages(body(response)["details"]) == expected.details
            outcome = "rejected"
        else:
            outcome = self.settle(expected, response, dry=dry)
        if key is not None:
            if outcome == "recorded":
                self.keys[key] = post, response_parts(response)
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
            return "dry_runs"
        self.add_rows(draft, rows)
        return "recorded"

    def add_rows(self, draft: Draft, rows: list[dict[str, Any]]) -> None:
        ids, timestamps = [row["id"] for row in rows], [row["created_at"] for row in rows]
        self.shop.record(draft, ids, rows[0]["batch_id"], timestamps)

    @staticmethod
    def shown(row: dict[str, Any]) -> dict[str, Any]:
        """A row without the fields that only the service knows, and without those that only the feed shows."""
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
        self.create_duplicate(stock)

    def create_product(self, stock: int, reorder_point: int, is_active: bool, keyed: bool) -> None:
        number = next(self.numbers)
        fields = {
            "sku": f"Größe-{number}",
            "name": f"Product {number}",
            "price": 5,
            "category_id": self.category_id,
            "quantity_on_hand": stock,
            "reorder_point": reorder_point,
            "is_active": is_active,
        }
        key, post = self.key(keyed), post_json("/products", fields)
        response = post.send(self.client, key)
        assert response.status_code == 201
        created = body(response)
        assert {name: created[name] for name in fields} == fields
        item = Item(created["id"], created["sku"], reorder_point, is_active, created["created_at"])
        assert item.id not in self.shop.items
        self.shop.items[item.id] = item
        if stock:
            self.add_newest_row(item, stock, "opening")
        self.check_etag(item, response)
        if key is not None and stock:
            self.keys[key] = post, response_parts(response)
        elif key is not None:
            self.unused_keys.append(key)

    def add_newest_row(self, item: Item, units: int, reason: str) -> None:
        """Add a row that the response for the product does not include, from the history of the product."""
        draft = Draft()
        draft.move(item, "adjustment", units, reason=reason)
        (row,) = listed(self.client.get(f"/transactions?product_id={item.id}&limit=1"))
        assert self.shown(row) == self.shown(draft.rows[0])
        assert row["batch_id"] is None
        self.add_rows(draft, [row])

    def create_duplicate(self, number: int) -> None:
        fields = {
            "sku": self.item(number).sku.swapcase(),
            "name": "Duplicate",
            "price": 5,
            "category_id": self.category_id,
        }
        assert error_of(self.client.post("/products", json=fields)) == (409, "duplicate_sku")

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
        self.check_etag(item, response)

    def rename(self, number: int) -> None:
        item = self.item(number)
        item.sku, item.version = f"renamed-{next(self.numbers)}", item.version + 1
        response = self.client.put(f"/products/{item.id}", json={"sku": item.sku})
        assert (response.status_code, body(response)["sku"]) == (200, item.sku)
        self.check_etag(item, response)

    @rule(number=which, quantity=st.integers(0, 30), condition=st.sampled_from([None, "current", "earlier"]))
    def put_quantity(self, number: int, quantity: int, condition: str | None) -> None:
        item = self.item(number)
        known = {state: etag for state, etag in self.etags.items() if state[0] == item.id}
        stale = {etag: state for state, etag in known.items() if state != item.state}
        headers = {}
        if condition == "current":
            headers["If-Match"] = known[item.state] if item.state in known else self.read_product(item)
        elif condition == "earlier" and stale:
            headers["If-Match"] = [*stale][number % len(stale)]
        response = self.client.put(f"/products/{item.id}", json={"quantity_on_hand": quantity}, headers=headers)
        seen = stale.get(headers.get("If-Match", ""))
        # If the stock does not change, an ETag from before a movement is accepted.
        if seen is not None and (quantity != item.stock or seen[1] != item.version):
            assert error_of(response) == (412, "precondition_failed")
            return
        assert (response.status_code, body(response)["quantity_on_hand"]) == (200, quantity)
        if quantity != item.stock:
            self.add_newest_row(item, quantity - item.stock, "count")
        self.check_etag(item, response)

    def delete(self, number: int) -> None:
        item = self.item(number)
        response = self.client.delete(f"/products/{item.id}")
        if item.rows:
            assert error_of(response) == (409, "product_has_history")
        else:
            assert response.status_code == 204
            del self.shop.items[item.id]
            assert error_of(self.client.get(f"/products/{item.id}")) == (404, "product_not_found")

    # Movements

    @rule(
        what=lines,
        expectation=st.sampled_from([None, None, None, "right", "wrong"]),
        keyed=st.booleans(),
        dry=rarely,
        named=st.sampled_from(["normally", "normally", "normally", "with a reference", "unknown"]),
    )
    def move(
        self, what: tuple[int, str, int, bool], expectation: str | None, keyed: bool, dry: bool, named: str
    ) -> None:
        line = self.line(*what)
        if named == "unknown":
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
        payload, expected = {"counted_quantity": counted}, None
        if expectation is not None:
            expected = payload["expected_quantity"] = item.stock + (expectation == "wrong")
        post = post_json(f"/products/{item.id}/counts", payload)
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
    def reuse_key(self, number: int, how: str) -> None:
        if how in {"bare", "quoted"}:
            self.replay(number, how == "quoted")
        else:
            self.misuse_key(number, how)

    def replay(self, number: int, quoted: bool) -> None:
        key = list(self.keys)[number % len(self.keys)]
        post, first = self.keys[key]
        again = post.send(self.client, f'"{key}"' if quoted else key)
        assert response_parts(again) == first
        assert again.headers["Idempotent-Replayed"] == "true"
        self.done["replayed"] += 1

    def misuse_key(self, number: int, other: str) -> None:
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
        assert error_of(response) == (422, "idempotency_key_reused")
        assert "Idempotent-Replayed" not in response.headers
        self.done["misused_keys"] += 1

    # Reads

    def read_product(self, item: Item) -> str:
        response = self.client.get(f"/products/{item.id}")
        assert response.status_code == 200
        shown = body(response)
        assert (shown["sku"], shown["quantity_on_hand"], shown["is_active"], shown["version"]) == (
            item.sku,
            item.stock,
            item.is_active,
            item.version,
        )
        assert shown["transactions"] == [self.listed_row(row) for row in item.movements[:-51:-1]]
        return self.check_etag(item, response)

    def check_etag(self, item: Item, response: TestResponse) -> str:
        """The ETag is the same for the same state, and different for any other."""
        etag = response.headers["ETag"]
        assert self.etags.setdefault(item.state, etag) == etag
        own = [tag for state, tag in self.etags.items() if state[0] == item.id]
        assert len(set(own)) == len(own)
        return etag

    @staticmethod
    def listed_row(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name != "crossed"}

    def read_product_with_etag(self, number: int) -> None:
        item = self.item(number)
        etag = self.read_product(item)
        assert self.client.get(f"/products/{item.id}", headers={"If-None-Match": etag}).status_code == 304

    def read_row(self, number: int) -> None:
        row = self.shop.rows.get(self.row_id(number))
        response = self.client.get(f"/transactions/{self.row_id(number)}")
        if row is None:
            assert error_of(response) == (404, "transaction_not_found")
        else:
            assert body(response) == self.listed_row(row)

    def read_stock_as_of(self, number: int) -> None:
        row = list(self.shop.rows.values())[number % len(self.shop.rows)]
        item, as_of = self.shop.items[row["product_id"]], datetime.fromisoformat(row["created_at"])
        response = self.client.get(f"/products/{item.id}/stock", query_string={"as_of": row["created_at"]})
        balances = [
            earlier["balance_after"] for earlier in item.rows if datetime.fromisoformat(earlier["created_at"]) <= as_of
        ]
        assert body(response)["quantity_on_hand"] == balances[-1]

    def pages(self, address: str) -> Iterable[dict[str, Any]]:
        """All rows of a list, following its links."""
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

    def page_through_history(self, number: int) -> None:
        item = self.item(number)
        seen = list(self.pages(f"/transactions/product/{item.id}?limit={3 + number % 9}"))
        assert seen == [self.listed_row(row) for row in reversed(item.movements)]

    def page_through_low_stock(self, _number: int) -> None:
        low = [item for item in self.shop.items.values() if item.is_active and item.stock <= item.reorder_point]
        expected = sorted(low, key=lambda item: (item.stock - item.reorder_point, item.id))
        assert [row["id"] for row in self.pages("/products/low-stock?limit=4")] == [item.id for item in expected]

    @rule(number=which, at=st.sampled_from(["product", "row", "as_of", "products", "history", "low"]))
    def read(self, number: int, at: str) -> None:
        {
            "product": self.read_product_with_etag,
            "row": self.read_row,
            "as_of": self.read_stock_as_of,
            "products": self.page_through_products,
            "history": self.page_through_history,
            "low": self.page_through_low_stock,
        }[at](number)

    @rule(pages=st.integers(1, 8))
    def follow_the_feed(self, pages: int) -> None:
        """The feed shows each row once, in ledger order, and withholds none that is settled."""
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
    def ledger_is_consistent_and_equals_model(self) -> None:
        assert_ledger_is_consistent(self.app)
        with self.app.app_context():
            stored = db.session.execute(select(Product.id, Product.quantity_on_hand, Product.last_seq)).all()
        assert {tuple(row) for row in stored} == {
            (item.id, item.stock, len(item.rows)) for item in self.shop.items.values()
        }
        self.steps_since_start += 1
        self.done["steps"] += 1


def test_random_requests_return_same_responses_as_model(
    environments: dict[str, Environments], engine_name: str, report: Report
) -> None:
    """Every response equals that of a model in plain Python, and the ledger is consistent after every step."""
    done: Counter[str] = Counter()

    @contextmanager
    def open_database() -> Iterator[str]:
        done["runs"] += 1
        with environments[engine_name].one() as environment:
            yield environment.url

    wanted = scaled(STEPS[engine_name])
    run_state_machine_as_test(
        type("Clients", (ServiceClients,), {"open_database": staticmethod(open_database), "done": done}),
        settings=settings(
            # A third more, because some runs end early.
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
    report("Random requests compared with a model", **done)
    assert done["steps"] >= wanted
    assert min(done[outcome] for outcome in ("recorded", "rejected", "dry_runs", "replayed", "restarts")) > 0
