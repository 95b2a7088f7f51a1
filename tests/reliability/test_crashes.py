"""Processes and connections that fail at any time, while clients retry requests without a response."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from random import Random
from typing import TYPE_CHECKING

import psutil
import pytest
from sqlalchemy.engine import make_url

from inventory import create_app
from inventory.database.base import db
from tests.clients import HttpClient
from tests.conftest import migrate, on_postgresql
from tests.postgresql import Server, new_database
from tests.reliability.audit import assert_consistent, assert_feed_is_complete, audit, drift
from tests.reliability.cluster import BINARIES, Cluster
from tests.reliability.figures import Report, scaled
from tests.reliability.proxy import CommitDropper
from tests.reliability.traffic import Crew, FeedReader, stock_products
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

PRODUCTS = 20
BACK_WITHIN = 2.0
on_own_cluster = pytest.mark.parametrize("engine_name", ["postgresql"])


def test_killed_workers_lose_and_duplicate_nothing(database_url: str, app: Flask, report: Report) -> None:
    """Workers are killed during requests: every acknowledged movement is in the ledger, and none is there twice."""
    kills, acknowledged, random = scaled(100), scaled(10_000), Random(1)
    # The application is loaded before the fork, so that new workers start quickly.
    with Gunicorn(database_url, workers=3, threads=4, GUNICORN_CMD_ARGS="--preload") as server:
        crew = Crew(server.url, stock_products(server.url, PRODUCTS), keyed=8, unkeyed=2)
        feed = FeedReader(server.url)
        with feed.reading(), crew.running_requests():
            for kill in range(1, kills + 1):
                crew.wait_until_acknowledged(kill * acknowledged // kills)
                kill_a_busy_worker(server, crew, random)
        assert_feed_is_complete(app, feed)
    disconnected = crew.failures["disconnected"]
    found = audit(app, crew.clerks)
    with app.app_context():
        drift_units = drift(db.session)
    report(
        "Workers killed (SIGKILL)",
        kills=kills,
        requests_without_response=disconnected,
        acknowledged=crew.acknowledged,
        replayed=crew.replayed,
        lost=found.lost,
        duplicated=found.duplicated,
        drift=drift_units,
        in_feed=len(feed.ids),
    )
    assert disconnected >= kills / 2
    found.assert_clean()
    assert_consistent(app)


def kill_a_busy_worker(server: Gunicorn, crew: Crew, random: Random) -> None:
    """Kill a worker of this server that has a client connection, as the system does when memory runs out."""
    busy: list[psutil.Process] = []

    def one_is_busy() -> bool:
        busy.extend(worker for worker in psutil.Process(server.process.pid).children() if has_client(worker, server))
        return bool(busy)

    crew.wait_until(one_is_busy)
    random.choice(busy).kill()


def has_client(worker: psutil.Process, server: Gunicorn) -> bool:
    try:
        connections = worker.net_connections("tcp")
    except psutil.Error:  # it has ended in the meantime
        return False
    return any(
        connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == server.port
        for connection in connections
    )


@on_postgresql
def test_connection_lost_at_commit_loses_and_duplicates_nothing(database_url: str, app: Flask, report: Report) -> None:
    """The connection to PostgreSQL is lost just before or just after COMMIT: retried requests take effect once."""
    address, wanted = make_url(database_url), scaled(200)
    with CommitDropper((address.host or "127.0.0.1", address.port or 5432)) as dropper:
        unencrypted = {"sslmode": "disable", "gssencmode": "disable"}
        via_proxy = address.set(host="127.0.0.1", port=dropper.port).update_query_dict(unencrypted)
        with Gunicorn(via_proxy.render_as_string(hide_password=False)) as server:
            crew = Crew(server.url, stock_products(server.url, PRODUCTS), keyed=6, unkeyed=2)
            dropper.wanted = wanted
            with crew.running_requests():
                crew.wait_until(lambda: dropper.dropped.total() >= wanted)
    found = audit(app, crew.clerks)
    with app.app_context():
        drift_units = drift(db.session)
    report(
        "Connection lost at COMMIT",
        connections_lost=dropper.dropped.total(),
        before_commit=dropper.dropped["before"],
        after_commit=dropper.dropped["after"],
        acknowledged=crew.acknowledged,
        replayed=crew.replayed,
        lost=found.lost,
        duplicated=found.duplicated,
        drift=drift_units,
    )
    assert set(crew.failures) == {"database_unavailable"}
    found.assert_clean()
    assert_consistent(app)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if BINARIES is None:
        pytest.skip("needs initdb and pg_ctl of PostgreSQL on this machine")
    with Cluster() as running:
        yield running


@pytest.fixture
def cluster_database_url(cluster: Cluster) -> Iterator[str]:
    server = Server(cluster.url)
    with new_database(server) as name:
        migrate(server.url(name))
        yield server.url(name)


@on_own_cluster
def test_postgresql_crash_under_load_recovers_within_two_seconds(
    cluster: Cluster, cluster_database_url: str, report: Report
) -> None:
    """PostgreSQL terminates sessions and crashes: 503 until it is back, recovery within 2 s, nothing is lost."""
    restarts, terminated, slowest = scaled(2), 0, 0.0
    app = create_app({"DATABASE_URL": cluster_database_url})
    with Gunicorn(cluster_database_url) as server:
        crew = Crew(server.url, stock_products(server.url, PRODUCTS), keyed=6, unkeyed=2)
        feed, workers = FeedReader(server.url), worker_pids(server)
        with feed.reading():
            for _restart in range(restarts):
                with crew.running_requests():
                    for _round in range(3):
                        crew.wait_for_more(scaled(100))
                        terminated += cluster.terminate_sessions()
                    crew.wait_for_more(scaled(100))
                    cluster.stop("immediate")
                    assert_unavailable(server)
                    returned = cluster.start()
                    crew.wait_for_more(scaled(100))
                    slowest = max(slowest, crew.wait_for_recovery(returned) - returned)
        assert worker_pids(server) == workers
        assert_feed_is_complete(app, feed)
    found = audit(app, crew.clerks)
    with app.app_context():
        drift_units = drift(db.session)
    report(
        "PostgreSQL crash under load",
        sessions_terminated=terminated,
        restarts=restarts,
        acknowledged=crew.acknowledged,
        replayed=crew.replayed,
        lost=found.lost,
        duplicated=found.duplicated,
        drift=drift_units,
        in_feed=len(feed.ids),
        seconds_to_recover=round(slowest, 2),
    )
    assert slowest < BACK_WITHIN
    assert set(crew.failures) == {"database_unavailable"}
    found.assert_clean()
    assert_consistent(app)
    with app.app_context():
        db.engine.dispose()


def worker_pids(server: Gunicorn) -> set[int]:
    return {worker.pid for worker in psutil.Process(server.process.pid).children()}


def assert_unavailable(server: Gunicorn) -> None:
    """Endpoints that need the database return 503; the process itself is alive."""
    with HttpClient(server.url) as client:
        responses = [client.get("/products"), client.get("/health"), client.post("/categories", {"name": "Any"})]
        for answer in responses:
            assert (answer.status, answer.json["error"]) == (503, "database_unavailable"), answer
            assert int(answer.headers["Retry-After"]) > 0
        assert client.get("/health/live").status == 200


@on_own_cluster
def test_postgresql_crash_while_idle_fails_no_later_request(
    cluster: Cluster, cluster_database_url: str, report: Report
) -> None:
    """PostgreSQL crashes and returns while there are no requests: every later request succeeds, also the first."""
    clients = 16
    with Gunicorn(cluster_database_url) as server, ExitStack() as opened:
        product_ids = stock_products(server.url, clients)
        connections = [opened.enter_context(HttpClient(server.url)) for _client in range(clients)]
        threads = opened.enter_context(ThreadPoolExecutor(clients))
        sale = {"transaction_type": "sale", "quantity": 1}

        def read_and_sell(number: int) -> list[int]:
            read = connections[number].get(f"/products/{product_ids[number]}")
            sold = connections[number].post("/transactions", sale | {"product_id": product_ids[number]})
            return [read.status, sold.status]

        before = list(threads.map(read_and_sell, range(clients)))
        cluster.stop("immediate")
        returned = cluster.start()
        time.sleep(max(0, returned + BACK_WITHIN - time.monotonic()))  # the time that recovery may take
        after = list(threads.map(read_and_sell, range(clients)))
    failed = sum(statuses != [200, 201] for statuses in after)
    report("PostgreSQL crash while idle", requests=2 * clients, failed=failed)
    assert before == [[200, 201]] * clients
    assert failed == 0
