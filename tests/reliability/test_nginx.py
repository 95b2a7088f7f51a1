"""nginx before the service, under load: it is reloaded, a service is replaced, or a worker is killed."""

from __future__ import annotations

import socket
import sys
import time
from contextlib import ExitStack
from random import Random
from typing import TYPE_CHECKING, Self

import psutil

from tests.conftest import on_postgresql, on_sqlite
from tests.deploy.nginx import Nginx
from tests.reliability.audit import assert_consistent, audit
from tests.reliability.figures import Report, scaled
from tests.reliability.test_crashes import kill_a_busy_worker
from tests.reliability.test_reload import replaced_workers
from tests.reliability.traffic import Crew, stock_products
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Flask

WAIT = 60


def reload(nginx: Nginx, upstreams: list[str] | None = None) -> None:
    """Reload nginx, and wait until its old processes have finished their requests."""
    master = psutil.Process(nginx.process.pid)
    before = set(master.children())
    nginx.reload(upstreams)
    deadline = time.monotonic() + WAIT
    while before & set(master.children()) or not master.children():
        assert time.monotonic() < deadline, "nginx does not end its old processes"
        time.sleep(0.05)


@on_postgresql
def test_requests_survive_reloads_and_a_rolling_restart(
    database_url: str, app: Flask, tmp_path: Path, report: Report
) -> None:
    """Nginx is reloaded, workers are replaced by SIGHUP, and each of two services is taken out, restarted and put back.

    The clients open a new connection for each request, because nginx closes idle ones when it is reloaded.
    """
    rounds = scaled(1)
    with ExitStack() as servers:
        services = [servers.enter_context(Gunicorn(database_url)) for _ in range(2)]
        urls = [service.url for service in services]
        nginx = servers.enter_context(Nginx(tmp_path, urls))
        crew = Crew(nginx.url, stock_products(nginx.url, 5), keyed=4, unkeyed=4, reconnects=True)
        with crew.running_requests():
            for _round in range(rounds):
                crew.wait_for_more(100)
                reload(nginx)
                crew.wait_for_more(100)
                for service in services:
                    replaced_workers(service)
                crew.wait_for_more(100)
                for service, other in zip(services, reversed(urls), strict=True):
                    reload(nginx, [other])
                    service.stop()
                    crew.wait_for_more(50)
                    service.start()
                    reload(nginx, urls)
                    crew.wait_for_more(50)
    found = audit(app, crew.clerks)
    report(
        "nginx: reload, SIGHUP, rolling restart",
        rounds=rounds,
        requests_without_response=crew.failures["disconnected"],
        refused=crew.failures.total() - crew.failures["disconnected"],
        acknowledged=crew.acknowledged,
        lost=found.lost,
        duplicated=found.duplicated,
    )
    assert not crew.failures
    found.assert_clean()
    assert_consistent(app)


@on_postgresql
def test_killed_workers_behind_nginx_lose_and_duplicate_nothing(
    database_url: str, app: Flask, tmp_path: Path, report: Report
) -> None:
    """Nginx answers for a killed worker with 503, and repeats no movement."""
    kills, random = scaled(10), Random(1)
    with (
        Gunicorn(database_url, workers=3, threads=4, GUNICORN_CMD_ARGS="--preload") as gunicorn,
        Nginx(tmp_path, [gunicorn.url]) as nginx,
    ):
        crew = Crew(nginx.url, stock_products(nginx.url, 5), keyed=6, unkeyed=2)
        with crew.running_requests():
            for _kill in range(kills):
                crew.wait_for_more(50)
                kill_a_busy_worker(gunicorn, crew, random)
            crew.wait_for_more(50)
    found = audit(app, crew.clerks)
    report(
        "nginx: workers killed (SIGKILL)",
        kills=kills,
        refused=crew.failures["service_unavailable"],
        broken_off=crew.failures["disconnected"],
        acknowledged=crew.acknowledged,
        replayed=crew.replayed,
        lost=found.lost,
        duplicated=found.duplicated,
    )
    # A response that has begun breaks off.
    assert crew.failures.keys() <= {"service_unavailable", "disconnected"}
    found.assert_clean()
    assert_consistent(app)


# systemd passes sockets as the file descriptors from 3 on, and names the process that they are for.
START_AS_SYSTEMD = """
import os, sys
descriptor, *command = sys.argv[1:]
os.dup2(int(descriptor), 3)
os.execve(command[0], command, os.environ | {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
"""


class SocketActivated(Gunicorn):
    """A gunicorn that systemd starts with a listening socket: deploy/systemd/inventory.socket."""

    def __enter__(self) -> Self:
        self.socket = socket.create_server(("127.0.0.1", self.port), backlog=2048)
        return super().__enter__()

    def command(self) -> list[str]:
        return [sys.executable, "-c", START_AS_SYSTEMD, str(self.socket.fileno()), *super().command()]

    def descriptors(self) -> list[int]:
        return [self.socket.fileno()]

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.socket.close()


@on_sqlite
def test_requests_wait_while_systemd_restarts_the_service(database_url: str, app: Flask, report: Report) -> None:
    """The socket stays open during the restart of the only service: no request fails."""
    restarts = scaled(2)
    with SocketActivated(database_url) as service:
        crew = Crew(service.url, stock_products(service.url, 5), keyed=4, unkeyed=4, reconnects=True)
        with crew.running_requests():
            for _restart in range(restarts):
                crew.wait_for_more(100)
                service.stop()
                assert service.process.returncode == 0
                service.start()
            crew.wait_for_more(100)
    found = audit(app, crew.clerks)
    report(
        "Restart with a socket of systemd",
        restarts=restarts,
        requests_without_response=crew.failures["disconnected"],
        acknowledged=crew.acknowledged,
        lost=found.lost,
        duplicated=found.duplicated,
    )
    assert not crew.failures
    found.assert_clean()
    assert_consistent(app)
