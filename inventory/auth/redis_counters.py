"""Counts requests in Redis, for all workers together, on the clock of Redis."""

from __future__ import annotations

import logging
import time
from threading import Lock
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from inventory.auth.counters import WINDOW, Count, MemoryCounters

if TYPE_CHECKING:
    from collections.abc import Callable

# Redis answers within a millisecond. A request waits for it at most this long, and then nobody does for a while.
ANSWER_SECONDS = 0.05
BACK_OFF = 5.0
# One round trip. A time to live that is missing, or longer than the window, is left from a clock of Redis that jumped.
COUNT = """
local left = redis.call('PTTL', KEYS[1])
local window = tonumber(ARGV[1])
if left <= 0 or left > window then
    redis.call('SET', KEYS[1], 1, 'PX', window)
    return {1, window}
end
return {redis.call('INCR', KEYS[1]), left}
"""

logger = logging.getLogger(__name__)


class RedisCounters:
    """Counts of all workers that use one Redis. While it does not answer, each worker counts in its memory."""

    def __init__(self, url: str, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.redis = redis.Redis.from_url(
            url,
            socket_connect_timeout=ANSWER_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self.count = self.redis.register_script(COUNT)
        self.own = MemoryCounters(now)
        self.lock = Lock()
        # When to ask again. None while Redis answers.
        self.retry_at: float | None = None

    def add(self, name: str) -> Count:
        counted = self.count_in_redis(name)
        return self.own.add(name) if counted is None else Count(counted[0], counted[1] / 1_000)

    def state(self) -> str:
        """``redis``, or ``redis unreachable`` if it does not count. PING also succeeds if it is full or read-only."""
        return "redis unreachable" if self.count_in_redis("health") is None else "redis"

    def count_in_redis(self, name: str) -> Any:
        """The answer of Redis when it has counted. None if it does not answer, or did not a moment ago."""
        if not self.may_ask():
            return None
        try:
            answer = self.count(keys=[f"inventory:{name}"], args=[WINDOW * 1_000])
        except redis.RedisError as error:
            self.note_lost(error)
            return None
        if self.retry_at is not None:
            self.note_found()
        return answer

    def may_ask(self) -> bool:
        """Whether it is worth asking. While Redis is lost, one request at a time finds out."""
        if self.retry_at is None:
            return True
        with self.lock:
            if self.retry_at is not None and self.now() < self.retry_at:
                return False
            self.retry_at = self.now() + BACK_OFF
            return True

    def note_lost(self, error: redis.RedisError) -> None:
        with self.lock:
            was_known, self.retry_at = self.retry_at is not None, self.now() + BACK_OFF
        if not was_known:
            logger.warning("Redis does not count (%s). Each worker limits rates by itself.", type(error).__name__)

    def note_found(self) -> None:
        with self.lock:
            self.retry_at = None
        logger.warning("Redis counts again. Rates are limited for all workers together.")
