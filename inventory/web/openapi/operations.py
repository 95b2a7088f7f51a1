"""Operations in the OpenAPI document: ids, headers, examples and errors."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

from inventory import errors
from inventory.web.openapi.errors import error_answers
from inventory.web.openapi.examples import ANSWERS, REQUESTS, without_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from apispec import APISpec

    from inventory.web.access import Access
    from inventory.web.openapi.json_types import JsonObject

F = TypeVar("F", bound="Callable[..., Any]")

# Header components. Responses refer to them by name.
HEADERS = {
    "Link": {
        "description": "URLs of the next and previous page, with `rel` `next` and `prev` (RFC 8288). They stay exact"
        " while rows are added or removed. Feeds always have `next`.",
        "schema": {"type": "string"},
    },
    "X-Total-Count": {
        "description": "Total number of rows that match the filters. Only with `include_total=true`.",
        "schema": {"type": "integer", "format": "int64"},
    },
    "Location": {"description": "Path of the created resource.", "schema": {"type": "string"}},
    "ETag": {
        "description": "Version of the resource, for `If-Match` and `If-None-Match` (RFC 9110).",
        "schema": {"type": "string"},
    },
    "Idempotent-Replayed": {
        "description": "`true` if this is the stored response to an earlier request with the same `Idempotency-Key`."
        " Absent otherwise.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "RateLimit": {
        "description": "The budget of the request, with the requests left (`r`) and the seconds until the next window"
        " (`t`). Responses have it if rates are limited (draft-ietf-httpapi-ratelimit-headers).",
        "schema": {"type": "string"},
        "example": '"reads";r=59999;t=60',
    },
    "RateLimit-Policy": {
        "description": "The budget of the request, with its quota (`q`) and window in seconds (`w`).",
        "schema": {"type": "string"},
        "example": '"reads";q=60000;w=60',
    },
    "Retry-After": {"description": "Seconds to wait before retrying.", "schema": {"type": "integer"}},
}
LINK_HEADER = {"Link": "Link"}
PAGE_HEADERS = LINK_HEADER | {"X-Total-Count": "X-Total-Count"}
LOCATION_HEADER = {"Location": "Location"}
ETAG_HEADER = {"ETag": "ETag"}
REPLAYED_HEADER = {"Idempotent-Replayed": "Idempotent-Replayed"}

# Request headers have no example, because the form in /docs would send it.
IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 257},
    "description": "Unique key chosen by the client for each intended change, for example `till-3/receipt-815`: 1 to"
    " 255 visible ASCII characters, bare or in double quotes. A retry with the same key has no second effect and"
    " returns the first response, with `Idempotent-Replayed: true`. Keys do not expire. A rejected request does not"
    " use up its key.",
}
IF_MATCH = {
    "in": "header",
    "name": "If-Match",
    "required": False,
    "schema": {"type": "string"},
    "description": "An `ETag` of an earlier response. If it no longer matches, nothing is changed and the response is"
    " 412. See the operation for what is compared.",
}
IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    "required": False,
    "schema": {"type": "string"},
    "description": "An `ETag` of an earlier response. If it still matches, the response is 304 without a body.",
}
# Path parameters are always sent, so they can have an example.
PATH_PARAMETERS: dict[str, JsonObject] = {
    "category_id": {"description": "`id` of the category.", "example": 1},
    "product_id": {"description": "`id` of the product.", "example": 1},
    "transaction_id": {"description": "`id` of the ledger row.", "example": 2},
    "batch_id": {
        "description": "`batch_id` shared by all rows of a batch.",
        "example": "7a0c0f6e-3f4e-4f0e-9d0c-6d1f0a6f5b1e",
    },
    "sku": {"description": "SKU of the product, case-insensitive, percent-encoded.", "example": "MUG-01"},
}

SECURITY_SCHEMES: dict[str, JsonObject] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "The API key, as a bearer token (RFC 6750)."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The API key."},
}

# Errors common to all operations.
ALWAYS = (
    errors.BadRequest,
    errors.UriTooLong,
    errors.ValidationFailed,
    errors.RateLimited,
    errors.HeadersTooLarge,
    errors.InternalError,
    errors.DatabaseUnavailable,
    errors.DatabaseBusy,
    errors.QueryTooSlow,
)
ON_ACCESS = (errors.Unauthorized, errors.InsufficientScope)
ON_BODY = (
    errors.MalformedJson,
    errors.UnsupportedEncoding,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
    errors.TransferEncodingNotImplemented,
)
ON_WRITE = (errors.CrossSiteRequest, errors.StorageFull)
ON_KEY = (
    errors.IdempotencyKeyRequired,
    errors.InvalidIdempotencyKey,
    errors.IdempotencyKeyReused,
    errors.IdempotencyInProgress,
)


def annotated(view: F, **additions: Sequence[Any]) -> F:
    """Append documentation to a view, to each of the named lists. Returns the view."""
    documented: Any = view
    # A copy, because wrapped functions share the documentation.
    documentation = documented._apidoc = deepcopy(getattr(view, "_apidoc", {}))  # noqa: SLF001
    for name, added in additions.items():
        documentation[name] = [*documentation.get(name, ()), *added]
    return view


def path_parameters(rule: str) -> list[JsonObject]:
    """The parameters of a path in Flask's notation."""
    names = re.findall(r"<(?:\w+:)?(\w+)>", rule)
    return [{"in": "path", "name": name, **PATH_PARAMETERS.get(name, {})} for name in names]


def operation_id(view: str, method: str, methods: Sequence[str]) -> str:
    """The name of the view. If it handles PUT and PATCH, PUT on ``update_product`` becomes ``put_product``."""
    return view.replace("update_", "put_") if method == "put" and "patch" in methods else view


def complete(operation: JsonObject, documentation: JsonObject, method: str, spec: APISpec) -> None:
    """Complete an operation with ``documentation``, collected by the decorators of the view."""
    name = operation["operationId"] = documentation["operation_id"]
    headers = documentation.get("headers", [])
    operation["parameters"] = [*operation.get("parameters", ()), *headers]
    access: Access = documentation["access"][0]
    operation["security"] = security(access)
    if access.scope is not None and not access.is_optional:
        described = documentation["docstring"]
        needed = f"\n\nRequires the scope `{access.scope}`."
        # PUT and PATCH share it.
        described["description"] = described.get("description", "").removesuffix(needed) + needed
    answers = {str(status): described for status, described in operation.get("responses", {}).items()}
    add_request_examples(operation, REQUESTS.get(name, {}))
    add_answer_examples(answers, ANSWERS.get(name, {}))
    if IDEMPOTENCY_KEY in headers:
        # If a dry run returns 200, only 201 can be replayed.
        success = answers["201" if "201" in answers else "200"]
        success["headers"] = success.get("headers", {}) | REPLAYED_HEADER
    if IF_NONE_MATCH in headers:
        answers["304"] = {"description": "Not modified. The response has no body.", "headers": dict(ETAG_HEADER)}
    operation["responses"] = answers | error_answers(spec, errors_of(operation, documentation, method))


def errors_of(operation: JsonObject, documentation: JsonObject, method: str) -> list[type[errors.ServiceError]]:
    on_body = ON_BODY if "requestBody" in operation else ()
    on_write = ON_WRITE if method != "get" else ()
    on_access = ON_ACCESS if operation["security"] and {} not in operation["security"] else ()
    return [*documentation.get("errors", ()), *ALWAYS, *on_access, *on_body, *on_write]


def security(access: Access) -> list[JsonObject]:
    """The ways to present a key. An empty one means that it also works without a key.

    Scopes are in the description, because tools allow them here for OAuth 2 only.
    """
    if access.scope is None:
        return []
    without_key: list[JsonObject] = [{}] if access.is_optional else []
    return [*({scheme: []} for scheme in SECURITY_SCHEMES), *without_key]


def add_request_examples(operation: JsonObject, examples: JsonObject) -> None:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if len(examples) == 1:
            content["example"] = next(iter(examples.values()))
        else:
            content["examples"] = {summary: {"value": value} for summary, value in examples.items()}


def add_answer_examples(answers: Mapping[str, JsonObject], examples: JsonObject) -> None:
    for status, described in answers.items():
        for media_type, content in described.get("content", {}).items():
            if media_type in examples:
                is_dry_run = status == "200" and "201" in answers
                example = examples[media_type]
                content["example"] = without_ids(example) if is_dry_run else example
