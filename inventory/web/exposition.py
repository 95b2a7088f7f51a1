"""/metrics: what the workers have counted, and what is measured when Prometheus asks."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from inventory.database import engines, figures, revisions
from inventory.database.base import engine_of
from inventory.database.errors import summary
from inventory.errors import ServiceError
from inventory.web import metrics
from inventory.web.access import Access, requires
from inventory.web.health import LIMITER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from prometheus_client import Metric
    from sqlalchemy import Connection, Engine

# In the environment of gunicorn's workers.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

logger = logging.getLogger(__name__)


def recorded() -> CollectorRegistry:
    """What all workers have counted, or this process if it is the only one."""
    if FOLDER not in os.environ:
        return metrics.REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


@dataclass(frozen=True)
class Measured:
    """Measures when it is collected."""

    engine: Engine
    version: str
    revision: str
    limiter_state: Callable[[], str]

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "inventory_build_info",
            "Always 1: release, its latest migration, and the database engine.",
            labels=["version", "revision", "engine"],
        )
        build.add_metric([self.version, self.revision, self.engine.dialect.name], 1)
        yield build
        limiter = GaugeMetricFamily(
            "inventory_limiter_state",
            "Always 1: where rates are counted (redis, redis unreachable, memory or off).",
            labels=["state"],
        )
        limiter.add_metric([self.limiter_state()], 1)
        yield limiter
        try:
            with self.engine.connect() as connection:
                measured = list(of_database(connection))
        except (DBAPIError, ServiceError, PoolTimeout) as error:
            cause = summary(error) if isinstance(error, DBAPIError) else type(error).__name__
            logger.warning("The database cannot be measured: %s", cause, extra={"kind": "unmeasured database"})
            measured = []
        yield GaugeMetricFamily("inventory_database_up", "Whether the database answers.", value=bool(measured))
        yield from measured


def of_database(connection: Connection) -> Iterator[Metric]:
    connection.execution_options(**engines.SNAPSHOT)
    engines.limit_time(connection)
    yield GaugeMetricFamily(
        "inventory_feed_lag_seconds",
        "PostgreSQL: age of the oldest running transaction that has written; later rows are not in the feeds yet.",
        value=figures.write_age(connection),
    )
    yield GaugeMetricFamily(
        "inventory_lock_waiters",
        "PostgreSQL: sessions that wait for a lock.",
        value=figures.lock_waiters(connection),
    )
    free = engines.free_bytes(connection)
    if free is not None:
        yield GaugeMetricFamily("inventory_database_free_bytes", "SQLite: space left for the database.", value=free)


def expose(measured: Measured) -> Response:
    """The metrics in the text format of Prometheus."""
    metrics.show_pool(measured.engine)
    now = CollectorRegistry()
    now.register(measured)
    return Response(generate_latest(recorded()) + generate_latest(now), content_type=CONTENT_TYPE_LATEST)


def init_app(app: Flask) -> None:
    measured = Measured(
        engine_of(app),
        app.config["API_VERSION"],
        revisions.latest(),
        app.extensions[LIMITER],
    )
    view = requires(Access("admin"))(partial(expose, measured))
    app.add_url_rule("/metrics", "metrics", view, methods=["GET"])
