"""The commands of the image, as process 1 of a container runs them. `make try-image` runs the image itself."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import pytest
from sqlalchemy import inspect
from sqlalchemy.engine import make_url

from inventory import create_app
from inventory.database.base import db
from inventory.database.engines import WRITE, begin_migration
from tests.conftest import migrate, on_postgresql
from tests.reliability.proxy import CommitDropper
from tests.servers import ROOT, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

# A process namespace of its own, whose first process is process 1, as in a container.
AS_PROCESS_1 = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]

DOCKER_KILLS_AFTER = 10  # seconds after SIGTERM


def can_unshare() -> bool:
    try:
        return subprocess.run([*AS_PROCESS_1, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not can_unshare(), reason="no process namespaces can be made here")]


def command_of_image() -> list[str]:
    (line,) = re.findall(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    command: list[str] = json.loads(line)
    return command


@contextmanager
def process_1(command: list[str], database_url: str) -> Iterator[tuple[psutil.Process, subprocess.Popen[bytes]]]:
    """Process 1, which runs the command, and the outer process that exits with its status."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = {"DATABASE_URL": database_url, "FLASK_APP": "wsgi", "INVENTORY_WORKERS": "1", "PATH": path}
    settings |= {"INVENTORY_BUSY_TIMEOUT_MS": "60000"}  # longer than any test waits
    with subprocess.Popen([*AS_PROCESS_1, *command], cwd=ROOT, env=os.environ | settings) as outside:
        try:
            yield descendant(outside.pid, *command[1:]), outside
        finally:
            outside.kill()


class Service(NamedTuple):
    first: psutil.Process
    outside: subprocess.Popen[bytes]
    port: int

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body, after the service has started."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            deadline = time.monotonic() + 120
            while connection.sock is None:
                assert self.outside.poll() is None
                assert time.monotonic() < deadline
                with suppress(ConnectionRefusedError):
                    connection.connect()
                time.sleep(0.02)
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())


@contextmanager
def service(database_url: str) -> Iterator[Service]:
    """The Dockerfile's command, on another address."""
    port = free_port()
    command = [part.replace("0.0.0.0:8000", f"127.0.0.1:{port}") for part in command_of_image()]
    with process_1(command, database_url) as (first, outside):
        yield Service(first, outside, port)


def await_handler(process: psutil.Process) -> None:
    """Wait until a process handles SIGTERM."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
        if int(caught, 16) & 1 << signal.SIGTERM - 1:
            return
        time.sleep(0.02)
    raise AssertionError("SIGTERM is ignored")


def descendant(pid: int, *words: str) -> psutil.Process:
    """Wait for a descendant process with these words in its command."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):  # it has ended since
                if set(words) <= set(process.cmdline()):
                    return process
        time.sleep(0.02)
    raise AssertionError(f"no process {words}")


@pytest.mark.parametrize("seconds", [0, 1.5], ids=["while it starts", "while it waits"])
def test_sigterm_during_migration_exits_and_changes_nothing(empty_database_url: str, seconds: float) -> None:
    app = create_app({"DATABASE_URL": empty_database_url})
    with app.app_context():
        with db.engine.connect().execution_options(**WRITE) as connection, connection.begin():
            begin_migration(connection)  # as another container, which this one waits for
            with process_1(["flask", "db", "upgrade"], empty_database_url) as (migration, outside):
                await_handler(migration)
                time.sleep(seconds)
                migration.send_signal(signal.SIGTERM)
                assert outside.wait(60) == 128 + signal.SIGTERM
        assert inspect(db.engine).get_table_names() == []
        db.engine.dispose()
    migrate(empty_database_url)


def test_sigterm_during_gunicorn_start_exits(database_url: str) -> None:
    with service(database_url) as (first, outside, _port):
        descendant(first.pid, "inventory.server.startup")
        first.send_signal(signal.SIGTERM)
        assert outside.wait(60) == 128 + signal.SIGTERM


def test_sigterm_gives_up_a_stalled_upload_and_exits_with_0(database_url: str) -> None:
    command = command_of_image()
    limit = int(command[command.index("--graceful-timeout") + 1])
    assert limit <= DOCKER_KILLS_AFTER - 2  # the rest is for the end of the workers and of the master
    with service(database_url) as running, stalled_upload(running) as client:
        stopped = time.monotonic()
        running.first.send_signal(signal.SIGTERM)
        # On a slow machine, the rest takes longer.
        assert running.outside.wait(limit + 60) == 0
        assert time.monotonic() - stopped >= limit - 1, "it was not given the time to complete"
        assert client.recv(1) == b""


@contextmanager
def stalled_upload(running: Service) -> Iterator[socket.socket]:
    """A client that has sent half of an import, which the service waits for."""
    assert running.get("/health/live") == (200, {"status": "ok"})
    with socket.create_connection(("127.0.0.1", running.port), timeout=60) as client:
        head = "POST /import/products HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        client.sendall(f"{head}Content-Type: text/csv\r\nContent-Length: 1000\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"sku,name\r\n" * 50)
        yield client


def test_service_starts_before_the_migration(empty_database_url: str) -> None:
    with service(empty_database_url) as running:
        assert running.get("/health/live") == (200, {"status": "ok"})
        status, envelope = running.get("/health")
        assert (status, envelope["error"], envelope["code"]) == (503, "database_unavailable", 503)
        migrate(empty_database_url)
        status, health = running.get("/health")
        assert (status, health["status"]) == (200, "ok")


@on_postgresql
def test_service_starts_before_its_database_server(database_url: str) -> None:
    address, port = make_url(database_url), free_port()
    url = address.set(host="127.0.0.1", port=port).update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
    with service(url.render_as_string(hide_password=False)) as running:
        status, envelope = running.get("/products")
        assert (status, envelope["error"], envelope["code"]) == (503, "database_unavailable", 503)
        with CommitDropper((address.host or "127.0.0.1", address.port or 5432), port=port):
            assert running.get("/products") == (200, [])
