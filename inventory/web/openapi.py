"""What the OpenAPI document says of headers and errors, which are the same for many routes."""

from __future__ import annotations

from copy import deepcopy
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from marshmallow import fields

from inventory import errors
from inventory.fields import BaseSchema

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

F = TypeVar("F", bound="Callable[..., Any]")

PAGE_HEADERS = {
    "Link": {
        "description": 'Addresses of the neighbouring pages, `rel="next"` and `rel="prev"` (RFC 8288).',
        "schema": {"type": "string"},
    },
    "X-Total-Count": {
        "description": "Number of all rows, with `include_total=true`.",
        "schema": {"type": "integer"},
    },
}
LINK_HEADER = {"Link": PAGE_HEADERS["Link"]}
LOCATION_HEADER = {"Location": {"description": "Path of what was created.", "schema": {"type": "string"}}}

IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "schema": {"type": "string", "minLength": 1, "maxLength": 257},
    "description": "A value of the client's choice, new for each intended change. The same request sent again with it"
    " has no second effect and gets the first answer, with `Idempotent-Replayed: true`. Kept for ever.",
}
IF_MATCH = {
    "in": "header",
    "name": "If-Match",
    "schema": {"type": "string"},
    "description": "Change it only if its `ETag` is still this one; otherwise 412.",
}
IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    "schema": {"type": "string"},
    "description": "Answer 304 without a body if the `ETag` is still this one.",
}
ETAG_HEADER = {"ETag": {"description": "Version of what was returned (RFC 9110).", "schema": {"type": "string"}}}


class ErrorSchema(BaseSchema):
    """The envelope of every error."""

    error = fields.String(required=True, metadata={"description": "A stable slug for programs."})
    message = fields.String(required=True, metadata={"description": "A sentence for people."})
    code = fields.Integer(required=True, metadata={"description": "The HTTP status again."})
    details = fields.Dict(metadata={"description": "Facts, where there are any."})


# Any request can meet these.
ALWAYS = (errors.ValidationFailed, errors.InternalError, errors.DatabaseUnavailable, errors.DatabaseBusy)
ON_BODY = (
    errors.MalformedJson,
    errors.UnsupportedEncoding,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
)
ON_WRITE = (errors.StorageFull,)
ON_KEY = (
    errors.IdempotencyKeyRequired,
    errors.InvalidIdempotencyKey,
    errors.IdempotencyKeyReused,
    errors.IdempotencyInProgress,
)


def annotated(view: F, **additions: Sequence[Any]) -> F:
    """The view with more to say about itself in the OpenAPI document, at the end of each list named."""

    @wraps(view)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return view(*args, **kwargs)

    documented: Any = wrapper
    facts = documented._apidoc = deepcopy(getattr(view, "_apidoc", {}))  # noqa: SLF001
    for name, added in additions.items():
        facts[name] = [*facts.get(name, ()), *added]
    result: F = documented
    return result


def describe_error(responses: dict[str, Any], error: type[errors.ServiceError]) -> None:
    """Add an error's slug and example to the response of its status."""
    response = responses.setdefault(
        str(error.status),
        {"description": "", "content": {"application/json": {"schema": ErrorSchema, "examples": {}}}},
    )
    response["content"]["application/json"]["examples"][error.slug] = {"value": error.example()}
    slugs = response["content"]["application/json"]["examples"]
    response["description"] = ", ".join(f"`{slug}`" for slug in slugs)
    if "Retry-After" in error.headers:
        response["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


def schema_name(schema: Any) -> str:
    """The name a schema has in the OpenAPI document: ``ProductIn`` loaded in part is ``ProductUpdate``."""
    name = schema.__name__ if isinstance(schema, type) else type(schema).__name__
    if getattr(schema, "partial", None):
        return f"{name.removesuffix('In')}Update"
    return name.removesuffix("Schema")
