"""Counts requests in windows of one minute, on the monotonic clock, which does not jump."""

from __future__ import annotations

import time
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = 60  # seconds
# Names counted at the same time. With more, all start again from zero, so that memory is bounded.
MAX_NAMES = 100_000


class Count(NamedTuple):
    """The requests in the current window, and the seconds until the next one."""

    number: int
    seconds: float


class Counters(Protocol):
    def add(self, name: str) -> Count:
        """Count a request."""

    def state(self) -> str:
        """Where requests are counted, for /health."""


class MemoryCounters:
    """Counts of this worker."""

    def __init__(self, now: Callable[[], float] = time.monotonic, max_names: int = MAX_NAMES) -> None:
        self.now, self.max_names = now, max_names
        self.counts: dict[str, int] = {}
        self.ends = 0.0
        self.lock = Lock()

    def add(self, name: str) -> Count:
        with self.lock:
            left = self.begin_window()
            number = self.counts.get(name, 0) + 1
            if number == 1 and len(self.counts) >= self.max_names:
                self.counts.clear()
            self.counts[name] = number
        return Count(number, left)

    def read(self, name: str) -> Count:
        """The count, without a further request."""
        with self.lock:
            left = self.begin_window()
            return Count(self.counts.get(name, 0), left)

    def begin_window(self) -> float:
        """Begin the next window if this one is over. Returns the seconds left."""
        now = self.now()
        if now >= self.ends:
            self.counts.clear()
            self.ends = now + WINDOW
        return self.ends - now

    def state(self) -> str:
        return "memory"


def counters(url: str | None) -> Counters:
    """Without Redis its module is not loaded, which takes 0.1 s."""
    if url is None:
        return MemoryCounters()
    counted: Counters = import_module("inventory.auth.redis_counters").RedisCounters(url)
    return counted
