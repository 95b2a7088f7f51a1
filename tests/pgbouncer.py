"""A real PgBouncer in transaction mode."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import psycopg
from sqlalchemy import make_url

from tests.servers import free_port

PROGRAM = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
# So few that each of them is shared.
SESSIONS = 2


class PgBouncer:
    """Runs on a free port of the loopback interface, in front of one database.

    It does not run as root: if the tests do, it runs as the user of PostgreSQL.
    """

    def __init__(self, database_url: str) -> None:
        self.server = make_url(database_url)
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="inventory-pgbouncer-"))
        self.user = "postgres" if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        return self.server.set(host="127.0.0.1", port=self.port).render_as_string(hide_password=False)

    def configuration(self) -> str:
        name, host, port = self.server.database, self.server.host or "127.0.0.1", self.server.port or 5432
        role = self.server.username or os.environ.get("PGUSER") or "root"
        return (
            f"[databases]\n{name} = host={host} port={port} dbname={name} user={role}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = transaction\ndefault_pool_size = {SESSIONS}\nmax_client_conn = 200\n"
        )

    def __enter__(self) -> Self:
        assert PROGRAM is not None
        file = self.folder / "pgbouncer.ini"
        file.write_text(self.configuration())
        if self.user is not None:
            shutil.chown(self.folder, self.user)
            shutil.chown(file, self.user)
        self.log = (self.folder / "log").open("w+")
        self.process = subprocess.Popen(
            [PROGRAM, file],
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user is not None else None,
            cwd=self.folder,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 60
        while not self.accepts():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer did not start:\n{(self.folder / 'log').read_text()}")
            time.sleep(0.02)
        return self

    def accepts(self) -> bool:
        try:
            psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def __exit__(self, *_exception: object) -> None:
        self.process.terminate()
        self.process.wait(60)
        self.log.close()
        shutil.rmtree(self.folder)
