"""/metrics of a real gunicorn: sums over workers, which outlive each of them, and the directory of their files."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.clients import HttpClient, answer_to
from tests.exposition import Samples
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Eventually = Callable[[Callable[[], bool]], None]

pytestmark = pytest.mark.slow

FOLDERS = "inventory-metrics-*"


def gunicorn(database_url: str, parent: Path) -> Gunicorn:
    """A gunicorn of which only this test counts the requests, with its files in a directory of the test."""
    server = Gunicorn(database_url, workers=2)
    server.options += ["--worker-tmp-dir", str(parent)]
    return server


@pytest.fixture
def counted(database_url: str, tmp_path: Path) -> Iterator[Gunicorn]:
    with gunicorn(database_url, tmp_path) as running:
        yield running


def send(server: Gunicorn, requests: int) -> None:
    """Each on a connection of its own, so that all workers get some."""
    for _ in range(requests):
        with HttpClient(server.url) as client:
            assert client.get("/products").status == 200


def scrape(server: Gunicorn) -> Samples:
    with HttpClient(server.url) as client:
        answer = client.get("/metrics")
    assert answer.status == 200
    return Samples(answer.content.decode())


def count(server: Gunicorn) -> float:
    return scrape(server).value("inventory_http_requests_total", method="GET", route="/products", status="200")


def workers(server: Gunicorn) -> set[psutil.Process]:
    return set(psutil.Process(server.process.pid).children())


def replace_workers(server: Gunicorn, eventually: Eventually, replace: Callable[[set[psutil.Process]], None]) -> None:
    """Let ``replace`` end both workers, and wait until two new ones answer."""
    before, booted = workers(server), server.output().count("Booting worker")
    replace(before)
    eventually(lambda: server.output().count("Booting worker") == booted + 2)
    eventually(lambda: len(workers(server)) == 2 and not before & workers(server))


def kill(processes: set[psutil.Process]) -> None:
    for process in processes:
        process.kill()


def files(parent: Path) -> set[str]:
    (folder,) = parent.glob(FOLDERS)
    return {file.name for file in folder.iterdir()}


def test_counts_are_sums_over_workers(counted: Gunicorn, tmp_path: Path) -> None:
    send(counted, 40)
    assert {count(counted) for _ in range(10)} == {40}
    assert {"counter_0.db", "counter_1.db"} <= files(tmp_path)


def test_counts_stay_after_a_reload_and_after_killed_workers(
    counted: Gunicorn, eventually: Eventually, tmp_path: Path
) -> None:
    send(counted, 10)
    for number in range(1, 3):
        replace_workers(counted, eventually, lambda _old: counted.process.send_signal(signal.SIGHUP))
        send(counted, 10)
        assert count(counted) == 20 * number
        replace_workers(counted, eventually, kill)
        send(counted, 10)
        assert count(counted) == 20 * number + 10
    # Two workers, and two that they replaced in a reload.
    assert {name for name in files(tmp_path) if name.startswith("counter")} <= {
        f"counter_{slot}.db" for slot in range(4)
    }


def test_pools_are_those_of_live_workers(counted: Gunicorn, eventually: Eventually) -> None:
    def connections() -> float:
        found = scrape(counted)
        return sum(found.value("inventory_pool_connections", state=state) for state in ("in_use", "free"))

    eventually(lambda: connections() == 2 * 8)
    replace_workers(counted, eventually, lambda _old: counted.process.send_signal(signal.SIGHUP))
    eventually(lambda: connections() == 2 * 8)


def test_malformed_requests_are_counted(counted: Gunicorn) -> None:
    assert answer_to(counted.url, b"GET / HTTP/1.1\r\nX-API-Key x\r\n\r\n").status == 400
    found = scrape(counted)
    assert found.value("inventory_http_requests_total", method="other", route="malformed", status="400") == 1
    assert found.value("inventory_refusals_total", error="bad_request") == 1


def test_directory_is_removed_at_the_end(database_url: str, tmp_path: Path) -> None:
    with gunicorn(database_url, tmp_path) as server:
        assert len(list(tmp_path.glob(FOLDERS))) == 1
        server.stop()
        assert list(tmp_path.glob(FOLDERS)) == []


def test_directory_of_a_killed_master_is_removed_by_the_next(database_url: str, tmp_path: Path) -> None:
    with gunicorn(database_url, tmp_path) as killed:
        (abandoned,) = tmp_path.glob(FOLDERS)
        processes = workers(killed) | {psutil.Process(killed.process.pid)}
        kill(processes)
        psutil.wait_procs(processes, timeout=60)
        killed.process.wait(60)
        with gunicorn(database_url, tmp_path):
            assert abandoned not in tmp_path.glob(FOLDERS)


def test_directory_of_another_master_is_kept(counted: Gunicorn, database_url: str, tmp_path: Path) -> None:
    send(counted, 5)
    with gunicorn(database_url, tmp_path) as other:
        assert len(list(tmp_path.glob(FOLDERS))) == 2
        assert count(other) == 0
    assert count(counted) == 5
