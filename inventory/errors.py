"""All errors that the service returns, each with a slug and a status.

The envelope is ``{"error": slug, "message": text, "code": HTTP status}``, with optional ``details``. Messages do
not repeat rejected text, except a shortened heading of an imported file.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


class ConfigError(SystemExit):
    """An unknown or invalid setting. Raised at start; as a SystemExit it ends the process with its message."""


class ServiceError(Exception):
    """Base class of all errors: a stable slug, a status, a message for people, and optional details."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal_error"
    default_message: ClassVar[str] = "Internal server error. It was logged; contact the operator if it persists."
    headers: ClassVar[Mapping[str, str]] = {}
    # What the operator has to do. For the log and the command line.
    advice: ClassVar[str] = ""

    def __init__(self, message: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message or self.default_message)
        self.message = message or self.default_message
        self.details = details

    def envelope(self) -> dict[str, object]:
        body: dict[str, object] = {"error": self.slug, "message": self.message, "code": self.status}
        return body if self.details is None else body | {"details": self.details}

    def response_headers(self) -> dict[str, str]:
        return dict(self.headers)


class InternalError(ServiceError):
    pass


class BadRequest(ServiceError):
    status = 400
    slug = "bad_request"
    default_message = "The request is malformed."


class ForeignHost(BadRequest):
    default_message = "The Host header is missing or invalid."


class MalformedJson(ServiceError):
    status = 400
    slug = "malformed_json"
    default_message = "The request body is not valid JSON in UTF-8."


class UnsupportedEncoding(ServiceError):
    status = 400
    slug = "unsupported_encoding"
    default_message = "The request body must be UTF-8, without Content-Encoding."


class InsufficientStock(ServiceError):
    status = 400
    slug = "insufficient_stock"
    default_message = "Insufficient stock."


class UnknownProduct(ServiceError):
    status = 400
    slug = "unknown_product"
    default_message = "No such product. Check product_id or sku."


class UnknownCategory(ServiceError):
    status = 400
    slug = "unknown_category"
    default_message = "No such category. Check category_id."


class InvalidCursor(ServiceError):
    status = 400
    slug = "invalid_cursor"
    default_message = "The cursor is not valid for this list and sort order. Start again without a cursor."


class IdempotencyKeyRequired(ServiceError):
    status = 400
    slug = "idempotency_key_required"
    default_message = "Idempotency-Key header required. Send a new key with each new request."


class InvalidIdempotencyKey(ServiceError):
    status = 400
    slug = "invalid_idempotency_key"
    default_message = (
        "Idempotency-Key must be one value of 1 to 255 visible ASCII characters. Quote a value that contains a comma."
    )


class BatchRejected(ServiceError):
    """Details list every rejected line by its index, from 0, with the error of that line.

    A line is checked against the stock after the accepted lines before it.
    """

    status = 400
    slug = "batch_rejected"
    default_message = "Nothing was recorded: some lines were rejected."


class CrossSiteRequest(ServiceError):
    status = 403
    slug = "cross_site_request"
    default_message = (
        "Cross-origin request refused. Send it from the origin of the service, "
        "or ask the operator to add yours to INVENTORY_CORS_ORIGINS."
    )


class Unauthorized(ServiceError):
    status = 401
    slug = "unauthorized"
    default_message = (
        "Invalid API key or token. Send a valid one as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'."
    )
    headers: ClassVar = {"WWW-Authenticate": 'Bearer realm="inventory", error="invalid_token"'}


class KeyRequired(Unauthorized):
    default_message = "API key required. Send it as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'."
    headers: ClassVar = {"WWW-Authenticate": 'Bearer realm="inventory"'}


class InsufficientScope(ServiceError):
    """Details and WWW-Authenticate (RFC 6750 section 3) name the ``scope`` that is missing."""

    status = 403
    slug = "insufficient_scope"
    default_message = "The API key or token does not have the required scope."

    def __init__(self, scope: str) -> None:
        super().__init__(f"The API key or token does not have the scope '{scope}'.", {"scope": scope})
        self.scope = scope

    def response_headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": f'Bearer realm="inventory", error="insufficient_scope", scope="{self.scope}"'}


class CategoryNotFound(ServiceError):
    status = 404
    slug = "category_not_found"
    default_message = "Category not found."


class ProductNotFound(ServiceError):
    status = 404
    slug = "product_not_found"
    default_message = "Product not found."


class TransactionNotFound(ServiceError):
    status = 404
    slug = "transaction_not_found"
    default_message = "Transaction not found."


class NotFound(ServiceError):
    status = 404
    slug = "not_found"
    default_message = "Not found. Check the URL."


class MethodNotAllowed(ServiceError):
    status = 405
    slug = "method_not_allowed"
    default_message = "Method not allowed. See the Allow header."


class DuplicateSku(ServiceError):
    status = 409
    slug = "duplicate_sku"
    default_message = "Another product already has this SKU. SKUs are case-insensitive."


class DuplicateCategory(ServiceError):
    status = 409
    slug = "duplicate_category"
    default_message = "Another category already has this name. Names are case-insensitive."


class CategoryNotEmpty(ServiceError):
    status = 409
    slug = "category_not_empty"
    default_message = "The category has products. Move or delete them first."


class ProductHasHistory(ServiceError):
    status = 409
    slug = "product_has_history"
    default_message = "The product has stock movements and cannot be deleted. Set is_active to false instead."


class ProductInactive(ServiceError):
    status = 409
    slug = "product_inactive"
    default_message = "The product is inactive. Only adjustments are accepted."


class StaleQuantity(ServiceError):
    status = 409
    slug = "stale_quantity"
    default_message = "The stock differs from the expected quantity. Fetch the product again and retry."


class AlreadyReversed(ServiceError):
    status = 409
    slug = "already_reversed"
    default_message = "This transaction was already reversed."


class NotReversible(ServiceError):
    status = 409
    slug = "not_reversible"
    default_message = "Reversals, and counts that changed nothing, cannot be reversed."


class IdempotencyInProgress(ServiceError):
    status = 409
    slug = "idempotency_in_progress"
    default_message = "A request with this Idempotency-Key is still in progress. Retry shortly."
    headers: ClassVar = {"Retry-After": "1"}


class PreconditionFailed(ServiceError):
    status = 412
    slug = "precondition_failed"
    default_message = "The resource has changed. Fetch it again and retry."


class PayloadTooLarge(ServiceError):
    status = 413
    slug = "payload_too_large"
    default_message = "The request body is too large or has too many parts."


class UriTooLong(ServiceError):
    status = 414
    slug = "uri_too_long"
    default_message = "The URL is too long."


class UnsupportedMediaType(ServiceError):
    status = 415
    slug = "unsupported_media_type"
    default_message = "Unsupported media type. Send Content-Type: application/json."


class RateLimited(ServiceError):
    """The client has to ``wait`` a number of seconds, which are rounded up."""

    status = 429
    slug = "rate_limited"
    default_message = "Too many requests. Retry after the number of seconds in Retry-After."
    headers: ClassVar = {"Retry-After": "1"}

    def __init__(self, seconds: float = 1, message: str | None = None) -> None:
        super().__init__(message)
        self.wait = max(1, math.ceil(seconds))

    def response_headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.wait)}


class HeadersTooLarge(ServiceError):
    status = 431
    slug = "headers_too_large"
    default_message = "Too many request headers, or a header is too long."


class ValidationFailed(ServiceError):
    """Field errors by location (``json``, ``query``, ``form``), each field with its list of messages."""

    status = 422
    slug = "validation_error"
    default_message = "Validation failed. See details."


class InvalidFields(ValidationFailed):
    """Fields that a use case rejects, with messages. Their location is ``json`` unless ``within`` says otherwise."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        super().__init__(details={"json": fields})
        self.fields = fields

    def within(self, location: str) -> ValidationFailed:
        return ValidationFailed(details={location: self.fields})


class IdempotencyKeyReused(ServiceError):
    status = 422
    slug = "idempotency_key_reused"
    default_message = "This Idempotency-Key was already used for a different request. Use a new key."


class ImportInvalid(ServiceError):
    status = 422
    slug = "import_invalid"
    default_message = "Nothing was imported: the file has errors. See details."


class TransferEncodingNotImplemented(ServiceError):
    status = 501
    slug = "not_implemented"
    default_message = "Unsupported Transfer-Encoding. Only chunked is supported."


class DatabaseUnavailable(ServiceError):
    """The request may have been recorded: a connection can break just after COMMIT."""

    status = 503
    slug = "database_unavailable"
    default_message = "The database is unavailable. Retry later with the same Idempotency-Key."
    headers: ClassVar = {"Retry-After": "2"}


class DatabaseNotMigrated(DatabaseUnavailable):
    default_message = "The database is not migrated. Run 'flask --app wsgi db upgrade'."


class DatabaseMissing(DatabaseUnavailable):
    default_message = (
        "The database file does not exist. To create a database, run 'flask --app wsgi db upgrade'. "
        "To recover one, put the file and its -wal back, or run 'flask --app wsgi restore FILE' with a backup."
    )


class DatabaseMoved(DatabaseUnavailable):
    default_message = (
        "The database file was moved, replaced or deleted. "
        "Retry with the same Idempotency-Key after the operator has restored it."
    )
    advice = (
        "Requests that use the database are rejected. Stop the service. Put the file and its -wal back, "
        "or run 'flask --app wsgi restore FILE' with a backup. Then start the service."
    )


class DatabaseDamaged(DatabaseUnavailable):
    default_message = (
        "The database file is corrupt. Retry with the same Idempotency-Key after the operator has restored it."
    )
    advice = (
        "Stop the service, keep a copy of the file and its -wal, "
        "and run 'flask --app wsgi restore FILE' with the latest backup."
    )


class DatabaseNotWritable(DatabaseUnavailable):
    default_message = "The database is currently read-only. Nothing was written; retry later."


class DatabaseBusy(ServiceError):
    status = 503
    slug = "database_busy"
    default_message = "The database is busy. Retry shortly."
    headers: ClassVar = {"Retry-After": "1"}


class QueryTooSlow(ServiceError):
    status = 503
    slug = "query_too_slow"
    default_message = "The query took too long. Narrow the filters, or use another order."
    headers: ClassVar = {"Retry-After": "2"}


class StorageFull(ServiceError):
    status = 507
    slug = "storage_full"
    default_message = "The database has no space left. Nothing was written."
