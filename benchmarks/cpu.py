"""CPU time of a server: of its process tree, and of the PostgreSQL processes that work for it.

CPU time per request is compared, not requests per second, because other programs on the machine slow requests but add
little to their CPU time.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import psutil
import psycopg

from benchmarks.databases import POSTGRESQL_URL, PostgresqlDatabase

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.databases import Database

# A process id and its start, because ids are used again.
Process = tuple[int, float]
POLL_SECONDS = 0.25
# CPU seconds that an idle server may use between two readings.
IDLE_CPU_SECONDS = 0.02
IDLE_DEADLINE_SECONDS = 30
BACKENDS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = %s AND pid <> pg_backend_pid() AND backend_type IN ('client backend', 'parallel worker')
"""


class Meter:
    """Counts the CPU seconds of processes, including those that start or end meanwhile.

    A process that was there at the first reading counts from there on; one that appears later counts in full. One that
    ended counts up to the last reading that saw it.
    """

    def __init__(self) -> None:
        self.first: dict[Process, float] | None = None
        self.latest: dict[Process, float] = {}

    def read(self, seconds: Mapping[Process, float]) -> None:
        if self.first is None:
            self.first = dict(seconds)
        self.latest |= seconds

    @property
    def spent(self) -> float:
        """CPU seconds since the first reading."""
        first = self.first or {}
        return sum(seconds - first.get(process, 0) for process, seconds in self.latest.items())


def cpu_of(pids: Iterator[int]) -> dict[Process, float]:
    """User and system CPU seconds of processes. Those that have ended are left out."""
    found = {}
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            times = process.cpu_times()
            found[pid, process.create_time()] = times.user + times.system
    return found


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


class Watch:
    """Processes to read: a server's tree, and the sessions on a PostgreSQL database."""

    def __init__(self, pid: int, database: Database) -> None:
        self.pid, self.database = pid, database
        self.observer: psycopg.Connection[Any] | None = None

    def __enter__(self) -> Self:
        if isinstance(self.database, PostgresqlDatabase):
            self.observer = psycopg.connect(POSTGRESQL_URL, autocommit=True)
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.observer:
            self.observer.close()

    def pids(self) -> Iterator[int]:
        yield from tree(self.pid)
        if self.observer and isinstance(self.database, PostgresqlDatabase):
            yield from (pid for (pid,) in self.observer.execute(BACKENDS, [self.database.name]))

    def read(self) -> dict[Process, float]:
        return cpu_of(self.pids())


def await_idle(pid: int, database: Database) -> None:
    """Wait until a server has done the requests that it has received."""
    with Watch(pid, database) as watch:
        before, deadline = sum(watch.read().values()), time.monotonic() + IDLE_DEADLINE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            now = sum(watch.read().values())
            if now - before <= IDLE_CPU_SECONDS:
                return
            before = now
    raise TimeoutError("The server is still busy after its load has ended.")


@contextmanager
def metered(pid: int, database: Database) -> Iterator[Meter]:
    """Meter a server, and the database that only it uses meanwhile. The result is complete at the end of the block."""
    meter, stopped = Meter(), threading.Event()
    with Watch(pid, database) as watch:

        def poll() -> None:
            while not stopped.wait(POLL_SECONDS):
                meter.read(watch.read())

        meter.read(watch.read())
        thread = threading.Thread(target=poll)
        thread.start()
        try:
            yield meter
        finally:
            stopped.set()
            thread.join()
            meter.read(watch.read())
