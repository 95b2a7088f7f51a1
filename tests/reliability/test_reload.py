"""Deployments under load: new code and SIGHUP, or SIGTERM and a restart."""

from __future__ import annotations

import signal
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import psutil

from tests.clients import HttpClient
from tests.conftest import on_sqlite
from tests.reliability.audit import assert_consistent, audit
from tests.reliability.figures import Report, scaled
from tests.reliability.traffic import Crew, stock_products
from tests.servers import Gunicorn, checkout

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Flask

RELOAD_FAILED = "Reload failed: the service cannot start"


def release(folder: Path, old: str, new: str) -> None:
    """Change the name of the service in the code on disk."""
    info = folder / "inventory" / "web" / "openapi" / "info.py"
    code = info.read_text()
    assert f'"API_TITLE": "{old}"' in code
    info.write_text(code.replace(f'"API_TITLE": "{old}"', f'"API_TITLE": "{new}"'))


def name_served(server: Gunicorn) -> str:
    """The name that the service returns on a new connection."""
    with HttpClient(server.url) as client:
        return str(client.get("/").json["name"])


def test_sighup_serves_new_code_without_failed_requests(
    database_url: str, app: Flask, tmp_path: Path, report: Report
) -> None:
    """SIGHUP after a change of the code: the new code is served, and no request is rejected or loses its connection."""
    folder, deploys = checkout(tmp_path / "checkout"), scaled(1)
    with Gunicorn(database_url, folder=folder) as server:
        crew = Crew(server.url, stock_products(server.url, 5), keyed=4, unkeyed=4)
        names = ["Inventory", *(f"Release {number}" for number in range(1, deploys + 1))]
        with crew.running_requests():
            for old, new in pairwise(names):
                crew.wait_for_more(100)
                release(folder, old, new)
                server.process.send_signal(signal.SIGHUP)
                # Each call opens a new connection, which must be accepted as well.
                crew.wait_until(lambda name=new: {name_served(server) for _ in range(8)} == {name})  # type: ignore[misc]
            crew.wait_for_more(100)
    found = audit(app, crew.clerks)
    report(
        "Reload with new code (SIGHUP)",
        deployments=deploys,
        requests_without_response=crew.failures["disconnected"],
        acknowledged=crew.acknowledged,
        lost=found.lost,
        duplicated=found.duplicated,
    )
    assert crew.failures["disconnected"] == 0
    found.assert_clean()
    assert_consistent(app)


def test_sigterm_completes_requests_in_progress(database_url: str, app: Flask, report: Report) -> None:
    """SIGTERM and a restart: every recorded movement was acknowledged, and is in the ledger once."""
    restarts = scaled(1)
    with Gunicorn(database_url) as server:
        crew = Crew(server.url, stock_products(server.url, 5), keyed=4, unkeyed=4)
        with crew.running_requests():
            for _restart in range(restarts):
                crew.wait_for_more(100)
                server.stop()
                assert server.process.returncode == 0
                server.start()
            crew.wait_for_more(100)
    found = audit(app, crew.clerks)
    report(
        "Restart (SIGTERM)",
        restarts=restarts,
        acknowledged=crew.acknowledged,
        replayed=crew.replayed,
        lost=found.lost,
        duplicated=found.duplicated,
    )
    # A started request gets its response: none was recorded without one.
    assert crew.replayed == 0
    found.assert_clean()
    assert_consistent(app)


BROKEN = {
    "inventory/config.py": "raise ConfigError('inventory: cannot start: invalid setting: INVENTORY_NEW')",
    "inventory/web/docs.py": "this is not Python",
    "gunicorn.conf.py": "this is not Python",
}


def replaced_workers(server: Gunicorn) -> set[int]:
    """Send SIGHUP, and wait until only new workers are left."""
    master = psutil.Process(server.process.pid)
    before = {child.pid for child in master.children(recursive=True)}
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 120
    while len(now := {child.pid for child in master.children(recursive=True)}) != 2 or now & before:
        assert time.monotonic() < deadline, server.output()
        time.sleep(0.1)
    return now


@on_sqlite
def test_reload_replaces_all_workers_and_sigterm_ends_them(database_url: str) -> None:
    with Gunicorn(database_url, workers=2) as server:
        assert not replaced_workers(server) & replaced_workers(server)
        assert "Reload failed" not in server.output()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_sighup_is_ignored_when_new_code_cannot_start(database_url: str, tmp_path: Path) -> None:
    folder = checkout(tmp_path / "checkout")
    with Gunicorn(database_url, folder=folder) as server:
        crew = Crew(server.url, stock_products(server.url, 1), keyed=1)
        with crew.running_requests():
            for number, (file, code) in enumerate(BROKEN.items(), start=1):
                original = (folder / file).read_text()
                (folder / file).write_text(f"{original}\n{code}\n")
                server.process.send_signal(signal.SIGHUP)
                crew.wait_until(lambda count=number: server.output().count(RELOAD_FAILED) == count)  # type: ignore[misc]
                crew.wait_for_more(10)
                (folder / file).write_text(original)
            release(folder, "Inventory", "Fixed")
            server.process.send_signal(signal.SIGHUP)
            crew.wait_until(lambda: name_served(server) == "Fixed")
            crew.wait_for_more(10)
        assert not crew.failures
