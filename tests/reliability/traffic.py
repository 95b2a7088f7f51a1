"""Clients that move stock in every way and do not give up, and the reader of the feed that follows them."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from tests.clients import HttpClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.clients import Answer

PATIENCE = 60
PAUSE = 0.02
STOCK = 1_000_000
TEMPORARY = {"database_unavailable", "database_busy", "idempotency_in_progress"}


@dataclass(frozen=True)
class Posting:
    """A request that moves stock, the key that it is sent with, and how many rows it adds to the ledger."""

    key: str
    path: str
    content: bytes
    rows: int
    content_type: str = "application/json"

    @classmethod
    def of(cls, key: str, path: str, facts: Any, rows: int = 1) -> Posting:
        return cls(key, path, json.dumps(facts).encode(), rows)


def stock_products(url: str, count: int, quantity: int = STOCK) -> list[int]:
    """Create so many products with so much stock each, all in one new category. Returns their ids."""
    with HttpClient(url) as client:
        category = client.post("/categories", {"name": f"Category {time.monotonic_ns()}"}).json["id"]
        ids = []
        for number in range(count):
            sku = f"SKU-{category}-{number}"
            facts = {"sku": sku, "name": sku, "price": 10, "category_id": category, "quantity_on_hand": quantity}
            answer = client.post("/products", facts)
            assert answer.status == 201, answer.content
            ids.append(answer.json["id"])
        return ids


class Clerk:
    """A client that always has a next movement of stock to send, each with a key and reference of its own.

    ``keyed``: it sends a request again, with its key, until the service has answered it. Otherwise it sends neither
    key nor copy, and what got no answer is ``uncertain``. ``acknowledged`` holds the rows of the ledger that the
    service said it has written, by reference.
    """

    def __init__(self, name: str, url: str, product_ids: Sequence[int], *, keyed: bool = True) -> None:
        self.name = name
        self.keyed = keyed
        self.client = HttpClient(url)
        self.product_ids = product_ids
        self.random = Random(name)
        self.acknowledged: dict[str, list[dict[str, Any]]] = {}
        self.uncertain: dict[str, int] = {}
        self.replayed = 0
        self.troubles: Counter[str] = Counter()
        self.acknowledged_at: list[float] = []
        self.last_trouble = 0.0
        self.numbers = iter(range(10**9))
        self.own_rows: list[int] = []
        self.own_batches: list[tuple[str, int]] = []

    def work(self) -> None:
        """Move stock once."""
        posting = self.next_posting()
        answer = self.send(posting)
        if answer is None:
            self.uncertain[posting.key] = posting.rows
            return
        assert answer.status == 201, (posting, answer)
        self.replayed += "Idempotent-Replayed" in answer.headers
        facts = answer.json
        rows = facts.get("transactions", [facts])
        assert len(rows) == posting.rows, (posting, answer)
        self.acknowledged[posting.key] = rows
        self.acknowledged_at.append(time.monotonic())
        if posting.path == "/transactions":
            self.own_rows.append(facts["id"])
        elif posting.path == "/transactions/batch":
            self.own_batches.append((facts["batch_id"], posting.rows))

    def next_posting(self) -> Posting:
        key = f"{self.name}-{next(self.numbers)}"
        kind = self.random.randrange(20)
        if kind == 0 and self.own_rows:
            row = self.own_rows.pop(self.random.randrange(len(self.own_rows)))
            return Posting.of(key, f"/transactions/{row}/reversal", {"reference": key})
        if kind == 1 and self.own_batches:
            batch_id, rows = self.own_batches.pop(self.random.randrange(len(self.own_batches)))
            return Posting.of(key, f"/transactions/batch/{batch_id}/reversal", {"reference": key}, rows)
        if kind == 2:
            counted = STOCK + self.random.randrange(-1_000, 1_000)
            product_id = self.random.choice(self.product_ids)
            return Posting.of(key, f"/products/{product_id}/counts", {"counted_quantity": counted, "reference": key})
        if kind < 7:
            lines = [self.movement(key) for _line in range(self.random.randrange(2, 6))]
            return Posting.of(key, "/transactions/batch", {"lines": lines}, len(lines))
        return Posting.of(key, "/transactions", self.movement(key))

    def movement(self, reference: str) -> dict[str, Any]:
        return {
            "product_id": self.random.choice(self.product_ids),
            "transaction_type": self.random.choice(["sale", "purchase"]),
            "quantity": self.random.randrange(1, 10),
            "reference": reference,
        }

    def send(self, posting: Posting) -> Answer | None:
        """The service's answer; None if there was none that tells, and this client does not ask again."""
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self.send_once(posting)
            if answer is not None or not self.keyed:
                return answer
            assert time.monotonic() < deadline, f"{posting.key}: no answer in {PATIENCE} s; {dict(self.troubles)}"
            time.sleep(PAUSE)

    def send_once(self, posting: Posting) -> Answer | None:
        key = {"Idempotency-Key": posting.key} if self.keyed else {}
        try:
            answer = self.client.request("POST", posting.path, posting.content, posting.content_type, key)
        except (OSError, http.client.HTTPException):
            self.client.connection.close()
            self.note_trouble("cut")
            return None
        slug = answer.json.get("error")
        if slug in TEMPORARY:
            assert "Retry-After" in answer.headers, answer
            self.note_trouble(slug)
            return None
        return answer

    def note_trouble(self, kind: str) -> None:
        self.troubles[kind] += 1
        self.last_trouble = time.monotonic()


class Crew:
    """Clerks at work at the same time."""

    def __init__(self, url: str, product_ids: Sequence[int], *, keyed: int, unkeyed: int = 0) -> None:
        self.clerks = [Clerk(f"keyed-{number}", url, product_ids) for number in range(keyed)]
        self.clerks += [Clerk(f"unkeyed-{number}", url, product_ids, keyed=False) for number in range(unkeyed)]
        self.done = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Work while the block runs; then each finishes what it has begun. Raises what any of them ran into."""
        with ThreadPoolExecutor(len(self.clerks)) as threads:
            running = [threads.submit(self.work_until_done, clerk) for clerk in self.clerks]
            try:
                yield
            finally:
                self.done.set()
                for clerk in running:
                    clerk.result()
        self.done.clear()

    def work_until_done(self, clerk: Clerk) -> None:
        try:
            while not self.done.is_set():
                clerk.work()
        except BaseException:
            self.done.set()
            raise
        finally:
            clerk.client.connection.close()

    @property
    def acknowledged(self) -> int:
        return sum(len(clerk.acknowledged) for clerk in self.clerks)

    @property
    def replayed(self) -> int:
        return sum(clerk.replayed for clerk in self.clerks)

    @property
    def troubles(self) -> Counter[str]:
        return sum((clerk.troubles for clerk in self.clerks), Counter())

    def served_again(self, since: float) -> float:
        """Watch until everyone has an acknowledgement again. Returns when that was, or when there last was trouble."""
        self.wait_until(lambda: all(clerk.acknowledged_at[-1] > since for clerk in self.clerks))
        firsts = [next(moment for moment in clerk.acknowledged_at if moment > since) for clerk in self.clerks]
        return max(*firsts, *(clerk.last_trouble for clerk in self.clerks))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Watch the clerks work until the condition holds."""
        seen, deadline = self.acknowledged, time.monotonic() + PATIENCE
        while not condition():
            if self.done.is_set():  # one of them failed, and says how when the block ends
                raise RuntimeError("a clerk stopped working")
            if self.acknowledged > seen:
                seen, deadline = self.acknowledged, time.monotonic() + PATIENCE
            assert time.monotonic() < deadline, f"nothing recorded for {PATIENCE} s; {dict(self.troubles)}"
            time.sleep(0.005)

    def wait_until_acknowledged(self, count: int) -> None:
        self.wait_until(lambda: self.acknowledged >= count)

    def wait_for_more(self, count: int) -> None:
        self.wait_until_acknowledged(self.acknowledged + count)


class FeedReader:
    """Follows the feed while the block runs; ``ids`` are the rows in the order in which it shows them."""

    def __init__(self, url: str) -> None:
        self.client = HttpClient(url)
        self.ids: list[int] = []
        self.next_page = "/transactions/feed?limit=200"

    @contextmanager
    def reading(self) -> Iterator[None]:
        done = threading.Event()
        with ThreadPoolExecutor(1) as thread:
            following = thread.submit(self.follow, done)
            try:
                yield
            finally:
                done.set()
                following.result()

    def follow(self, done: threading.Event) -> None:
        try:
            while not done.wait(PAUSE):
                self.look()
        finally:
            self.client.connection.close()

    def read_to_the_end(self) -> None:
        while self.look() != 0:
            pass
        self.client.connection.close()

    def look(self) -> int | None:
        """Read the next page. Returns its length, or None if the service was not there to answer."""
        try:
            answer = self.client.get(self.next_page)
        except (OSError, http.client.HTTPException):
            self.client.connection.close()
            return None
        if answer.status == 503:
            return None
        assert answer.status == 200, answer
        self.ids += [row["id"] for row in answer.json]
        self.next_page = answer.headers["Link"].partition(">")[0][1:]
        return len(answer.json)
