"""A real gunicorn, as users run it."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent


def checkout(folder: Path) -> Path:
    """A copy of all that the service needs to run."""
    for name in ("inventory", "migrations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("wsgi.py", "gunicorn.conf.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Gunicorn:
    """Runs ``gunicorn wsgi:app`` against a database, ready when /health/live answers; its log is kept in a file."""

    def __init__(
        self,
        database_url: str,
        *,
        application: str = "wsgi:app",
        folder: Path = ROOT,
        workers: int = 2,
        threads: int = 8,
        addresses: Sequence[str] = (),
        **settings: str,
    ) -> None:
        self.application, self.folder = application, folder
        # The settings of gunicorn.conf.py are for the service itself.
        own = ["-c", os.devnull, "-k", "gthread", "-w", str(workers), "--threads", str(threads)]
        self.options = [] if application == "wsgi:app" else own
        # Besides its port on 127.0.0.1.
        self.options += [option for address in addresses for option in ("-b", address)]
        self.port = free_port()
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - open as long as the server
        self.environment = os.environ | {
            "DATABASE_URL": database_url,
            "INVENTORY_WORKERS": str(workers),
            "INVENTORY_THREADS": str(threads),
            # No test fails because the machine stood still for the default of 5 s.
            "INVENTORY_BUSY_TIMEOUT_MS": "60000",
            **settings,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command(),
            cwd=self.folder,
            env=self.environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            pass_fds=self.descriptors(),
        )
        deadline = time.monotonic() + 120
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"gunicorn did not start:\n{Path(self.log.name).read_text()}")
            time.sleep(0.05)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "gunicorn", self.application, "-b", f"127.0.0.1:{self.port}", *self.options]

    def descriptors(self) -> list[int]:
        """What the process inherits besides its standard streams."""
        return []

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", "/health/live")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)

    def output(self) -> str:
        return Path(self.log.name).read_text()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()
        self.log.close()
