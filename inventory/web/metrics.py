"""What is counted for Prometheus. ``observe`` counts a finished request; ``exposition.py`` shows the numbers.

Under gunicorn each worker counts in files of its own, and any worker shows the sums; see server/metrics_files.py.
Values of labels are of a fixed set: a route and never a path, a slug and never a message.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from inventory.database.figures import pool_figures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Engine

    from inventory.activity import Moved
    from inventory.errors import ServiceError

# One process would show the creation time of each counter; the sum of several has none.
disable_created_metrics()  # type: ignore[no-untyped-call]

# Without the collectors of the library, which show one process only.
REGISTRY = CollectorRegistry()
UNMATCHED, MALFORMED = "unmatched", "malformed"
# Each bucket is a time series of each route.
SECONDS = (0.005, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0)
WAIT_FOR_WRITE_LOCK = "BEGIN IMMEDIATE"
# A free lock is acquired sooner.
SHORTEST_WAIT = 0.001

REQUESTS = Counter("inventory_http_requests", "Finished requests.", ["method", "route", "status"], registry=REGISTRY)
DURATION = Histogram(
    "inventory_http_request_duration_seconds",
    "Time until the response is made; that of an export, until it is sent.",
    ["method", "route"],
    buckets=SECONDS,
    registry=REGISTRY,
)
MOVEMENTS = Counter("inventory_movements", "Committed movements.", ["transaction_type"], registry=REGISTRY)
UNITS = Counter("inventory_units_moved", "Units of committed movements.", ["transaction_type"], registry=REGISTRY)
REFUSALS = Counter("inventory_refusals", "Refused requests, by slug of the error.", ["error"], registry=REGISTRY)
FAILURES = Counter(
    "inventory_failures",
    "Requests that the service failed, by slug of the error.",
    ["error"],
    registry=REGISTRY,
)
REPLAYS = Counter("inventory_replays", "Requests answered with the result of an earlier one.", registry=REGISTRY)
RETRIES = Counter("inventory_transaction_retries", "Repetitions of transactions.", registry=REGISTRY)
IMPORTS = Counter("inventory_imports", "Committed imports.", registry=REGISTRY)
DATABASE_TIME = Counter(
    "inventory_database_seconds", "Time of all statements, with waiting for locks and connections.", registry=REGISTRY
)
LOCK_WAITS = Counter(
    "inventory_lock_waits", "SQLite: requests that waited 1 ms or longer for the write lock.", registry=REGISTRY
)
LOCK_WAIT_TIME = Counter("inventory_lock_wait_seconds", "SQLite: time of these waits.", registry=REGISTRY)
POOL = Gauge(
    "inventory_pool_connections",
    "Connections of the pools at the end of the last request of each worker.",
    ["state"],
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
# Prometheus sees an increase only if there was a value before it.
for _slug in ("database_busy", "database_unavailable", "storage_full", "internal_error"):
    FAILURES.labels(_slug)
REFUSALS.labels("unauthorized")
IN_USE, FREE = POOL.labels("in_use"), POOL.labels("free")


class Finished(Protocol):
    """What is counted of a finished request."""

    engine: Engine | None
    method: str
    route: str | None
    status: int
    duration: float
    error: ServiceError | None
    is_replay: bool
    has_imported: bool
    retries: int
    seconds: float
    by_name: dict[str, tuple[int, float]]
    moved: list[Moved]

    @property
    def has_failed(self) -> bool: ...


class Children(NamedTuple):
    requests: Counter
    duration: Histogram


@cache
def children(method: str, route: str | None, status: int) -> Children:
    """The metrics of these labels. To look them up in the library takes longer than to count."""
    named = route or UNMATCHED
    return Children(REQUESTS.labels(method, named, str(status)), DURATION.labels(method, named))


def observe(request: Finished) -> None:
    """Count a request. Called once for each."""
    counted = children(request.method, request.route, request.status)
    counted.requests.inc()
    counted.duration.observe(request.duration)
    if request.seconds:
        DATABASE_TIME.inc(request.seconds)
    if request.moved:
        count_moved(request.moved)
    if request.error is not None or request.has_failed:
        count_error(request.error, has_failed=request.has_failed)
    if request.is_replay:
        REPLAYS.inc()
    elif request.has_imported:
        IMPORTS.inc()
    if request.retries:
        RETRIES.inc(request.retries)
    if WAIT_FOR_WRITE_LOCK in request.by_name:
        count_wait(request.by_name)
    if request.engine is not None:
        show_pool(request.engine)


def count_moved(moved: Sequence[Moved]) -> None:
    for one in moved:
        MOVEMENTS.labels(one.transaction_type).inc(one.movements)
        UNITS.labels(one.transaction_type).inc(one.units)


def count_error(error: ServiceError | None, *, has_failed: bool) -> None:
    """A response that breaks off while it is sent has no error for the client."""
    slug = error.slug if error is not None else "broken_response"
    (FAILURES if has_failed else REFUSALS).labels(slug).inc()


def count_wait(statements: Mapping[str, tuple[int, float]]) -> None:
    _count, seconds = statements[WAIT_FOR_WRITE_LOCK]
    if seconds >= SHORTEST_WAIT:
        LOCK_WAITS.inc()
        LOCK_WAIT_TIME.inc(seconds)


def count_malformed(error: ServiceError) -> None:
    """Count a request that does not reach the application."""
    REQUESTS.labels("other", MALFORMED, str(error.status)).inc()
    count_error(error, has_failed=False)


def show_pool(engine: Engine) -> None:
    figures = pool_figures(engine.pool)
    IN_USE.set(figures["in_use"])
    FREE.set(max(0, figures["size"] - figures["in_use"]))
