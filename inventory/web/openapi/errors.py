"""Errors in the OpenAPI document: the ``details`` of each slug, examples, and shared responses.

A response lists all slugs of an operation for one status. Operations with the same slugs share it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from marshmallow import fields

from inventory import errors
from inventory.fields import AnswerSchema, Integer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from apispec import APISpec
    from marshmallow import Schema

    from inventory.web.openapi.json_types import JsonObject

    Errors = Sequence[type[errors.ServiceError]]


def envelope(error: JsonObject, **details: Any) -> JsonObject:
    """The schema of an error whose slug is ``error``."""
    properties = {
        "error": error | {"description": "Stable slug for programs."},
        "message": {"type": "string", "description": "Error message for people; the text may change."},
        "code": {"type": "integer", "description": "The HTTP status."},
    }
    return {"type": "object", "properties": properties | details, "required": [*properties]}


class InsufficientStockDetails(AnswerSchema):
    """The available stock and the requested quantity."""

    available = Integer(metadata={"description": "Units in stock."})
    requested = Integer(metadata={"description": "Units requested."})


class InsufficientScopeDetails(AnswerSchema):
    """The scope that the API key does not have."""

    scope = fields.String(metadata={"description": "The required scope."})


class StaleQuantityDetails(AnswerSchema):
    """The expected stock and the current stock."""

    expected = Integer(metadata={"description": "The `expected_quantity` of the request."})
    quantity_on_hand = Integer(metadata={"description": "Current stock."})


class AlreadyReversedDetails(AnswerSchema):
    """The movements that were already reversed."""

    transaction_ids = fields.List(Integer(), metadata={"description": "Ids of rows that already have a contra row."})


class ValidationFailedDetails(AnswerSchema):
    """Messages by location and field. Items of a list are keyed by their index, from 0."""

    optional = frozenset({"json", "query", "form", "omitted"})

    json = fields.Dict(metadata={"description": "Fields of the JSON body."})
    query = fields.Dict(metadata={"description": "Query parameters."})
    form = fields.Dict(metadata={"description": "Parts of multipart/form-data."})
    omitted = Integer(metadata={"description": "Number of further errors; at most 100 are listed."})


class RejectedLine(AnswerSchema):
    """A rejected line, with its error and the details of that error."""

    optional = frozenset({"available", "requested", "expected", "quantity_on_hand", "transaction_ids", "json"})

    line = Integer(
        metadata={"description": "Index of the line in the request, or of the row in a reversed batch, from 0."}
    )
    error = fields.String(metadata={"description": "Slug of the error."})
    message = fields.String(metadata={"description": "Error message for people."})
    available = Integer(metadata={"description": "Of `insufficient_stock`: units left by the preceding lines."})
    requested = Integer(metadata={"description": "Of `insufficient_stock`."})
    expected = Integer(metadata={"description": "Of `stale_quantity`."})
    quantity_on_hand = Integer(metadata={"description": "Of `stale_quantity`."})
    transaction_ids = fields.List(Integer(), metadata={"description": "Of `already_reversed`."})
    json = fields.Dict(metadata={"description": "Of `validation_error`."})


class BatchRejectedDetails(AnswerSchema):
    """The rejected lines."""

    error_count = Integer(metadata={"description": "Number of rejected lines."})
    errors = fields.List(fields.Nested(RejectedLine), metadata={"description": "All rejected lines, in their order."})


class BadCell(AnswerSchema):
    """An error in a row of the file."""

    row = Integer(metadata={"description": "Row of the file; the header is row 1."})
    column = fields.String(allow_none=True, metadata={"description": "Name of the column; null for the whole row."})
    message = fields.String(metadata={"description": "Error message for people."})


class ImportInvalidDetails(AnswerSchema):
    """The errors in the file."""

    error_count = Integer(metadata={"description": "Total number of errors."})
    errors = fields.List(fields.Nested(BadCell), metadata={"description": "The first 100 errors."})


class DatabaseUnavailableDetails(AnswerSchema):
    """Information for the operator. Only in responses of `/health`."""

    optional = frozenset({"revision", "head", "free_bytes"})

    revision = fields.String(allow_none=True, metadata={"description": "Current migration of the database."})
    head = fields.String(metadata={"description": "Latest migration of this release."})
    free_bytes = Integer(metadata={"description": "Free space for the database, in bytes."})


# Schemas of ``details``, and examples with numbers, which default messages do not have.
DETAILS: dict[type[errors.ServiceError], type[Schema]] = {
    errors.InsufficientStock: InsufficientStockDetails,
    errors.BatchRejected: BatchRejectedDetails,
    errors.InsufficientScope: InsufficientScopeDetails,
    errors.StaleQuantity: StaleQuantityDetails,
    errors.AlreadyReversed: AlreadyReversedDetails,
    errors.ValidationFailed: ValidationFailedDetails,
    errors.ImportInvalid: ImportInvalidDetails,
    errors.DatabaseUnavailable: DatabaseUnavailableDetails,
}
EXAMPLES: dict[type[errors.ServiceError], errors.ServiceError] = {
    type(error): error
    for error in (
        errors.InsufficientStock(
            "Cannot sell 20 units: only 10 available",
            {"available": 10, "requested": 20},
        ),
        errors.BatchRejected(
            "Nothing was recorded: 1 of 2 lines was rejected.",
            {
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
            },
        ),
        errors.InsufficientScope("stock"),
        errors.StaleQuantity(details={"expected": 12, "quantity_on_hand": 10}),
        errors.AlreadyReversed(details={"transaction_ids": [348]}),
        errors.ValidationFailed(details={"json": {"name": ["Missing data for required field."]}}),
        errors.ImportInvalid(
            "Nothing was imported: the file has 1 error.",
            {
                "error_count": 1,
                "errors": [
                    {
                        "row": 2,
                        "column": "price",
                        "message": (
                            "Not a valid number: text. Use a decimal point and up to 4 decimal places, such as 13.75."
                        ),
                    }
                ],
            },
        ),
    )
}
# Names for groups of errors that many operations share, used in the names of responses.
GROUPS = {
    "BadKey": {errors.IdempotencyKeyRequired, errors.InvalidIdempotencyKey},
    "BadBody": {errors.MalformedJson, errors.UnsupportedEncoding},
}


def example(error: type[errors.ServiceError]) -> JsonObject:
    """An example of the error envelope."""
    return (EXAMPLES.get(error) or error()).envelope()


def error_answers(spec: APISpec, classes: Iterable[type[errors.ServiceError]]) -> dict[str, str]:
    """The name of the shared response for each status."""
    by_status: dict[int, dict[str, type[errors.ServiceError]]] = {}
    for error in classes:
        by_status.setdefault(error.status, {}).setdefault(error.slug, error)
    return {str(status): answer(spec, list(found.values())) for status, found in sorted(by_status.items())}


def answer(spec: APISpec, classes: Errors) -> str:
    classes = sorted(classes, key=lambda error: error.slug)
    name = answer_name(classes)
    if name not in spec.components.responses:
        media_type = {
            "schema": one_of([error_schema(spec, error) for error in classes]),
            "examples": {error.slug: {"value": example(error)} for error in classes},
        }
        described: JsonObject = {
            "description": ", ".join(f"`{error.slug}`" for error in classes),
            "content": {"application/json": media_type},
        }
        if any("Retry-After" in error.headers for error in classes):
            described["headers"] = {"Retry-After": "Retry-After"}
        if errors.RateLimited in classes:
            described["headers"] |= {"RateLimit": "RateLimit", "RateLimit-Policy": "RateLimit-Policy"}
        spec.components.response(name, described)
    return name


def answer_name(classes: Errors) -> str:
    """Join the names of the errors. BadRequest is omitted unless it is the only one."""
    rest, names = set(classes) - {errors.BadRequest}, []
    for group, members in GROUPS.items():
        if members <= rest:
            rest -= members
            names.append(group)
    return "Or".join([*sorted(error.__name__ for error in rest), *names]) or errors.BadRequest.__name__


def one_of(names: Sequence[str]) -> JsonObject:
    references = [{"$ref": f"#/components/schemas/{name}"} for name in dict.fromkeys(names)]
    return references[0] if len(references) == 1 else {"oneOf": references}


def error_schema(spec: APISpec, error: type[errors.ServiceError]) -> str:
    """Name of the envelope schema: one for each slug with details, ``ErrorOut`` for all others."""
    name = f"{error.__name__}Error" if error in DETAILS else "ErrorOut"
    if name not in spec.components.schemas:
        spec.components.schema(name, envelope_with_details(spec, error) if error in DETAILS else plain_envelope(spec))
    return name


def envelope_with_details(spec: APISpec, error: type[errors.ServiceError]) -> JsonObject:
    details = DETAILS[error].__name__
    spec.components.schema(details, schema=DETAILS[error])
    described = envelope({"const": error.slug}, details={"$ref": f"#/components/schemas/{details}"})
    described["required"] += ["details"] if error in EXAMPLES else []
    return described


def plain_envelope(spec: APISpec) -> JsonObject:
    slugs = slugs_of(errors.ServiceError) - {error.slug for error in DETAILS}
    spec.components.schema("ErrorSlug", {"type": "string", "enum": sorted(slugs)})
    return envelope({"$ref": "#/components/schemas/ErrorSlug"})


def slugs_of(error: type[errors.ServiceError]) -> set[str]:
    """The slugs of an error and its subclasses."""
    return {error.slug}.union(*map(slugs_of, error.__subclasses__()))
