"""What is logged of a request: one line at its end, one for each movement that it committed, one if it was refused.

A line has the route and never the path, the query, a header or the body. Its id is returned in ``X-Request-ID``.
"""

from __future__ import annotations

import logging
import re
import secrets
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from time import perf_counter
from typing import TYPE_CHECKING, cast

import flask

from inventory import activity, logs
from inventory.activity import Activity
from inventory.caller import caller
from inventory.database.base import engine_of
from inventory.errors import (
    ConfigError,
    CrossSiteRequest,
    DatabaseBusy,
    ForeignHost,
    RateLimited,
    TransferEncodingNotImplemented,
    Unauthorized,
    UriTooLong,
)
from inventory.web import metrics
from inventory.web.trace_context import trace_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from flask import Flask, Request, Response
    from opentelemetry.trace import Span
    from sqlalchemy import Engine

    from inventory.activity import Moved
    from inventory.errors import ServiceError
    from inventory.web.trace_context import Trace
    from inventory.web.tracing import Tracing

HEADER = "X-Request-ID"
# A longer id, or one with other characters, is replaced.
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
REFUSALS_ABOVE_500 = {TransferEncodingNotImplemented.status}
# Refusals that need no API key.
OF_ANYONE = (Unauthorized, RateLimited, ForeignHost, CrossSiteRequest, UriTooLong, TransferEncodingNotImplemented)
MAX_SHOWN_STATEMENTS = 20

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class RequestRecord(Activity):
    """A request. It is complete when it is given to ``finish``.

    ``cause`` and ``exception`` are for the log, and ``error`` for the client. ``slow_after`` is in seconds.
    """

    engine: Engine | None = None
    trace: Trace | None = None
    # None if traces are off.
    tracing: Tracing | None = None
    span: Span | None = None
    started: float = 0.0
    slow_after: float = 0.0
    method: str = ""
    route: str | None = None
    key_name: str | None = None
    status: int = 0
    duration: float = 0.0
    error: ServiceError | None = None
    cause: str | None = None
    address: str | None = None
    exception: BaseException | None = None
    is_replay: bool = False

    @property
    def has_failed(self) -> bool:
        """Whether the service has failed. An error with another status is a refusal."""
        return self.exception is not None or (self.status >= 500 and self.status not in REFUSALS_ABOVE_500)

    @property
    def is_slow(self) -> bool:
        return self.duration >= self.slow_after


def new_id() -> str:
    return secrets.token_hex(16)


def request_id_in(header: str | None) -> str:
    return header if header is not None and REQUEST_ID.fullmatch(header) else new_id()


def begin(engine: Engine, slow_after: float, tracing: Tracing | None) -> None:
    """Begin the record of a request, before anything else of it is done."""
    request: Request = flask.request._get_current_object()  # type: ignore[attr-defined] # noqa: SLF001 - faster
    record = RequestRecord(
        request_id_in(request.environ.get("HTTP_X_REQUEST_ID")),
        engine=engine,
        trace=trace_in(request.environ.get("HTTP_TRACEPARENT")),
        tracing=tracing,
        started=perf_counter(),
        slow_after=slow_after,
        method=request.method if request.method in METHODS else "other",
        route=request.url_rule.rule if request.url_rule else None,
    )
    activity.current.set(record)
    if tracing is not None:
        tracing.begin(record)


def current_record() -> RequestRecord:
    return cast("RequestRecord", activity.current.get())


def note_error(error: ServiceError, cause: str | None = None, exception: BaseException | None = None) -> None:
    """Note the error that a request is answered with. The traceback of an ``exception`` is logged."""
    record = current_record()
    record.error, record.exception = error, exception
    if cause or not isinstance(error, Unauthorized | RateLimited):  # these keep why the key was refused
        record.cause = cause


def note_refused_key(reason: str) -> None:
    """Note why an API key is refused, and from where it comes. Only the log says it."""
    record = current_record()
    record.cause, record.address = f"API key refused: {reason}", flask.request.remote_addr


def note_replay() -> None:
    current_record().is_replay = True


def complete(response: Response) -> Response:
    """Complete the record. That of a response that is made while it is sent is complete when it is closed."""
    record = current_record()
    record.status, record.key_name = response.status_code, caller().actor
    response.headers[HEADER] = record.id
    if response.is_streamed:
        response.response = noting_errors(response.response, record)  # type: ignore[arg-type] # an iterable of bytes
        response.call_on_close(partial(finish, record))
    else:
        finish(record)
    return response


def noting_errors(body: Iterable[bytes], record: RequestRecord) -> Iterator[bytes]:
    """The parts of a body. No error handler sees an error after the first of them."""
    try:
        yield from body
    except Exception as error:
        record.exception = error
        setattr(error, logs.IS_LOGGED, True)
        raise


def finish(record: RequestRecord) -> None:
    """Called once for each request, at its end."""
    record.duration = perf_counter() - record.started
    metrics.observe(record)
    if record.tracing is not None:
        record.tracing.end(record)
    log(record)
    # The thread keeps the record until its next request, and the tracebacks refer to the body and to connections.
    record.error = record.exception = None


def log(record: RequestRecord) -> None:
    if logger.isEnabledFor(logging.INFO):
        for moved in record.moved:
            write(logging.INFO, "movement" if "id" in moved.row else "import", moved_parts(moved, record))
    kind = kind_of(record)
    if record.error is not None and not record.has_failed:
        level = logging.WARNING if isinstance(record.error, Unauthorized) else logging.INFO
        write(level, "refusal", refusal_parts(record), kind and f"refusal: {kind}")
    level = level_of(record)
    if logger.isEnabledFor(level):
        write(level, "request", request_parts(record), kind, record.exception)


def write(
    level: int,
    message: str,
    parts: Mapping[str, object],
    kind: str | None = None,
    exception: BaseException | None = None,
) -> None:
    shown = {name: value for name, value in parts.items() if value is not None}
    logger.log(level, message, exc_info=exception, extra={"data": shown, "kind": kind})


def level_of(record: RequestRecord) -> int:
    if record.has_failed:
        return logging.WARNING if isinstance(record.error, DatabaseBusy) else logging.ERROR
    return logging.WARNING if record.is_slow else logging.INFO


def kind_of(record: RequestRecord) -> str | None:
    """Requests of which only some are logged: anybody can send them, or all fail for one reason."""
    if isinstance(record.error, OF_ANYONE):
        return record.error.slug
    if not record.has_failed:
        return "no route" if record.route is None else None
    slug = slug_of(record) or "broken response"
    return f"{slug}: {type(record.exception).__name__}, {record.route}" if record.exception else slug


def slug_of(record: RequestRecord) -> str | None:
    return record.error.slug if record.error else None


def whose(record: RequestRecord) -> dict[str, object]:
    trace_id, parent_id, _flags = record.trace or (None, None, None)
    ids = {"request_id": record.id, "trace_id": trace_id, "parent_id": parent_id}
    return {"key_name": record.key_name, **ids}


def request_parts(record: RequestRecord) -> dict[str, object]:
    return {
        "method": record.method,
        "route": record.route,
        "status": record.status,
        "duration_ms": milliseconds(record.duration),
        "database_ms": milliseconds(record.seconds),
        "statements": record.statements,
        "rows": record.rows,
        "error": slug_of(record),
        "cause": record.cause,
        "advice": (record.error.advice or None) if record.error and record.has_failed else None,
        "slow": (slowest(record) or None) if record.is_slow else None,
        **whose(record),
    }


def refusal_parts(record: RequestRecord) -> dict[str, object]:
    return {
        "error": slug_of(record),
        "status": record.status,
        "method": record.method,
        "route": record.route,
        "cause": record.cause,
        "address": record.address,
        **whose(record),
    }


def moved_parts(moved: Moved, record: RequestRecord) -> dict[str, object]:
    sums = {} if "id" in moved.row else {"movements": moved.movements, "units": moved.units}
    return {"transaction_type": moved.transaction_type, **sums, **moved.row, **whose(record)}


def slowest(record: RequestRecord) -> list[dict[str, object]]:
    """The statements of a request by name, those that took longest first."""
    by_time = sorted(record.by_name.items(), key=lambda item: item[1][1], reverse=True)
    return [
        {"statement": name, "count": count, "ms": milliseconds(seconds)}
        for name, (count, seconds) in by_time[:MAX_SHOWN_STATEMENTS]
    ]


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)


def context() -> dict[str, object]:
    """What every line that is written during a request has."""
    found = activity.current.get()
    return {} if found is None else {"request_id": found.id}


def new_tracing(app: Flask) -> Tracing | None:
    """None if traces are off. Then OpenTelemetry is not loaded. Raises ConfigError if it is not installed."""
    if app.config["OTEL_TRACES_EXPORTER"] != "otlp":
        return None
    try:
        loaded = import_module("inventory.web.tracing")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"inventory: cannot start: the OTEL_… variables switch traces on, but {error.name} is not installed. "
            "Run: pip install --require-hashes -r requirements-otel.lock"
        ) from None
    tracing: Tracing = loaded.Tracing(app.config["API_VERSION"], engine_of(app).dialect.name)
    return tracing


def init_app(app: Flask) -> None:
    """Call it first: what comes first before a request comes last after it."""
    tracing = app.extensions["tracing"] = new_tracing(app)
    app.before_request(partial(begin, engine_of(app), app.config["INVENTORY_SLOW_REQUEST_MS"] / 1000, tracing))
    app.after_request(complete)
