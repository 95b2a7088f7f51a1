from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from inventory.auth.counters import WINDOW, Count, MemoryCounters
from inventory.auth.redis_counters import BACK_OFF, RedisCounters
from tests.redis_servers import RedisServer, closed_port, needs_redis, redis_server, silent_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.auth.clock import Clock


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


def test_memory_counts_each_name_until_the_window_ends(clock: Clock) -> None:
    counters = MemoryCounters(clock.monotonic)
    assert [counters.add("a"), counters.add("a"), counters.add("b")] == [Count(1, 60), Count(2, 60), Count(1, 60)]
    clock.seconds += WINDOW - 1
    assert counters.add("a") == Count(3, 1)
    clock.seconds += 1
    assert counters.add("a") == Count(1, 60)


def test_memory_reads_without_counting(clock: Clock) -> None:
    counters = MemoryCounters(clock.monotonic)
    counters.add("a")
    assert [counters.read("a"), counters.read("a"), counters.read("b")] == [Count(1, 60), Count(1, 60), Count(0, 60)]
    clock.seconds += WINDOW
    assert counters.read("a") == Count(0, 60)


def test_memory_of_names_is_bounded(clock: Clock) -> None:
    counters = MemoryCounters(clock.monotonic, max_names=100)
    for number in range(1_000):
        counters.add(str(number))
        assert len(counters.counts) <= 100


def test_memory_loses_no_count_of_concurrent_requests(clock: Clock) -> None:
    counters = MemoryCounters(clock.monotonic)
    with ThreadPoolExecutor(8) as pool:
        numbers = [count.number for count in pool.map(counters.add, ["a"] * 2_000)]
    assert sorted(numbers) == list(range(1, 2_001))


@needs_redis
def test_redis_counts_for_all_workers(running: RedisServer) -> None:
    one, two = RedisCounters(running.url), RedisCounters(running.url)
    counts = [worker.add("shared") for worker in (one, two, one)]
    assert [count.number for count in counts] == [1, 2, 3]
    assert all(0 < count.seconds <= WINDOW for count in counts)
    assert one.state() == "redis"


@needs_redis
def test_redis_is_asked_once_for_each_request(running: RedisServer) -> None:
    counters = RedisCounters(running.url)
    counters.add("once")  # connects, and loads the script
    before = running.client.info("stats")["total_commands_processed"]
    for _ in range(10):
        counters.add("once")
    sent_by_scripts = running.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    counters.add("once")
    after = running.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert after == sent_by_scripts + 1
    # EVALSHA, PTTL and INCR of each; the two INFO of this test.
    assert running.client.info("stats")["total_commands_processed"] - before <= 3 * 11 + 4


@needs_redis
def test_redis_forgets_a_name_when_its_window_ends(running: RedisServer) -> None:
    counters = RedisCounters(running.url)
    counters.add("expiring")
    assert 0 < int(running.client.pttl("inventory:expiring")) <= WINDOW * 1_000
    running.client.pexpire("inventory:expiring", 1)
    while running.client.exists("inventory:expiring"):
        pass
    assert counters.add("expiring").number == 1


@needs_redis
@pytest.mark.parametrize("left", [None, 3_600])
def test_redis_begins_a_window_after_a_jump_of_its_clock(running: RedisServer, left: int | None) -> None:
    """A clock set back leaves keys that would live for an hour; others could have no time to live."""
    running.client.set("inventory:jumped", 1_000_000, ex=left)
    count = RedisCounters(running.url).add("jumped")
    assert (count.number, count.seconds) == (1, WINDOW)
    assert 0 < int(running.client.pttl("inventory:jumped")) <= WINDOW * 1_000


@needs_redis
def test_flushed_redis_counts_from_zero(running: RedisServer) -> None:
    counters = RedisCounters(running.url)
    assert [counters.add("flushed").number for _ in range(3)] == [1, 2, 3]
    running.client.flushall()
    running.client.script_flush()
    assert counters.add("flushed").number == 1
    assert counters.state() == "redis"


@needs_redis
def test_restarted_redis_is_used_again_after_the_back_off(
    running: RedisServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    counters = RedisCounters(running.url, clock.monotonic)
    counters.add("restarted")
    running.stop()
    with caplog.at_level(logging.WARNING):
        assert [counters.add("restarted").number for _ in range(3)] == [1, 2, 3]
    assert len(caplog.records) == 1
    assert counters.state() == "redis unreachable"
    running.start()
    assert counters.add("restarted").number == 4
    clock.seconds += BACK_OFF
    assert counters.add("restarted").number == 1
    assert counters.state() == "redis"


@needs_redis
def test_key_of_another_type_is_counted_in_memory(running: RedisServer, clock: Clock) -> None:
    running.client.lpush("inventory:list", "x")
    running.client.expire("inventory:list", 30)
    assert [RedisCounters(running.url, clock.monotonic).add("list").number for _ in range(2)] == [1, 1]


@needs_redis
def test_full_redis_counts_in_memory_and_its_state_says_so(running: RedisServer, clock: Clock) -> None:
    counters = RedisCounters(running.url, clock.monotonic)
    running.client.config_set("maxmemory", 1)
    assert [counters.add("a").number for _ in range(2)] == [1, 2]
    clock.seconds += BACK_OFF
    assert counters.state() == "redis unreachable"
    running.client.config_set("maxmemory", 0)
    clock.seconds += BACK_OFF
    assert counters.state() == "redis"


@pytest.mark.parametrize("kind", ["down", "slow"])
def test_unreachable_redis_counts_in_memory_and_is_asked_rarely(
    kind: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with silent_server() as silent:
        counters = RedisCounters(silent if kind == "slow" else closed_port(), clock.monotonic)
        with caplog.at_level(logging.WARNING):
            assert [counters.add("a").number for _ in range(100)] == list(range(1, 101))
        with mock.patch.object(counters, "count", wraps=counters.count) as count:
            assert [counters.state(), counters.state()] == ["redis unreachable"] * 2
            assert count.call_count == 0
            clock.seconds += BACK_OFF
            assert [counters.state(), counters.state()] == ["redis unreachable"] * 2
            assert count.call_count == 1
        assert len(caplog.records) == 1


def test_back_off_lets_one_request_at_a_time_ask(clock: Clock) -> None:
    counters = RedisCounters(closed_port(), clock.monotonic)
    counters.add("a")
    clock.seconds += BACK_OFF
    assert [counters.may_ask(), counters.may_ask()] == [True, False]
