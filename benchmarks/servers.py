"""The measured servers: our service and its rivals, each with two processes on a free loopback port."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.databases import ROOT
from inventory import config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.databases import Database

WORKERS = 2
THREADS = int(str(config.load({}, {})["INVENTORY_THREADS"]))
PYTHON = (sys.executable, "-m")
GUNICORN_OPTIONS = ("-c", os.devnull, "-k", "gthread", "-w", str(WORKERS), "--threads", str(THREADS))
UVICORN_OPTIONS = ("--workers", str(WORKERS), "--loop", "uvloop", "--http", "httptools", "--no-access-log")
COMMANDS = {
    "ours": ("gunicorn", "wsgi:app", "-b", "127.0.0.1:{port}"),
    "limit": ("gunicorn", "benchmarks.rivals.limit:app", "-b", "127.0.0.1:{port}", *GUNICORN_OPTIONS),
    "peer": ("uvicorn", "benchmarks.rivals.peer:app", "--port", "{port}", *UVICORN_OPTIONS),
}
START_SECONDS = 60
STOP_SECONDS = 30


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A running server."""

    name: str
    database: Database
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(self, request: Request, timeout: float = 600) -> Answer:
        """Send one request on a connection of its own."""
        with self.opened(request, timeout) as response:
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())

    @contextmanager
    def opened(self, request: Request, timeout: float = 600) -> Iterator[http.client.HTTPResponse]:
        """The response to a request, still to be read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(request.method, request.path, request.body or None, dict(request.headers))
            yield connection.getresponse()
        finally:
            connection.close()


def names(engine: str) -> tuple[str, ...]:
    """The servers that can use an engine, ours first."""
    return tuple(COMMANDS) if engine == "postgresql" else ("ours", "limit")


@contextmanager
def running(name: str, database: Database, **settings: str) -> Iterator[Server]:
    """A server in a process group of its own, ready to answer, stopped at the end of the block."""
    port = free_port()
    command = [*PYTHON, *(part.format(port=port) for part in COMMANDS[name])]
    # The rivals log no requests. overhead.py measures what the log costs.
    defaults = {
        "INVENTORY_WORKERS": str(WORKERS),
        "INVENTORY_THREADS": str(THREADS),
        "INVENTORY_LOG_LEVEL": "warning",
    }
    environment = database.environment(**(defaults | settings))
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            server = Server(name, database, port, process.pid)
            if not is_ready(server, process):
                raise RuntimeError(f"{name} did not start:\n{Path(log.name).read_text()}")
            yield server
        finally:
            stop(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_ready(server: Server, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            server.send(Request("GET", "/products?limit=1"), timeout=5)
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server's process group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
