"""Start and stop of a gunicorn worker: after it has loaded the application, and after its last request."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import orjson
from gunicorn import util
from werkzeug.http import HTTP_STATUS_CODES

from inventory.database.base import engine_of, open_first_connection
from inventory.logs import harmless, without_requests
from inventory.web import metrics
from inventory.web.browsers import SECURITY_HEADERS
from inventory.web.handlers import error_of_status
from inventory.web.observability import HEADER, new_id

if TYPE_CHECKING:
    import socket

    from flask import Flask

logger = logging.getLogger(__name__)


def write_envelope(connection: socket.socket, status: int, _reason: str, details: str) -> None:
    """Answer a malformed request that does not reach the application, and log it."""
    error, request_id = error_of_status(status), new_id()
    parts = {"status": error.status, "error": error.slug, "cause": harmless(details), "request_id": request_id}
    metrics.count_malformed(error)
    logger.warning("request", extra={"data": parts, "kind": "malformed requests"})
    body = orjson.dumps(error.envelope()) + b"\n"
    headers = {
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": len(body),
        HEADER: request_id,
    }
    lines = [f"{name}: {value}" for name, value in (headers | SECURITY_HEADERS).items()]
    head = "\r\n".join([f"HTTP/1.1 {error.status} {HTTP_STATUS_CODES[error.status]}", *lines])
    util.write_nonblock(connection, f"{head}\r\n\r\n".encode() + body)


def start(application: Flask) -> None:
    open_first_connection(application)
    metrics.show_pool(engine_of(application))
    # gunicorn has no setting for it and would answer with an HTML page.
    util.write_error = write_envelope
    logging.getLogger("gunicorn.error").addFilter(without_requests)
    if tracing := application.extensions["tracing"]:
        tracing.start()


def stop(application: Flask) -> None:
    """Called when the worker has completed its last request."""
    if tracing := application.extensions["tracing"]:
        tracing.stop()
