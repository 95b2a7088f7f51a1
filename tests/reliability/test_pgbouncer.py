"""The service behind PgBouncer in transaction mode: successive statements of a client use different sessions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url, text

from inventory import create_app
from inventory.database.base import db
from inventory.server.startup import warnings
from tests.clients import HttpClient
from tests.conftest import on_postgresql
from tests.pgbouncer import PROGRAM, SESSIONS, PgBouncer
from tests.reliability.audit import assert_consistent, assert_feed_is_complete, audit
from tests.reliability.figures import Report, scaled
from tests.reliability.traffic import Crew, FeedReader, stock_products
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

BOUNCED = {"INVENTORY_PGBOUNCER": "true"}


@pytest.fixture
def pgbouncer(database_url: str) -> Iterator[PgBouncer]:
    if PROGRAM is None:
        if os.environ.get("TEST_REQUIRE_TOOLS"):
            pytest.fail("pgbouncer is not installed")
        pytest.skip("pgbouncer is not installed")
    with PgBouncer(database_url) as running:
        yield running


def sessions(app: Flask) -> int:
    """The sessions of PostgreSQL on the database, without the one that asks."""
    asked = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
    with app.app_context():
        return int(db.session.scalar(asked))


def show_other_time_zone(app: Flask) -> None:
    """Make new sessions show other times, unless they say which zone they want."""
    with app.app_context(), db.engine.connect() as connection:
        connection.execute(
            text(f"ALTER DATABASE {make_url(app.config['DATABASE_URL']).database} SET timezone = 'Asia/Tokyo'")
        )


@on_postgresql
@pytest.mark.parametrize("behind", [False, True], ids=["directly", "behind PgBouncer"])
def test_times_are_utc_whatever_the_time_zone_of_the_database(app: Flask, pgbouncer: PgBouncer, behind: bool) -> None:
    show_other_time_zone(app)
    url, settings = (pgbouncer.url, BOUNCED) if behind else (app.config["DATABASE_URL"], {})
    other = create_app({"DATABASE_URL": url, **settings})
    made = other.test_client().post("/categories", json={"name": "Bolts"}).get_json()
    assert made["created_at"].endswith("+00:00")
    with other.app_context():
        db.engine.dispose()


@on_postgresql
def test_traffic_through_pgbouncer_is_complete(app: Flask, pgbouncer: PgBouncer, report: Report) -> None:
    """Many clients share few sessions: movements, batches, imports, exports and the feed."""
    show_other_time_zone(app)
    with Gunicorn(pgbouncer.url, INVENTORY_PGBOUNCER="true") as server:
        crew = Crew(server.url, stock_products(server.url, 5), keyed=6, unkeyed=2)
        feed = FeedReader(server.url)
        with feed.reading(), crew.running_requests(), HttpClient(server.url) as client:
            crew.wait_for_more(scaled(300))
            exported = client.get("/export/products")
            assert client.request("POST", "/import/products", exported.content, "text/csv").json["unchanged"] == 5
            shown = client.get("/transactions?limit=1").json[0]["created_at"]
            used = sessions(app)
            crew.wait_for_more(scaled(300))
        assert_feed_is_complete(app, feed)
    found = audit(app, crew.clerks)
    report(
        "PgBouncer, transaction mode",
        sessions=used,
        acknowledged=crew.acknowledged,
        lost=found.lost,
        duplicated=found.duplicated,
    )
    assert used <= SESSIONS + 1  # and one of this test's pool
    assert shown.endswith("+00:00")
    assert not crew.failures
    found.assert_clean()
    assert_consistent(app)


@on_postgresql
def test_missing_timeouts_are_reported(app: Flask, pgbouncer: PgBouncer) -> None:
    bounced = create_app({"DATABASE_URL": pgbouncer.url, **BOUNCED})
    with app.app_context():
        name = make_url(app.config["DATABASE_URL"]).database
        assert "ALTER DATABASE" in next(warnings(bounced))
        for setting in ("statement_timeout = '30s'", "lock_timeout = '5s'"):
            with db.engine.connect() as connection:
                connection.execute(text(f"ALTER DATABASE {name} SET {setting}"))
    with bounced.app_context():
        db.engine.dispose()
    with PgBouncer(app.config["DATABASE_URL"]) as restarted:
        bounced = create_app({"DATABASE_URL": restarted.url, **BOUNCED})
        assert "ALTER DATABASE" not in " ".join(warnings(bounced))
        with bounced.app_context():
            db.engine.dispose()
