"""A PostgreSQL server for these tests only, which they may crash."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import psycopg

from tests.servers import free_port

ADMINISTRATOR = "postgres"


def find_binaries() -> Path | None:
    """The folder with initdb and pg_ctl, of the newest version that is installed."""
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    installed = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in installed), key=lambda path: float(path.parent.name), default=None)


BINARIES = find_binaries()


class Cluster:
    """Runs on a free port of the loopback interface, with its data in a folder that is removed at the end.

    PostgreSQL does not run as root: if the tests do, it runs as the user that its package created.
    """

    def __init__(self, port: int | None = None) -> None:
        self.user = ADMINISTRATOR if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="inventory-cluster-"))
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self.data = self.folder / "data"
        self.port = port or free_port()

    @property
    def url(self) -> str:
        return f"postgresql://{ADMINISTRATOR}@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: str | Path) -> None:
        assert BINARIES is not None
        done = subprocess.run(
            [BINARIES / program, *arguments],
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user is not None else None,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the server would keep a pipe open
            stderr=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, f"{program} failed: {self.output()}"

    def output(self) -> str:
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    def start(self) -> float:
        """Start the server. Returns the time at which it first accepted a connection."""
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        self.run("pg_ctl", "start", "-W", "-D", self.data, "-l", self.folder / "log", "-o", settings)
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, self.output()
                time.sleep(0.01)
            else:
                return time.monotonic()

    def stop(self, mode: str) -> None:
        self.run("pg_ctl", "stop", "-w", "-D", self.data, "-m", mode)

    def terminate_sessions(self) -> int:
        """Terminate all client sessions, whatever they are doing. Returns their number."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            terminated = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return terminated.rowcount

    def create(self) -> None:
        self.run("initdb", "--no-sync", "-D", self.data, "-U", ADMINISTRATOR, "-A", "trust", "-E", "UTF8", "--locale=C")

    def set(self, parameter: str, value: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET {parameter} = '{value}'")
            connection.execute("SELECT pg_reload_conf()")

    def __enter__(self) -> Self:
        try:
            self.create()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        try:
            if (self.data / "postmaster.pid").exists():
                self.stop("fast")
        finally:
            shutil.rmtree(self.folder)


class Standby(Cluster):
    """A synchronous hot standby: the primary confirms a COMMIT when it is in the log of both."""

    def __init__(self, primary: Cluster, port: int | None = None) -> None:
        super().__init__(port)
        self.primary = primary

    def create(self) -> None:
        source = f"host=127.0.0.1 port={self.primary.port} user={ADMINISTRATOR}"
        self.run("pg_basebackup", "--no-sync", "-D", self.data, "-d", source, "-R", "-X", "stream", "-c", "fast")

    def __enter__(self) -> Self:
        super().__enter__()
        self.primary.set("synchronous_standby_names", "*")
        deadline = time.monotonic() + 60
        while not self.is_synchronous():
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)
        return self

    def is_synchronous(self) -> bool:
        with psycopg.connect(self.primary.url, autocommit=True) as connection:
            found = connection.execute("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").fetchone()
        return found == (1,)

    def promote(self) -> None:
        self.run("pg_ctl", "promote", "-w", "-D", self.data)
