"""Errors in the OpenAPI document: shared responses, a details schema for each slug, and accurate examples."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inventory import errors
from inventory.web.openapi.errors import DETAILS
from tests.contract import DOCUMENT, OPERATIONS, Operation, resolve

COMPONENTS = DOCUMENT["components"]
RESPONSES: dict[str, dict[str, Any]] = COMPONENTS["responses"]

each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=str)
each_response = pytest.mark.parametrize("name", RESPONSES)


def all_errors(base: type[errors.ServiceError] = errors.ServiceError) -> set[type[errors.ServiceError]]:
    return {base}.union(*(all_errors(error) for error in base.__subclasses__()))


def error_schemas(name: str) -> list[dict[str, Any]]:
    """The error schemas of a response."""
    schema = RESPONSES[name]["content"]["application/json"]["schema"]
    return [dict(resolve(choice)) for choice in schema.get("oneOf", [schema])]


@each_operation
def test_errors_reference_shared_responses(operation: Operation) -> None:
    for status, described in operation.description["responses"].items():
        assert (status >= "400") == (described.keys() == {"$ref"}), status


def test_errors_take_less_than_30_percent_of_the_document() -> None:
    references = [
        described
        for operation in OPERATIONS
        for status, described in operation.description["responses"].items()
        if status >= "400"
    ]
    size = len(json.dumps([references, RESPONSES]))
    assert size < 0.3 * len(json.dumps(DOCUMENT))


@each_operation
def test_operations_document_common_errors(operation: Operation) -> None:
    assert operation.slugs(400) >= {"bad_request"}
    assert operation.slugs(414) == {"uri_too_long"}
    assert operation.slugs(422) >= {"validation_error"}
    assert operation.slugs(431) == {"headers_too_large"}
    assert operation.slugs(500) == {"internal_error"}
    assert operation.slugs(503) >= {"database_unavailable", "database_busy"}


@each_operation
def test_only_paths_with_parameters_document_not_found(operation: Operation) -> None:
    assert ("not_found" in operation.slugs(404)) == bool(operation.parameters_in("path"))


@each_response
def test_each_slug_of_a_response_has_one_schema(name: str) -> None:
    words = [resolve(schema["properties"]["error"]) for schema in error_schemas(name)]
    for slug in RESPONSES[name]["content"]["application/json"]["examples"]:
        assert [slug == word.get("const") or slug in word.get("enum", ()) for word in words].count(True) == 1


@pytest.mark.parametrize("error", DETAILS, ids=lambda error: error.slug)
def test_error_details_have_their_own_schema(error: type[errors.ServiceError]) -> None:
    schema = COMPONENTS["schemas"][f"{error.__name__}Error"]
    assert schema["properties"]["error"]["const"] == error.slug
    details = resolve(schema["properties"]["details"])
    assert details == COMPONENTS["schemas"][f"{error.__name__}Details"]
    assert set(details["required"]) <= set(details["properties"])


@each_response
def test_retry_after_is_documented_for_retryable_errors(name: str) -> None:
    slugs = set(RESPONSES[name]["content"]["application/json"]["examples"])
    wait = {error.slug for error in all_errors() if "Retry-After" in error.headers}
    assert ("Retry-After" in RESPONSES[name].get("headers", {})) == bool(slugs & wait)


@pytest.mark.parametrize(
    "error", [error for error in DETAILS if error is not errors.InsufficientScope], ids=lambda error: error.slug
)
def test_error_message_without_details_contains_no_numbers(error: type[errors.ServiceError]) -> None:
    assert not any(letter.isdigit() for letter in error().message)


@each_operation
def test_idempotent_operations_document_the_replay_header(operation: Operation) -> None:
    takes_key = "Idempotency-Key" in operation.parameters_in("header")
    marked = [
        status for status, said in operation.responses.items() if "Idempotent-Replayed" in said.get("headers", {})
    ]
    assert bool(marked) == takes_key
    assert not takes_key or marked in (["200"], ["201"])
