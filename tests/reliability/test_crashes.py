"""Processes and links that die at any moment, while clients repeat what got no answer."""

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
from tests.reliability.audit import assert_feed_is_complete, assert_sound, audit, drift
from tests.reliability.cluster import BINARIES, Cluster
from tests.reliability.figures import Report, scaled
from tests.reliability.proxy import CommitCutter
from tests.reliability.traffic import Crew, FeedReader, stock_products
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

PRODUCTS = 20
BACK_WITHIN = 2.0
on_own_cluster = pytest.mark.parametrize("engine_name", ["postgresql"])


def test_killed_workers_lose_and_double_nothing(database_url: str, app: Flask, report: Report) -> None:
    """Workers die by kill -9 in the middle of requests: what was acknowledged is there, and nothing is there twice."""
    kills, acknowledged, random = scaled(100), scaled(10_000), Random(1)
    # The application is loaded before the fork, so that the bench does not spend its time on workers that start.
    with Gunicorn(database_url, workers=3, threads=4, GUNICORN_CMD_ARGS="--preload") as server:
        crew = Crew(server.url, stock_products(server.url, PRODUCTS), keyed=8, unkeyed=2)
        feed = FeedReader(server.url)
        with feed.reading(), crew.at_work():
            for kill in range(1, kills + 1):
                crew.wait_until_acknowledged(kill * acknowledged // kills)
                kill_a_busy_worker(server, crew, random)
        assert_feed_is_complete(app, feed)
    cut = crew.troubles["cut"]
    found = audit(app, crew.clerks)
    with app.app_context():
        apart = drift(db.session)
    report(
        "kill -9 of workers",
        kills=kills,
        requests_cut=cut,
        acknowledged=crew.acknowledged,
        by_replay=crew.replayed,
        lost=found.lost,
        twice=found.twice,
        drift=apart,
        seen_in_feed=len(feed.ids),
    )
    assert cut >= kills / 2
    found.assert_clean()
    assert_sound(app)


def kill_a_busy_worker(server: Gunicorn, crew: Crew, random: Random) -> None:
    """Kill one of the server's own workers that has a client on the line, as the system does when memory runs out."""
    busy: list[psutil.Process] = []

    def one_is_busy() -> bool:
        busy.extend(worker for worker in psutil.Process(server.process.pid).children() if has_client(worker, server))
        return bool(busy)

    crew.wait_until(one_is_busy)
    random.choice(busy).kill()


def has_client(worker: psutil.Process, server: Gunicorn) -> bool:
    try:
        links = worker.net_connections("tcp")
    except psutil.Error:  # it has ended meanwhile
        return False
    return any(link.status == psutil.CONN_ESTABLISHED and link.laddr.port == server.port for link in links)


@on_postgresql
def test_a_link_cut_at_commit_loses_and_doubles_nothing(database_url: str, app: Flask, report: Report) -> None:
    """The link to PostgreSQL drops just before COMMIT or just after: repeated requests still have one effect."""
    address, cuts = make_url(database_url), scaled(200)
    with CommitCutter((address.host or "127.0.0.1", address.port or 5432)) as cutter:
        unencrypted = {"sslmode": "disable", "gssencmode": "disable"}
        through = address.set(host="127.0.0.1", port=cutter.port).update_query_dict(unencrypted)
        with Gunicorn(through.render_as_string(hide_password=False)) as server:
            crew = Crew(server.url, stock_products(server.url, PRODUCTS), keyed=6, unkeyed=2)
            cutter.wanted = cuts
            with crew.at_work():
                crew.wait_until(lambda: cutter.cuts.total() >= cuts)
    found = audit(app, crew.clerks)
    with app.app_context():
        apart = drift(db.session)
    report(
        "COMMIT cut",
        cuts=cutter.cuts.total(),
        before=cutter.cuts["before"],
        after=cutter.cuts["after"],
        acknowledged=crew.acknowledged,
        by_replay=crew.replayed,
        lost=found.lost,
        twice=found.twice,
        drift=apart,
    )
    assert set(crew.troubles) == {"database_unavailable"}
    found.assert_clean()
    assert_sound(app)


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
def test_a_crashed_postgresql_is_used_again_as_soon_as_it_is_back(
    cluster: Cluster, cluster_database_url: str, report: Report
) -> None:
    """PostgreSQL ends sessions and crashes: 503 meanwhile, at work again within 2 s of its return, nothing lost."""
    restarts, ended, slowest = scaled(2), 0, 0.0
    app = create_app({"DATABASE_URL": cluster_database_url})
    with Gunicorn(cluster_database_url) as server:
        crew = Crew(server.url, stock_products(server.url, PRODUCTS), keyed=6, unkeyed=2)
        feed, workers = FeedReader(server.url), worker_pids(server)
        with feed.reading():
            for _restart in range(restarts):
                with crew.at_work():
                    for _time in range(3):
                        crew.wait_for_more(scaled(100))
                        ended += cluster.end_sessions()
                    crew.wait_for_more(scaled(100))
                    cluster.stop("immediate")
                    assert_unavailable(server)
                    returned = cluster.start()
                    crew.wait_for_more(scaled(100))
                    slowest = max(slowest, crew.served_again(returned) - returned)
        assert worker_pids(server) == workers
        assert_feed_is_complete(app, feed)
    found = audit(app, crew.clerks)
    with app.app_context():
        apart = drift(db.session)
    report(
        "PostgreSQL crashes",
        sessions_ended=ended,
        restarts=restarts,
        acknowledged=crew.acknowledged,
        by_replay=crew.replayed,
        lost=found.lost,
        twice=found.twice,
        drift=apart,
        seen_in_feed=len(feed.ids),
        seconds_to_return=round(slowest, 2),
    )
    assert slowest < BACK_WITHIN
    assert set(crew.troubles) == {"database_unavailable"}
    found.assert_clean()
    assert_sound(app)
    with app.app_context():
        db.engine.dispose()


def worker_pids(server: Gunicorn) -> set[int]:
    return {worker.pid for worker in psutil.Process(server.process.pid).children()}


def assert_unavailable(server: Gunicorn) -> None:
    """Every address that needs the database says so in the envelope; the process itself is well."""
    with HttpClient(server.url) as client:
        refused = [client.get("/products"), client.get("/health"), client.post("/categories", {"name": "Any"})]
        for answer in refused:
            assert (answer.status, answer.json["error"]) == (503, "database_unavailable"), answer
            assert int(answer.headers["Retry-After"]) > 0
        assert client.get("/health/live").status == 200


@on_own_cluster
def test_a_crash_that_nobody_was_there_to_see_fails_no_request_afterwards(
    cluster: Cluster, cluster_database_url: str, report: Report
) -> None:
    """PostgreSQL crashes and returns while no request comes: all those that come later are served, the first too."""
    clients = 16
    with Gunicorn(cluster_database_url) as server, ExitStack() as opened:
        product_ids = stock_products(server.url, clients)
        lines = [opened.enter_context(HttpClient(server.url)) for _client in range(clients)]
        threads = opened.enter_context(ThreadPoolExecutor(clients))
        sale = {"transaction_type": "sale", "quantity": 1}

        def read_and_sell(number: int) -> list[int]:
            read = lines[number].get(f"/products/{product_ids[number]}")
            sold = lines[number].post("/transactions", sale | {"product_id": product_ids[number]})
            return [read.status, sold.status]

        before = list(threads.map(read_and_sell, range(clients)))
        cluster.stop("immediate")
        returned = cluster.start()
        time.sleep(max(0, returned + BACK_WITHIN - time.monotonic()))  # the time that the promise allows
        after = list(threads.map(read_and_sell, range(clients)))
    failed = sum(statuses != [200, 201] for statuses in after)
    report("PostgreSQL crash unnoticed", requests=2 * clients, failed=failed)
    assert before == [[200, 201]] * clients
    assert failed == 0
