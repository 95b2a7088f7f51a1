"""Concurrent clients that send every kind of stock movement and retry, and a reader that follows the feed."""

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
from urllib.parse import urlsplit

from tests.clients import HttpClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.clients import Answer

TIMEOUT = 60
PAUSE = 0.02
STOCK = 1_000_000
# The last one is the answer of nginx for a service that does not answer.
TEMPORARY = {"database_unavailable", "database_busy", "idempotency_in_progress", "service_unavailable"}


@dataclass(frozen=True)
class Posting:
    """A request that moves stock, its idempotency key, and the number of ledger rows that it writes."""

    key: str
    path: str
    content: bytes
    rows: int
    content_type: str = "application/json"

    @classmethod
    def of(cls, key: str, path: str, payload: Any, rows: int = 1) -> Posting:
        return cls(key, path, json.dumps(payload).encode(), rows)


def stock_products(url: str, count: int, quantity: int = STOCK) -> list[int]:
    """Create ``count`` products with ``quantity`` units each, in one new category. Returns their ids."""
    with HttpClient(url) as client:
        category = client.post("/categories", {"name": f"Category {time.monotonic_ns()}"}).json["id"]
        ids = []
        for number in range(count):
            sku = f"SKU-{category}-{number}"
            fields = {"sku": sku, "name": sku, "price": 10, "category_id": category, "quantity_on_hand": quantity}
            answer = client.post("/products", fields)
            assert answer.status == 201, answer.content
            ids.append(answer.json["id"])
        return ids


class Clerk:
    """A client that sends random stock movements, each with its own idempotency key and reference.

    ``keyed``: it retries a request with its key until it receives a response. Otherwise it sends no key and does not
    retry, and requests without a response are ``uncertain``. ``acknowledged`` has the ledger rows that the service
    returned, by reference. With ``reconnects`` it opens a new connection for each request.
    """

    def __init__(
        self, name: str, url: str, product_ids: Sequence[int], *, keyed: bool = True, reconnects: bool = False
    ) -> None:
        self.name = name
        self.keyed, self.reconnects = keyed, reconnects
        self.client = HttpClient(url)
        self.product_ids = product_ids
        self.random = Random(name)
        self.acknowledged: dict[str, list[dict[str, Any]]] = {}
        self.uncertain: dict[str, int] = {}
        self.replayed = 0
        self.failures: Counter[str] = Counter()
        self.acknowledged_at: list[float] = []
        self.last_failure = 0.0
        self.numbers = iter(range(10**9))
        self.own_rows: list[int] = []
        self.own_batches: list[tuple[str, int]] = []

    def send_next(self) -> None:
        """Send one movement."""
        posting = self.next_posting()
        answer = self.send(posting)
        if answer is None:
            self.uncertain[posting.key] = posting.rows
            return
        assert answer.status == 201, (posting, answer)
        self.replayed += "Idempotent-Replayed" in answer.headers
        content = answer.json
        rows = content.get("transactions", [content])
        assert len(rows) == posting.rows, (posting, answer)
        self.acknowledged[posting.key] = rows
        self.acknowledged_at.append(time.monotonic())
        if posting.path == "/transactions":
            self.own_rows.append(content["id"])
        elif posting.path == "/transactions/batch":
            self.own_batches.append((content["batch_id"], posting.rows))

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
        """The response. None if its outcome is unknown and this client does not retry."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            answer = self.send_once(posting)
            if answer is not None or not self.keyed:
                return answer
            assert time.monotonic() < deadline, f"{posting.key}: no answer in {TIMEOUT} s; {dict(self.failures)}"
            time.sleep(PAUSE)

    def send_once(self, posting: Posting) -> Answer | None:
        key = {"Idempotency-Key": posting.key} if self.keyed else {}
        try:
            answer = self.client.request("POST", posting.path, posting.content, posting.content_type, key)
            if self.reconnects:
                self.client.connection.close()
        except (OSError, http.client.HTTPException):
            self.client.connection.close()
            self.note_failure("disconnected")
            return None
        slug = answer.json.get("error")
        if slug in TEMPORARY:
            assert "Retry-After" in answer.headers, answer
            self.note_failure(slug)
            return None
        return answer

    def note_failure(self, kind: str) -> None:
        self.failures[kind] += 1
        self.last_failure = time.monotonic()


class Crew:
    """Clerks that send requests concurrently."""

    def __init__(
        self, url: str, product_ids: Sequence[int], *, keyed: int, unkeyed: int = 0, reconnects: bool = False
    ) -> None:
        kinds = [("keyed", number) for number in range(keyed)] + [("unkeyed", number) for number in range(unkeyed)]
        self.clerks = [
            Clerk(f"{kind}-{number}", url, product_ids, keyed=kind == "keyed", reconnects=reconnects)
            for kind, number in kinds
        ]
        self.done = threading.Event()

    @contextmanager
    def running_requests(self) -> Iterator[None]:
        """Send requests while the block runs, then finish those in progress. Raises the error of any clerk."""
        with ThreadPoolExecutor(len(self.clerks)) as threads:
            running = [threads.submit(self.send_until_done, clerk) for clerk in self.clerks]
            try:
                yield
            finally:
                self.done.set()
                for clerk in running:
                    clerk.result()
        self.done.clear()

    def send_until_done(self, clerk: Clerk) -> None:
        try:
            while not self.done.is_set():
                clerk.send_next()
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
    def failures(self) -> Counter[str]:
        return sum((clerk.failures for clerk in self.clerks), Counter())

    def wait_for_recovery(self, since: float) -> float:
        """Wait until every clerk has an acknowledgement again. Returns the time of that, or of the last failure."""
        self.wait_until(lambda: all(clerk.acknowledged_at[-1] > since for clerk in self.clerks))
        firsts = [next(at for at in clerk.acknowledged_at if at > since) for clerk in self.clerks]
        return max(*firsts, *(clerk.last_failure for clerk in self.clerks))

    def wait_until_all_failed(self, since: float) -> None:
        """Wait until a request of every clerk has failed after that time."""
        deadline = time.monotonic() + TIMEOUT
        while not all(clerk.last_failure > since for clerk in self.clerks):
            assert time.monotonic() < deadline, f"a clerk had no failure for {TIMEOUT} s; {dict(self.failures)}"
            time.sleep(0.005)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds, while the clerks send requests."""
        seen, deadline = self.acknowledged, time.monotonic() + TIMEOUT
        while not condition():
            if self.done.is_set():  # a clerk failed; its error is raised at the end of the block
                raise RuntimeError("a clerk stopped working")
            if self.acknowledged > seen:
                seen, deadline = self.acknowledged, time.monotonic() + TIMEOUT
            assert time.monotonic() < deadline, f"nothing recorded for {TIMEOUT} s; {dict(self.failures)}"
            time.sleep(0.005)

    def wait_until_acknowledged(self, count: int) -> None:
        self.wait_until(lambda: self.acknowledged >= count)

    def wait_for_more(self, count: int) -> None:
        self.wait_until_acknowledged(self.acknowledged + count)


class FeedReader:
    """Follows the feed while the block runs. ``ids`` are the ids of its rows, in the order of the feed."""

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
                self.read_page()
        finally:
            self.client.connection.close()

    def read_to_the_end(self) -> None:
        while self.read_page() != 0:
            pass
        self.client.connection.close()

    def read_page(self) -> int | None:
        """Read the next page. Returns its length, or None if the service was unavailable."""
        try:
            answer = self.client.get(self.next_page)
        except (OSError, http.client.HTTPException):
            self.client.connection.close()
            return None
        if answer.status == 503:
            return None
        assert answer.status == 200, answer
        self.ids += [row["id"] for row in answer.json]
        address = urlsplit(answer.headers["Link"].partition(">")[0][1:])
        self.next_page = f"{address.path}?{address.query}"
        return len(answer.json)
