"""The primary of PostgreSQL is lost, and a synchronous standby takes over: DATABASE_URL names both."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest

from inventory import create_app
from inventory.database.base import db
from tests.conftest import migrate
from tests.reliability.audit import assert_consistent, assert_feed_is_complete, audit
from tests.reliability.cluster import BINARIES, Cluster, Standby
from tests.reliability.figures import Report, scaled
from tests.reliability.test_crashes import on_own_cluster, worker_pids
from tests.reliability.traffic import Crew, FeedReader, stock_products
from tests.servers import Gunicorn, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

BACK_WITHIN = 30.0


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    if BINARIES is None:
        pytest.skip("needs initdb and pg_ctl of PostgreSQL on this machine")
    with ExitStack() as running:
        yield running


@on_own_cluster
def test_standby_takes_over_under_load(servers: ExitStack, report: Report) -> None:
    """The primary is killed and its standby promoted, several times: nothing is lost or doubled, and no restart."""
    failovers, slowest = scaled(2), 0.0
    primary = servers.enter_context(Cluster())
    other_port = free_port()
    with psycopg.connect(primary.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE inventory")
    hosts = "&".join(f"host=127.0.0.1:{port}" for port in (primary.port, other_port))
    url = f"postgresql://postgres@/inventory?{hosts}&target_session_attrs=read-write"
    migrate(url)
    with Gunicorn(url) as server:
        crew = Crew(server.url, stock_products(server.url, 5), keyed=6)
        feed, workers = FeedReader(server.url), worker_pids(server)
        with feed.reading():
            for _failover in range(failovers):
                standby = servers.enter_context(Standby(primary, other_port))
                with crew.running_requests():
                    crew.wait_for_more(scaled(200))
                    killed = time.monotonic()
                    primary.stop("immediate")
                    standby.promote()
                    # As a failover manager does for a primary without a standby.
                    standby.set("synchronous_standby_names", "")
                    crew.wait_for_more(scaled(200))
                    slowest = max(slowest, crew.wait_for_recovery(killed) - killed)
                primary, other_port = standby, primary.port
        assert worker_pids(server) == workers
        app = create_app({"DATABASE_URL": url})
        assert_feed_is_complete(app, feed)
    found = audit(app, crew.clerks)
    report(
        "Failover to a synchronous standby",
        failovers=failovers,
        acknowledged=crew.acknowledged,
        replayed=crew.replayed,
        lost=found.lost,
        duplicated=found.duplicated,
        seconds_without_writes=round(slowest, 2),
    )
    assert slowest < BACK_WITHIN
    assert set(crew.failures) <= {"database_unavailable"}
    found.assert_clean()
    assert_consistent(app)
    with app.app_context():
        db.engine.dispose()
