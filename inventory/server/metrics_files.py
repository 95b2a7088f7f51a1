"""The files in which the workers of a gunicorn master count, in a directory of the master.

gunicorn.conf.py loads this file by its path, because the master process must not import the package. So it imports only
the standard library. Each worker has a slot, the lowest number that no other live worker has. Its files are named after
the slot and not after the process: a worker that takes the slot of a dead one continues its counters. So nothing that
was counted is lost, and there are never more files than for the largest number of workers that lived together.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

PREFIX = "inventory-metrics-"


def before_fork(server: Any, worker: Any) -> None:
    """In the master: give a worker the directory and a slot."""
    if not hasattr(server, "metrics_folder"):  # once for each master, and not again after SIGHUP
        server.metrics_folder = new_folder(Path(server.cfg.worker_tmp_dir or tempfile.gettempdir()))
    taken = {getattr(other, "metrics_slot", None) for other in server.WORKERS.values()}
    worker.metrics_slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)


def after_fork(server: Any, worker: Any) -> None:
    """In the worker, before it imports the service: make the library count in the files of the slot."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(server.metrics_folder)
    values: Any = import_module("prometheus_client.values")
    values.ValueClass = values.MultiProcessValue(lambda: worker.metrics_slot)


def after_death(server: Any, worker: Any) -> None:
    """In the master: remove the gauges of a dead worker, as prometheus_client's mark_process_dead does."""
    slot = getattr(worker, "metrics_slot", None)
    if slot is not None:
        for file in server.metrics_folder.glob(f"gauge_live*_{slot}.db"):
            file.unlink(missing_ok=True)


def after_end(server: Any) -> None:
    """In the master, at its end."""
    if hasattr(server, "metrics_folder"):
        shutil.rmtree(server.metrics_folder, ignore_errors=True)


def new_folder(parent: Path) -> Path:
    """A new directory, which is locked until the master and all its workers have ended.

    Removes those of masters that were killed.
    """
    for earlier in parent.glob(f"{PREFIX}*"):
        remove_abandoned(earlier)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Never closed: the lock ends with the last process that has inherited it.
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():  # or else another master has removed it before it was locked
            return folder
        os.close(lock)


def remove_abandoned(folder: Path) -> None:
    with suppress(OSError):  # it is locked, or another user's
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(lock)
