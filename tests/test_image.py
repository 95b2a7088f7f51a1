"""The image's command, as process 1 of a container runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from sqlalchemy import inspect

from inventory import create_app
from inventory.database.base import db
from inventory.database.engines import begin_migration
from tests.conftest import migrate
from tests.servers import ROOT, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

# A process namespace of its own, whose first process is process 1, as in a container.
AS_PROCESS_1 = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


def can_unshare() -> bool:
    try:
        return subprocess.run([*AS_PROCESS_1, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not can_unshare(), reason="no process namespaces can be made here")]


@contextmanager
def image(database_url: str) -> Iterator[tuple[psutil.Process, subprocess.Popen[bytes]]]:
    """Process 1, which runs the Dockerfile's command, and the outer process that exits with its status."""
    (line,) = re.findall(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    command = [part.replace("0.0.0.0:8000", f"127.0.0.1:{free_port()}") for part in json.loads(line)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"DATABASE_URL": database_url, "INVENTORY_WORKERS": "1", "PATH": path}
    with subprocess.Popen([*AS_PROCESS_1, *command], cwd=ROOT, env=environment, stderr=subprocess.PIPE) as outside:
        try:
            yield descendant(outside.pid, command[0]), outside
        finally:
            outside.kill()


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


def test_sigterm_during_migration_exits_and_changes_nothing(empty_database_url: str) -> None:
    app = create_app({"DATABASE_URL": empty_database_url})
    with app.app_context():
        with db.engine.begin() as connection:
            begin_migration(connection)  # as another replica, which this one waits for
            with image(empty_database_url) as (first, outside):
                migration = descendant(first.pid, "upgrade")
                first.send_signal(signal.SIGTERM)
                assert outside.wait(60) == 128 + signal.SIGTERM
                assert not migration.is_running()
        assert inspect(db.engine).get_table_names() == []
        db.engine.dispose()
    migrate(empty_database_url)


def test_sigterm_during_gunicorn_start_exits(database_url: str) -> None:
    with image(database_url) as (first, outside):
        descendant(first.pid, "inventory.server.startup")
        first.send_signal(signal.SIGTERM)
        assert outside.wait(60) == 128 + signal.SIGTERM
