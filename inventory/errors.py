"""Every error the service answers with, each with its slug and status.

The envelope is ``{"error": slug, "message": for people, "code": HTTP status}``, with ``details`` only
where there are facts to give. A rejected value is never echoed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


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


class IdempotencyKeyRequired(ServiceError):
    status = 400
    slug = "idempotency_key_required"
    default_message = "This address moves stock: send an Idempotency-Key, a new one for each intended movement."


class InvalidIdempotencyKey(ServiceError):
    status = 400
    slug = "invalid_idempotency_key"
    default_message = (
        "An Idempotency-Key is one value of 1 to 255 visible ASCII characters; put one with a comma in quotes."
    )


class BatchRejected(ServiceError):
    """Every line that failed, by its position from 0, with what the line by itself would have been answered.

    Its stock is the one that the accepted lines before it left.
    """

    status = 400
    slug = "batch_rejected"
    default_message = "Nothing was recorded: 1 of 2 lines cannot be."
    example_details: ClassVar = {
        "error_count": 1,
        "errors": [
            {
                "line": 1,
                "error": "insufficient_stock",
                "message": "Cannot sell 20 units: only 10 available",
                "available": 10,
                "requested": 20,
            }
        ],
    }


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


class AlreadyReversed(ServiceError):
    status = 409
    slug = "already_reversed"
    default_message = "This has been reversed already; it can be only once."
    example_details: ClassVar = {"transaction_ids": [348]}


class NotReversible(ServiceError):
    status = 409
    slug = "not_reversible"
    default_message = "A reversal, and a count that changed nothing, cannot be reversed."


class IdempotencyInProgress(ServiceError):
    status = 409
    slug = "idempotency_in_progress"
    default_message = "A request with this Idempotency-Key is still being worked on; try again shortly."
    headers: ClassVar = {"Retry-After": "1"}


class PreconditionFailed(ServiceError):
    status = 412
    slug = "precondition_failed"
    default_message = "It has changed since you read it; read it again and decide anew."


class PayloadTooLarge(ServiceError):
    status = 413
    slug = "payload_too_large"
    default_message = "The body is larger than this address accepts."


class UriTooLong(ServiceError):
    status = 414
    slug = "uri_too_long"
    default_message = "The address with its query is longer than 8,000 bytes."


class UnsupportedMediaType(ServiceError):
    status = 415
    slug = "unsupported_media_type"
    default_message = "The body must be sent as Content-Type: application/json."


class HeadersTooLarge(ServiceError):
    status = 431
    slug = "headers_too_large"
    default_message = "There are too many headers, or one of more than 8,000 bytes."


class ValidationFailed(ServiceError):
    """Field errors by location (``json``, ``query``), each field with its list of messages."""

    status = 422
    slug = "validation_error"
    default_message = "Some values are missing or not acceptable; details names each one."
    example_details: ClassVar = {"json": {"name": ["Missing data for required field."]}}


class IdempotencyKeyReused(ServiceError):
    status = 422
    slug = "idempotency_key_reused"
    default_message = "This Idempotency-Key belongs to another request; a new request needs a new key."


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


class DatabaseNotMigrated(DatabaseUnavailable):
    default_message = "The database is not migrated: run 'flask --app wsgi db upgrade'."


class DatabaseNotWritable(DatabaseUnavailable):
    default_message = "The database can be read, but not written at the moment; nothing was written."


class DatabaseBusy(ServiceError):
    status = 503
    slug = "database_busy"
    default_message = "The database is busy and did not get to this request in time; try again shortly."
    headers: ClassVar = {"Retry-After": "1"}


class StorageFull(ServiceError):
    status = 507
    slug = "storage_full"
    default_message = "The database has no room left to write; nothing was written."
