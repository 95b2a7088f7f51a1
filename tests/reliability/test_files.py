"""The database file of a running service: backups, a file that is missing, a shutdown; and dumps of PostgreSQL."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import select

from inventory import create_app
from inventory.database.base import db, engine_of
from inventory.database.sqlite_file import with_suffix
from inventory.models.transaction import Transaction
from tests.builders import listed
from tests.clients import HttpClient
from tests.commands import flask
from tests.conftest import on_postgresql, on_sqlite
from tests.postgresql import Server, new_database
from tests.reliability.audit import assert_consistent, audit, drift, rows_by_reference
from tests.reliability.cluster import BINARIES, Cluster
from tests.reliability.figures import scaled
from tests.reliability.traffic import Crew, stock_products
from tests.servers import ROOT, Gunicorn
from tests.sessions import fenced

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

    from tests.reliability.figures import Report

PRODUCTS = 20
UNAVAILABLE = (503, "database_unavailable")


@pytest.fixture
def database(database_url: str) -> Path:
    return Path(database_url.removeprefix("sqlite:///"))


def acknowledged(crew: Crew) -> dict[str, int]:
    """The number of acknowledged rows so far, by reference."""
    return {reference: len(rows) for clerk in crew.clerks for reference, rows in clerk.acknowledged.copy().items()}


def lost_from(app: Flask, expected: dict[str, int]) -> int:
    written = rows_by_reference(app)
    return sum(len(written.get(reference, ())) < rows for reference, rows in expected.items())


@on_sqlite
def test_backup_under_load_contains_all_earlier_movements(database_url: str, database: Path, report: Report) -> None:
    """A backup during constant writes ends soon, blocks no writer, and contains every earlier movement."""
    copy = with_suffix(database, ".backup")
    with Gunicorn(database_url) as server:
        crew = Crew(server.url, stock_products(server.url, PRODUCTS), keyed=8)
        with crew.running_requests():
            crew.wait_for_more(scaled(300))
            expected, started = acknowledged(crew), time.monotonic()
            flask(database_url, "backup", str(copy))
            ended = time.monotonic()
            crew.wait_for_more(scaled(100))
        times = sorted(timestamp for clerk in crew.clerks for timestamp in clerk.acknowledged_at)
    concurrent = [timestamp for timestamp in times if started <= timestamp <= ended]
    pauses = [later - earlier for earlier, later in pairwise(concurrent)]
    app = create_app({"DATABASE_URL": f"sqlite:///{copy}"})
    lost = lost_from(app, expected)
    report(
        "SQLite: backup under load",
        seconds_for_backup=round(ended - started, 1),
        concurrent_movements=len(concurrent),
        ms_longest_pause=round(1_000 * max(pauses, default=0)),
        lost=lost,
    )
    assert concurrent
    assert lost == 0
    assert not crew.failures
    assert_consistent(app)
    engine_of(app).dispose()


def move(path: Path) -> Callable[[], object]:
    moved = path.rename(with_suffix(path, ".moved"))
    return lambda: moved.rename(path)


def replace(path: Path) -> Callable[[], object]:
    moved = with_suffix(path, ".moved")
    other = shutil.copy(path, with_suffix(path, ".other"))
    moved.hardlink_to(path)
    Path(other).replace(path)
    return lambda: moved.replace(path)


def delete(path: Path) -> Callable[[], object]:
    """As rm does, but the file keeps another name, under which the test can restore it."""
    moved = with_suffix(path, ".moved")
    moved.hardlink_to(path)
    path.unlink()
    return lambda: moved.rename(path)


def delete_wal(path: Path) -> Callable[[], object]:
    return delete(with_suffix(path, "-wal"))


@on_sqlite
@pytest.mark.parametrize("displace", [move, replace, delete, delete_wal])
def test_missing_database_file_is_detected_and_loses_nothing(
    database_url: str, database: Path, report: Report, displace: Callable[[Path], Callable[[], object]]
) -> None:
    """The file is missing under load: nothing is acknowledged until it is back, and then nothing is lost."""
    with Gunicorn(database_url) as server:
        crew = Crew(server.url, stock_products(server.url, PRODUCTS), keyed=6, unkeyed=2)
        with crew.running_requests():
            crew.wait_for_more(scaled(200))
            restore = displace(database)
            displaced_at = time.monotonic()
            crew.wait_until_all_failed(displaced_at)
            before = crew.acknowledged
            with HttpClient(server.url) as client:
                health = client.get("/health")
            time.sleep(0.5)
            after = crew.acknowledged
            restore()
            crew.wait_for_more(scaled(100))
        output = server.output()
    app = create_app({"DATABASE_URL": database_url})
    found = audit(app, crew.clerks)
    with app.app_context():
        drift_units = drift(db.session)
    report(
        f"SQLite: database file missing ({displace.__name__.replace('_', ' ')})",
        rejected=crew.failures["database_unavailable"],
        acknowledged_while_missing=after - before,
        lost=found.lost,
        duplicated=found.duplicated,
        drift=drift_units,
    )
    assert after == before
    assert (health.status, health.json["error"]) == UNAVAILABLE
    assert 1 <= output.count("was moved, replaced or deleted") <= 2  # once in each worker
    found.assert_clean()
    assert_consistent(app)
    engine_of(app).dispose()


@on_sqlite
def test_shutdown_under_load_leaves_one_complete_file(database_url: str, database: Path, report: Report) -> None:
    """SIGTERM under load: the last worker leaves no -wal and no -shm, so that the file alone is complete."""
    app = create_app({"DATABASE_URL": database_url})
    server = Gunicorn(database_url)
    server.start()
    crew = Crew(server.url, stock_products(server.url, PRODUCTS), keyed=0, unkeyed=8)
    with crew.running_requests():
        crew.wait_for_more(scaled(100))
        server.process.send_signal(signal.SIGTERM)
    server.stop()
    left = {path.name for path in database.parent.iterdir()} - {database.name}
    found = audit(app, crew.clerks)
    report("SQLite: shutdown under load", acknowledged=crew.acknowledged, files_left=len(left), lost=found.lost)
    assert left == set()
    found.assert_clean()
    engine_of(app).dispose()


def documented_sql() -> str:
    """The statement in docs/operations.md for a dump that is restored into another cluster."""
    (statement,) = (found for found in fenced((ROOT / "docs" / "operations.md").read_text(), "sql") if "xid" in found)
    return statement


def program(name: str) -> str:
    assert BINARIES is not None
    return shutil.which(name) or str(BINARIES / name)


def ids_in_feed(app: Flask) -> set[int]:
    return {row["id"] for row in listed(app.test_client().get("/transactions/feed?limit=1000"))}


@on_postgresql
@pytest.mark.skipif(BINARIES is None, reason="needs the programs of PostgreSQL on this machine")
def test_pg_dump_under_load_is_complete_in_another_cluster(database_url: str, tmp_path: Path, report: Report) -> None:
    """pg_dump during constant writes: restored as documented, it contains every earlier movement."""
    dump = tmp_path / "inventory.dump"
    with Gunicorn(database_url) as server:
        crew = Crew(server.url, stock_products(server.url, PRODUCTS), keyed=8)
        with crew.running_requests():
            crew.wait_for_more(scaled(200))
            expected, started = acknowledged(crew), time.monotonic()
            subprocess.run([program("pg_dump"), "--format=custom", f"--file={dump}", database_url], check=True)
            seconds = time.monotonic() - started
            crew.wait_for_more(scaled(100))
    with Cluster() as cluster, new_database(Server(cluster.url)) as name:
        restored = Server(cluster.url).url(name)
        options = ["--exit-on-error", "--no-owner", f"--dbname={restored}"]
        subprocess.run([program("pg_restore"), *options, dump], check=True)
        with psycopg.connect(restored) as connection:
            connection.execute(documented_sql().encode())
        app = create_app({"DATABASE_URL": restored})
        with app.app_context():
            written = set(db.session.scalars(select(Transaction.id)))
        lost, seen = lost_from(app, expected), ids_in_feed(app)
        report("PostgreSQL: pg_dump under load", seconds_for_dump=round(seconds, 1), rows=len(written), lost=lost)
        assert lost == 0
        assert seen == set(sorted(written)[:1000])
        assert_consistent(app)
        engine_of(app).dispose()
