"""Every error the service answers with, and the one place that turns them into answers.

The envelope is ``{"error": slug, "message": for people, "code": HTTP status}``, with ``details`` only
where there are facts to give. A rejected value is never echoed.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, ClassVar

import flask
import sqlalchemy.exc
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Flask, Response

logger = logging.getLogger(__name__)


class ServiceError(Exception):
    """Base of all refusals: a stable slug, a status, a sentence for people, and facts if there are any."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal_error"
    default_message: ClassVar[str] = "The request could not be completed; the fault is ours and has been logged."
    headers: ClassVar[Mapping[str, str]] = {}
    example_details: ClassVar[Mapping[str, Any] | None] = None

    def __init__(self, message: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message or self.default_message)
        self.message = message or self.default_message
        self.details = details

    def envelope(self) -> dict[str, Any]:
        body: dict[str, Any] = {"error": self.slug, "message": self.message, "code": self.status}
        return body if self.details is None else body | {"details": self.details}

    @classmethod
    def example(cls) -> dict[str, Any]:
        """The envelope as the OpenAPI document shows it."""
        return cls(details=cls.example_details).envelope()


class InternalError(ServiceError):
    pass


class BadRequest(ServiceError):
    status = 400
    slug = "bad_request"
    default_message = "The request could not be understood."


class MalformedJson(ServiceError):
    status = 400
    slug = "malformed_json"
    default_message = "The body is not valid JSON in UTF-8."


class UnsupportedEncoding(ServiceError):
    status = 400
    slug = "unsupported_encoding"
    default_message = "The body must be UTF-8 text without a Content-Encoding."


class InsufficientStock(ServiceError):
    status = 400
    slug = "insufficient_stock"
    default_message = "Cannot sell 20 units: only 10 available"
    example_details: ClassVar = {"available": 10, "requested": 20}


class UnknownProduct(ServiceError):
    status = 400
    slug = "unknown_product"
    default_message = "There is no such product."


class UnknownCategory(ServiceError):
    status = 400
    slug = "unknown_category"
    default_message = "There is no category with this category_id."


class InvalidCursor(ServiceError):
    status = 400
    slug = "invalid_cursor"
    default_message = "This cursor does not belong to this list and order; start again without it."


class CategoryNotFound(ServiceError):
    status = 404
    slug = "category_not_found"
    default_message = "There is no category with this id."


class ProductNotFound(ServiceError):
    status = 404
    slug = "product_not_found"
    default_message = "There is no product with this id."


class TransactionNotFound(ServiceError):
    status = 404
    slug = "transaction_not_found"
    default_message = "There is no transaction with this id."


class NotFound(ServiceError):
    status = 404
    slug = "not_found"
    default_message = "There is nothing at this address."


class MethodNotAllowed(ServiceError):
    status = 405
    slug = "method_not_allowed"
    default_message = "This address does not answer to that method; the Allow header lists those it does."


class DuplicateSku(ServiceError):
    status = 409
    slug = "duplicate_sku"
    default_message = "Another product already has this SKU; upper and lower case count as the same."


class DuplicateCategory(ServiceError):
    status = 409
    slug = "duplicate_category"
    default_message = "Another category already has this name; upper and lower case count as the same."


class CategoryNotEmpty(ServiceError):
    status = 409
    slug = "category_not_empty"
    default_message = "The category still has products; move or delete them first."


class ProductHasHistory(ServiceError):
    status = 409
    slug = "product_has_history"
    default_message = "The product has stock movements, which are kept for ever; set is_active to false instead."


class ProductInactive(ServiceError):
    status = 409
    slug = "product_inactive"
    default_message = "The product is not active: it takes adjustments, but no purchases and no sales."


class StaleQuantity(ServiceError):
    status = 409
    slug = "stale_quantity"
    default_message = "The stock is not what you expected; look again before you decide."
    example_details: ClassVar = {"expected": 12, "quantity_on_hand": 10}


class PayloadTooLarge(ServiceError):
    status = 413
    slug = "payload_too_large"
    default_message = "The body is larger than this address accepts."


class UnsupportedMediaType(ServiceError):
    status = 415
    slug = "unsupported_media_type"
    default_message = "The body must be sent as Content-Type: application/json."


class ValidationFailed(ServiceError):
    """Field errors by location (``json``, ``query``), each field with its list of messages."""

    status = 422
    slug = "validation_error"
    default_message = "Some values are missing or not acceptable; details names each one."
    example_details: ClassVar = {"json": {"name": ["Missing data for required field."]}}


class ImportInvalid(ServiceError):
    status = 422
    slug = "import_invalid"
    default_message = "Nothing was imported: the file has 1 error."
    example_details: ClassVar = {
        "error_count": 1,
        "errors": [
            {
                "row": 2,
                "column": "price",
                "message": "Not a number: text. Write it with a point, such as 13.75.",
            }
        ],
    }


class DatabaseUnavailable(ServiceError):
    status = 503
    slug = "database_unavailable"
    default_message = "The database cannot be reached at the moment; nothing is lost, try again shortly."
    headers: ClassVar = {"Retry-After": "2"}


class DatabaseBusy(ServiceError):
    status = 503
    slug = "database_busy"
    default_message = "The database is busy and did not get to this request in time; try again shortly."
    headers: ClassVar = {"Retry-After": "1"}


class StorageFull(ServiceError):
    status = 507
    slug = "storage_full"
    default_message = "The database has no room left to write; nothing was written."


# Constraints that a client can run into when two requests race, by name; the naming convention in db.py makes
# the names, and the services have already refused what can be seen beforehand.
BY_CONSTRAINT: dict[str, type[ServiceError]] = {
    "uq_categories_name_folded": DuplicateCategory,
    "uq_products_sku_folded": DuplicateSku,
}

# SQLSTATEs, https://www.postgresql.org/docs/current/errcodes-appendix.html. 55P03 lock_not_available,
# 57014 query_canceled (statement_timeout), 40001 serialization_failure, 40P01 deadlock_detected,
# 53100 disk_full, 53300 too_many_connections, 25006 read_only_sql_transaction.
BY_SQLSTATE: dict[str, type[ServiceError]] = {
    "55P03": DatabaseBusy,
    "57014": DatabaseBusy,
    "40001": DatabaseBusy,
    "40P01": DatabaseBusy,
    "53100": StorageFull,
    "53300": DatabaseUnavailable,
    "25006": DatabaseUnavailable,
}

# Result codes, https://www.sqlite.org/rescode.html (the primary code is the low byte).
BY_SQLITE_CODE: dict[int, type[ServiceError]] = {
    5: DatabaseBusy,  # SQLITE_BUSY
    6: DatabaseBusy,  # SQLITE_LOCKED
    8: DatabaseUnavailable,  # SQLITE_READONLY
    10: DatabaseUnavailable,  # SQLITE_IOERR
    11: DatabaseUnavailable,  # SQLITE_CORRUPT
    13: StorageFull,  # SQLITE_FULL
    14: DatabaseUnavailable,  # SQLITE_CANTOPEN
    26: DatabaseUnavailable,  # SQLITE_NOTADB
}

BY_HTTP_STATUS: dict[int, type[ServiceError]] = {
    error.status: error for error in (BadRequest, NotFound, MethodNotAllowed, PayloadTooLarge, UnsupportedMediaType)
}


def constraint_name(error: sqlalchemy.exc.DBAPIError) -> str | None:
    """Name of the violated constraint. SQLite names only the columns of a UNIQUE, so the name is rebuilt."""
    diagnostics = getattr(error.orig, "diag", None)
    if diagnostics is not None:
        name: str | None = diagnostics.constraint_name
        return name
    if match := re.search(r"UNIQUE constraint failed: (\w+)\.(\w+(?:, \w+\.\w+)*)", str(error.orig)):
        columns = re.sub(r", \w+\.", "_", match[2])
        return f"uq_{match[1]}_{columns}"
    return None


def from_database(error: sqlalchemy.exc.DBAPIError) -> ServiceError:
    """The answer to an error of the database, found by constraint, SQLSTATE or result code, never by text."""
    if refusal := BY_CONSTRAINT.get(constraint_name(error) or ""):
        return refusal()
    sqlstate = getattr(error.orig, "sqlstate", None)
    if known := BY_SQLSTATE.get(sqlstate or ""):
        return known()
    result_code = getattr(error.orig, "sqlite_errorcode", None)
    if known := BY_SQLITE_CODE.get((result_code or 0) & 0xFF):
        return known()
    if error.connection_invalidated or is_connection_failure(error, sqlstate):
        return DatabaseUnavailable()
    return InternalError()


def is_connection_failure(error: sqlalchemy.exc.DBAPIError, sqlstate: str | None) -> bool:
    """Class 08 (connection exception), 57P (shutdown), 25P03 (idle timeout), or no answer from a server at all."""
    if sqlstate is None:
        return isinstance(error, sqlalchemy.exc.OperationalError) and hasattr(error.orig, "diag")
    return sqlstate.startswith(("08", "57P")) or sqlstate == "25P03"


def respond(error: ServiceError) -> Response:
    response = flask.jsonify(error.envelope())
    response.status_code = error.status
    response.headers.extend(dict(error.headers))
    return response


def handle_http_exception(error: HTTPException) -> Response:
    """Errors of Flask and Werkzeug themselves: unknown paths, wrong methods, oversized bodies."""
    if error.code is not None and error.code < 400:
        return flask.make_response(error.get_response())
    response = respond(
        BY_HTTP_STATUS.get(error.code or 500, BadRequest if (error.code or 500) < 500 else InternalError)()
    )
    allow = dict(error.get_headers()).get("Allow")
    if allow:
        response.headers["Allow"] = allow
    return response


def handle_database_error(error: sqlalchemy.exc.DBAPIError) -> Response:
    answer = from_database(error)
    if answer.status >= 500:
        logger.error("database error answered with %s", answer.slug, exc_info=error)
    return respond(answer)


def handle_pool_timeout(error: sqlalchemy.exc.TimeoutError) -> Response:
    logger.warning("no database connection became free in time: %s", error)
    return respond(DatabaseBusy())


def handle_unexpected(error: Exception) -> Response:
    logger.error("unexpected error", exc_info=error)
    return respond(InternalError())


def init_app(app: Flask) -> None:
    app.register_error_handler(ServiceError, respond)
    app.register_error_handler(HTTPException, handle_http_exception)
    # A chunked body that is broken shows only while a view is reading it.
    app.register_error_handler(ParseException, lambda _error: respond(BadRequest()))
    app.register_error_handler(sqlalchemy.exc.DBAPIError, handle_database_error)
    app.register_error_handler(sqlalchemy.exc.TimeoutError, handle_pool_timeout)
    app.register_error_handler(Exception, handle_unexpected)
