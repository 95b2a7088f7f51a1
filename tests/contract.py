"""The documented errors and operations, against which responses are checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from inventory import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flask import Flask
    from werkzeug.test import TestResponse

SLUGS = {
    400: {
        "bad_request",
        "malformed_json",
        "insufficient_stock",
        "unknown_product",
        "unknown_category",
        "invalid_cursor",
        "idempotency_key_required",
        "invalid_idempotency_key",
        "batch_rejected",
        "unsupported_encoding",
    },
    401: {"unauthorized"},
    403: {"insufficient_scope", "cross_site_request"},
    404: {"category_not_found", "product_not_found", "transaction_not_found", "not_found"},
    405: {"method_not_allowed"},
    409: {
        "duplicate_sku",
        "duplicate_category",
        "category_not_empty",
        "product_has_history",
        "product_inactive",
        "stale_quantity",
        "already_reversed",
        "not_reversible",
        "idempotency_in_progress",
    },
    412: {"precondition_failed"},
    413: {"payload_too_large"},
    414: {"uri_too_long"},
    415: {"unsupported_media_type"},
    422: {"validation_error", "idempotency_key_reused", "import_invalid"},
    429: {"rate_limited"},
    431: {"headers_too_large"},
    500: {"internal_error"},
    501: {"not_implemented"},
    503: {"database_unavailable", "database_busy", "query_too_slow"},
    507: {"storage_full"},
}
# What a response never contains: words of a stack trace, of the database, or of the libraries underneath.
LEAKS = re.compile(
    r"Traceback|File \"|\.py\b|sqlalchemy|psycopg|sqlite|marshmallow|werkzeug|\bSELECT |\bINSERT ", re.IGNORECASE
)
# The pages that document the service are not in the document themselves, and Prometheus needs none.
UNDOCUMENTED = {"/", "/metrics", "/openapi.json", "/docs/", "/docs/{path}"}


def read_document() -> dict[str, Any]:
    app = create_app({"DATABASE_URL": "sqlite://"})
    document: dict[str, Any] = app.test_client().get("/openapi.json").get_json()
    return document


DOCUMENT = read_document()


def resolve(described: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is described, or the component that it refers to. What may be null besides is one with two types."""
    for choice in described.get("anyOf", ()):
        if choice != {"type": "null"} and {"type": "null"} in described["anyOf"]:
            component = resolve(choice)
            nullable = {"type": [component["type"], "null"], "enum": [*component["enum"], None]}
            return {**described, **component, **nullable}
    if "$ref" not in described:
        return described
    _, _, kind, name = described["$ref"].split("/")
    found: Mapping[str, Any] = DOCUMENT["components"][kind][name]
    return {**found, **{key: value for key, value in described.items() if key != "$ref"}}


@dataclass(frozen=True)
class Operation:
    """A method of a path, as the document describes it."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @cached_property
    def description(self) -> dict[str, Any]:
        described: dict[str, Any] = DOCUMENT["paths"][self.path][self.method.lower()]
        return described

    @cached_property
    def parameters(self) -> list[dict[str, Any]]:
        shared: list[dict[str, Any]] = DOCUMENT["paths"][self.path].get("parameters", [])
        given = shared + list(self.description.get("parameters", []))
        return [parameter | {"schema": resolve(parameter["schema"])} for parameter in given]

    def parameters_in(self, location: str) -> dict[str, dict[str, Any]]:
        return {given["name"]: given for given in self.parameters if given["in"] == location}

    @cached_property
    def bodies(self) -> dict[str, Mapping[str, Any]]:
        """Schema of the request's body by media type."""
        content = self.description.get("requestBody", {}).get("content", {})
        return {media_type: resolve(described["schema"]) for media_type, described in content.items()}

    @property
    def json_body(self) -> Mapping[str, Any] | None:
        return self.bodies.get("application/json")

    @property
    def needs_body(self) -> bool:
        return bool(self.description.get("requestBody", {}).get("required"))

    @cached_property
    def responses(self) -> dict[str, Mapping[str, Any]]:
        """Every documented answer by its status."""
        return {status: resolve(described) for status, described in self.description["responses"].items()}

    def slugs(self, status: int) -> set[str]:
        """The errors documented for a status."""
        content = self.responses.get(str(status), {}).get("content", {})
        return set(content.get("application/json", {}).get("examples", {}))


OPERATIONS = [
    Operation(method.upper(), path)
    for path, item in DOCUMENT["paths"].items()
    for method in item
    if method != "parameters"
]


def routes(app: Flask) -> Iterator[tuple[str, str]]:
    """Every method and path that the application answers to, in the document's notation."""
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            yield method, re.sub(r"<(?:[^<>:]+:)?([^<>]+)>", r"{\1}", rule.rule)


def assert_envelope(response: TestResponse, status: int, what: object) -> str:
    """That the answer is an error of this status in the one envelope, and gives nothing away. Returns its slug."""
    said = f"{what}: {response.status_code} {response.text[:500]}"
    assert response.status_code == status, said
    assert response.mimetype == "application/json", said
    body = response.get_json()
    assert {"error", "message", "code"} <= set(body) <= {"error", "message", "code", "details"}, said
    assert body["code"] == status, said
    assert body["error"] in SLUGS[status], said
    assert isinstance(body["message"], str), said
    assert isinstance(body.get("details", {}), dict), said
    assert not LEAKS.search(response.text), said
    slug: str = body["error"]
    return slug


def assert_documented_refusal(response: TestResponse, operation: Operation, what: object) -> str:
    """That the answer is one of the refusals that the operation documents. Returns its slug."""
    said = f"{operation}, {what}: {response.status_code} {response.text[:500]}"
    assert 400 <= response.status_code < 500, said
    slug = assert_envelope(response, response.status_code, said)
    assert slug in operation.slugs(response.status_code) | {"not_found"}, said
    return slug
