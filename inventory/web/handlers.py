"""Error handlers, which convert all exceptions to the error envelope."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import flask
import sqlalchemy.exc
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from inventory.activity import name_of
from inventory.database import errors as database_errors
from inventory.errors import (
    BadRequest,
    DatabaseBusy,
    HeadersTooLarge,
    InternalError,
    InvalidFields,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    QueryTooSlow,
    ServiceError,
    TransferEncodingNotImplemented,
    UnsupportedMediaType,
    UriTooLong,
)
from inventory.web.admission import SAFE_METHODS
from inventory.web.observability import note_error

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from flask import Flask, Response

MAX_DRAINED_BYTES = 64 * 1024 * 1024
DRAIN_SILENCE_SECONDS = 2
DRAIN_SECONDS = 10
# Smaller than a network packet: gunicorn waits until a block is complete.
DRAINED_BLOCK = 1024

BY_HTTP_STATUS: dict[int, type[ServiceError]] = {
    error.status: error
    for error in (
        BadRequest,
        NotFound,
        MethodNotAllowed,
        PayloadTooLarge,
        UriTooLong,
        UnsupportedMediaType,
        HeadersTooLarge,
        TransferEncodingNotImplemented,
    )
}


def error_of_status(status: int) -> ServiceError:
    return BY_HTTP_STATUS.get(status, BadRequest if status < 500 else InternalError)()


def respond(error: ServiceError, cause: str | None = None, exception: BaseException | None = None) -> Response:
    """The response to an error. ``cause`` and the traceback of the ``exception`` are for the log only."""
    note_error(error, cause, exception)
    response = flask.jsonify(error.envelope())
    response.status_code = error.status
    response.headers.extend(error.response_headers())
    response.call_on_close(partial(drain_body, flask.request.environ))
    return response


def drain_body(environ: WSGIEnvironment) -> None:
    """Read the rest of the request body, up to a limit. Otherwise closing the connection can discard the response.

    See RFC 9112 section 9.6. A client that sends too slowly gets no more time, because a thread waits for it.
    """
    body, left, deadline = environ["wsgi.input"], MAX_DRAINED_BYTES, monotonic() + DRAIN_SECONDS
    if "gunicorn.socket" in environ:
        environ["gunicorn.socket"].settimeout(DRAIN_SILENCE_SECONDS)
    with suppress(ParseException, OSError):
        while left > 0 and monotonic() < deadline and (block := body.read(min(left, DRAINED_BLOCK))):
            left -= len(block)


def handle_http_exception(error: HTTPException) -> Response:
    """Errors of Flask and Werkzeug: unknown paths, unsupported methods, oversized bodies."""
    if error.code is not None and error.code < 400:
        return flask.make_response(error.get_response())
    response = respond(error_of_status(error.code or 500))
    if allow := dict(error.get_headers()).get("Allow"):
        response.headers["Allow"] = ", ".join(sorted(allow.split(", ")))
    return response


def handle_database_error(error: sqlalchemy.exc.DBAPIError) -> Response:
    """Known errors need no traceback."""
    answer = database_errors.from_database(error)
    if flask.request.method in SAFE_METHODS and database_errors.is_statement_timeout(error):
        answer = QueryTooSlow()
    cause = database_errors.summary(error)
    if error.statement:
        cause = f"{cause} ({name_of(error.statement)})"
    return respond(answer, cause, error if type(answer) is InternalError else None)


def handle_pool_timeout(_error: sqlalchemy.exc.TimeoutError) -> Response:
    return respond(DatabaseBusy(), "no connection of the pool became free before the timeout")


def handle_unexpected(error: Exception) -> Response:
    return respond(InternalError(), exception=error)


def handle_invalid_fields(error: InvalidFields) -> Response:
    """Add the location of the fields: the query for GET and HEAD, otherwise the body."""
    return respond(error.within("query" if flask.request.method in {"GET", "HEAD"} else "json"))


def init_app(app: Flask) -> None:
    app.register_error_handler(ServiceError, respond)
    app.register_error_handler(InvalidFields, handle_invalid_fields)
    app.register_error_handler(HTTPException, handle_http_exception)
    # An invalid chunked body is detected only when a view reads it.
    app.register_error_handler(ParseException, lambda _error: respond(BadRequest()))
    app.register_error_handler(sqlalchemy.exc.DBAPIError, handle_database_error)
    app.register_error_handler(sqlalchemy.exc.TimeoutError, handle_pool_timeout)
    app.register_error_handler(Exception, handle_unexpected)
