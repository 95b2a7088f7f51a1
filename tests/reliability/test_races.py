"""Concurrent clients of real gunicorn workers: overselling, transfers, duplicate requests, deadlocks."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.schema import CreateTable

from inventory.database.base import db
from inventory.import_export.scratch import CHUNK
from tests.clients import HttpClient, post_all
from tests.reliability import tutorial
from tests.reliability.audit import assert_consistent, drift
from tests.reliability.figures import Report, scaled
from tests.reliability.traffic import STOCK, TIMEOUT, Clerk, Posting, stock_products
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask import Flask

    from tests.clients import Answer

CLIENTS = 16


@dataclass(frozen=True)
class Outcome:
    """The responses in a race, and the stock after it."""

    answers: Counter[int]
    stock: int
    sold: int
    left: int
    drift: int

    def assert_nothing_oversold(self) -> None:
        assert set(self.answers) <= {201, 400}
        assert (self.sold, self.left, self.drift) == (self.stock, 0, 0)
        assert self.answers[201] == self.sold


def race(url: str, product_ids: Sequence[int], attempts: int) -> Counter[int]:
    """Try to sell one unit of each product, ``attempts`` times, in random order. Returns the response statuses."""
    sales = [
        {"product_id": product_id, "transaction_type": "sale", "quantity": 1}
        for product_id in product_ids
        for _attempt in range(attempts)
    ]
    Random(1).shuffle(sales)
    return Counter(answer.status for answer in post_all(url, "/transactions", sales, clients=CLIENTS))


def outcome_of(session: Any, answers: Counter[int]) -> Outcome:
    """The outcome of a race according to the tables: positive deltas are the stock, negative deltas are sales."""
    stock, sold = session.execute(
        text(
            "SELECT SUM(CASE WHEN delta > 0 THEN delta END), SUM(CASE WHEN delta < 0 THEN -delta END) FROM transactions"
        )
    ).one()
    left = session.scalar(text("SELECT SUM(quantity_on_hand) FROM products"))
    return Outcome(answers, int(stock), int(sold), int(left), drift(session))


@pytest.mark.parametrize(("kind", "products"), [("one product", 1), ("50 products", 50)])
def test_concurrent_sales_sell_exactly_the_stock(
    server: Gunicorn, app: Flask, report: Report, kind: str, products: int
) -> None:
    """Exactly the stock is sold; quantities and ledger agree; no request fails."""
    stock = max(4, scaled(1_000) // products)
    product_ids = stock_products(server.url, products, stock)
    answers = race(server.url, product_ids, attempts=stock + stock // 4)
    with app.app_context():
        seen = outcome_of(db.session, answers)
    report(f"Overselling race, {kind}", sales=seen.sold, rejected=answers[400], drift=seen.drift)
    seen.assert_nothing_oversold()
    assert_consistent(app)


def test_tutorial_code_oversells_in_same_race(empty_database_url: str, report: Report) -> None:
    """Code that reads, checks and writes oversells in the same race: the test can detect overselling."""
    stock, tutorial_app = 300, tutorial.create_app(empty_database_url)
    with tutorial_app.app_context():
        for table in tutorial.Base.metadata.sorted_tables:
            tutorial.db.session.execute(CreateTable(table))
        tutorial.db.session.add(tutorial.Product(id=1, quantity_on_hand=stock))
        tutorial.db.session.flush()
        tutorial.db.session.add(tutorial.Transaction(product_id=1, delta=stock))
        tutorial.db.session.commit()
    with Gunicorn(empty_database_url, application="tests.reliability.tutorial:served()") as server:
        answers = race(server.url, [1], attempts=stock + stock // 4)
    with tutorial_app.app_context():
        seen = outcome_of(tutorial.db.session, answers)
        tutorial.db.session.remove()
        tutorial.db.engine.dispose()
    report("Control: tutorial code", sold=seen.sold, oversold=seen.sold - seen.stock, drift=seen.drift)
    with pytest.raises(AssertionError):
        seen.assert_nothing_oversold()
    assert seen.sold > seen.stock or seen.drift


def test_readers_see_constant_total_during_transfers(server: Gunicorn, app: Flask, report: Report) -> None:
    """Units are moved between ten products: every list that is read in the meantime has the same total."""
    product_ids, wanted, done = stock_products(server.url, 10, 1_000), scaled(3_000), threading.Event()

    def move_units(number: int, count: int) -> Counter[int]:
        random, statuses = Random(number), Counter[int]()
        with HttpClient(server.url) as client:
            while statuses[201] < count:
                answer = client.post("/transactions/batch", {"lines": transfer_lines(random, product_ids)})
                assert answer.status == 201 or answer.json["error"] == "batch_rejected", answer
                statuses[answer.status] += 1
        return statuses

    def read_totals() -> Counter[int]:
        totals = Counter[int]()
        with HttpClient(server.url) as client:
            while not done.wait(0.02):  # a pause, so that most of the load is from the transfers
                totals[sum(product["quantity_on_hand"] for product in client.get("/products").json)] += 1
        return totals

    movers = 6
    with ThreadPoolExecutor(movers + 2) as threads:
        reading = [threads.submit(read_totals) for _reader in range(2)]
        moving = [threads.submit(move_units, number, -(-wanted // movers)) for number in range(movers)]
        try:
            statuses = sum((mover.result() for mover in moving), Counter[int]())
        finally:
            done.set()
        totals = sum((reader.result() for reader in reading), Counter[int]())
    report(
        "Transfers between products",
        batches=statuses[201],
        rejected=statuses[400],
        reads=totals.total(),
        wrong_totals=len(totals) - 1,
    )
    assert set(totals) == {10 * 1_000}
    assert totals.total() >= wanted / 30
    assert_consistent(app)


def transfer_lines(random: Random, product_ids: Sequence[int]) -> list[dict[str, Any]]:
    """One or two transfers. About one batch in seventy has a line that exceeds the stock, after valid lines."""
    lines = []
    for _transfer in range(random.randrange(1, 3)):
        source, target = random.sample(product_ids, 2)
        units = random.randrange(1, 20) if random.random() < 0.99 else 100_000
        lines.append({"product_id": target, "transaction_type": "purchase", "quantity": units})
        lines.append({"product_id": source, "transaction_type": "sale", "quantity": units})
    return lines


def test_concurrent_duplicates_have_one_effect_and_same_response(server: Gunicorn, app: Flask, report: Report) -> None:
    """Eight copies of a request are sent at the same time: it takes effect once, and all responses are the same."""
    copies, groups = 8, 2
    postings = all_kinds_of_postings(server.url, scaled(500))
    with app.app_context():
        rows_before = db.session.scalar(text("SELECT COUNT(*) FROM transactions"))
    barriers = [threading.Barrier(copies, timeout=TIMEOUT) for _group in range(groups)]

    def send_all(number: int) -> tuple[list[Answer], Counter[str]]:
        group, clerk = number % groups, Clerk(f"copy-{number}", server.url, [])
        answers = []
        try:
            for posting in postings[group::groups]:
                barriers[group].wait()
                answer = clerk.send(posting)
                assert answer is not None
                answers.append(answer)
        except BaseException:
            barriers[group].abort()
            raise
        finally:
            clerk.client.connection.close()
        return answers, clerk.failures

    with ThreadPoolExecutor(copies * groups) as threads:
        sent = list(threads.map(send_all, range(copies * groups)))
    answers_by_key = [
        each for group in range(groups) for each in zip(*(answers for answers, _ in sent[group::groups]), strict=True)
    ]
    with app.app_context():
        rows = db.session.scalar(text("SELECT COUNT(*) FROM transactions")) - rows_before
    expected = sum(posting.rows for posting in postings)
    report(
        "Concurrent duplicate requests",
        keys=len(answers_by_key),
        requests=sum(map(len, answers_by_key)),
        retries=sum(failures.total() for _answers, failures in sent),
        extra_ledger_rows=rows - expected,
    )
    for answers in answers_by_key:
        assert {answer.status for answer in answers} <= {200, 201}, answers
        assert len({(answer.status, answer.content, answer.headers.get("Location")) for answer in answers}) == 1
        assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert rows == expected
    assert_consistent(app)


def all_kinds_of_postings(url: str, count: int) -> list[Posting]:
    """Requests of every kind that accepts a key, in turn. Creates the rows that they refer to."""
    product_ids = stock_products(url, 10)
    purchase = {"transaction_type": "purchase", "quantity": 3}
    lines = {"lines": [purchase | {"product_id": product_id} for product_id in product_ids[:3]]}
    with HttpClient(url) as client:
        category = client.get("/categories").json[0]

        def recorded(path: str, payload: Any, name: str) -> Any:
            return client.post(path, payload).json[name]

        def movement(key: str, product_id: int) -> Posting:
            return Posting.of(key, "/transactions", purchase | {"transaction_type": "sale", "product_id": product_id})

        def batch(key: str, _product_id: int) -> Posting:
            return Posting.of(key, "/transactions/batch", lines, 3)

        def count_of(key: str, product_id: int) -> Posting:
            return Posting.of(key, f"/products/{product_id}/counts", {"counted_quantity": STOCK})

        def reversal(key: str, product_id: int) -> Posting:
            row = recorded("/transactions", purchase | {"product_id": product_id}, "id")
            return Posting.of(key, f"/transactions/{row}/reversal", {})

        def batch_reversal(key: str, _product_id: int) -> Posting:
            batch_id = recorded("/transactions/batch", lines, "batch_id")
            return Posting.of(key, f"/transactions/batch/{batch_id}/reversal", {}, 3)

        def creation(key: str, _product_id: int) -> Posting:
            fields = {"sku": key, "name": key, "price": 12.5, "cost": 7, "category_id": category["id"]}
            return Posting.of(key, "/products", fields | {"quantity_on_hand": 5})

        def file(key: str, _product_id: int) -> Posting:
            rows = [f"{key}{end},{key},9.99,{category['name']},4" for end in "ab"]
            content = "\n".join(["sku,name,price,category,quantity_on_hand", *rows])
            return Posting(key, "/import/products", content.encode(), 2, "text/csv")

        kinds = cycle([movement, batch, count_of, reversal, batch_reversal, creation, file])
        return [
            make(f"storm-{number}", product_ids[number % 10]) for number, make in zip(range(count), kinds, strict=False)
        ]


def test_batches_in_random_order_cause_no_deadlock(server: Gunicorn, app: Flask, report: Report) -> None:
    """Batches, their reversals and imports lock the same products in random order: none is rejected or fails."""
    product_ids = stock_products(server.url, 15)
    # An import reads its file in chunks. With these rows it has several, each with products of the batches.
    others = [f"OTHER-{number}" for number in range(2 * CHUNK)]
    with HttpClient(server.url) as client:
        skus = {product["id"]: product["sku"] for product in client.get("/products").json}
        rows = [f"{sku},Other,1,Other,1" for sku in others]
        expect_success(client, "/import/products", file="\n".join(["sku,name,price,category,quantity_on_hand", *rows]))
    workers, wanted = 10, scaled(500)

    def record(number: int) -> Counter[str]:
        random, done = Random(number), Counter[str]()
        with HttpClient(server.url) as client:
            send = partial(expect_success, client)
            while done["batches"] < -(-wanted // workers):
                lines = random_lines(random, product_ids, skus)
                batch = send("/transactions/batch", json_lines=lines)
                done["batches"] += 1
                if random.random() < 0.2:
                    send(f"/transactions/batch/{batch['batch_id']}/reversal")
                    done["reversals"] += 1
                if random.random() < 0.05:
                    named = random.sample([*skus.values(), *others], len(skus) + len(others))
                    rows = [f"{sku},{random.randrange(10**6)}" for sku in named]
                    send("/import/products", file="\n".join(["sku,quantity_on_hand", *rows]))
                    done["imports"] += 1
        return done

    with ThreadPoolExecutor(workers) as threads:
        done = sum(threads.map(record, range(workers)), Counter[str]())
    server.stop()  # sessions of PostgreSQL report their last statistics when they end
    with app.app_context():
        deadlocks = count_deadlocks()
    report("Concurrent batches in random order", **done, deadlocks=deadlocks)
    assert deadlocks == 0
    assert_consistent(app)


def expect_success(
    client: HttpClient, path: str, *, json_lines: list[dict[str, Any]] | None = None, file: str | None = None
) -> Any:
    if file is not None:
        answer = client.post_csv(path, file)
    else:
        answer = client.post(path, {"lines": json_lines} if json_lines is not None else {})
    assert answer.status in {200, 201}, answer
    return answer.json


def random_lines(random: Random, product_ids: Sequence[int], skus: dict[int, str]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for product_id in random.sample(product_ids, 10):
        line = {"transaction_type": "purchase", "quantity": random.randrange(1, 5)}
        lines.append(line | random.choice([{"product_id": product_id}, {"sku": skus[product_id]}]))
    return lines


def count_deadlocks() -> int:
    if db.engine.dialect.name == "sqlite":
        return 0
    return int(db.session.scalar(text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")))
