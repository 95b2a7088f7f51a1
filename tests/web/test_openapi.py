"""The OpenAPI document is valid, complete, and matches the responses of the service."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.contract import (
    DOCUMENT,
    OPERATIONS,
    SLUGS,
    UNDOCUMENTED,
    Operation,
    assert_documented_refusal,
    resolve,
    routes,
)
from tests.valid_requests import fill, query_value, valid_requests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=str)


def assert_matches(value: Any, schema: Mapping[str, Any]) -> None:
    """Check a value against its schema, including formats."""
    validator = Draft202012Validator(
        {**schema, "components": DOCUMENT["components"]}, format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    problems = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
    assert problems == []


def assert_response_as_documented(operation: Operation, response: TestResponse) -> None:
    described = operation.responses.get(str(response.status_code))
    assert described, f"{operation} does not document {response.status_code}: {response.text[:500]}"
    content = described.get("content", {})
    if not content:
        assert response.data == b""
        return
    assert response.mimetype in content
    if response.mimetype == "application/json":
        schema, body = content["application/json"]["schema"], response.get_json()
        assert_matches(body, schema)
        if response.status_code < 300:
            assert_has_every_field(body, schema)


def assert_has_every_field(body: Any, schema: Mapping[str, Any]) -> None:
    """Check that a response has every field of its schema, null or not. ``required`` does not cover all of them."""
    schema = resolve(schema)
    if "oneOf" in schema:
        assert set(body) in [set(resolve(shape)["properties"]) for shape in schema["oneOf"]]
        return
    for row in body if schema["type"] == "array" else []:
        assert_has_every_field(row, schema["items"])
    if schema["type"] == "object":
        assert set(body) == set(schema["properties"])


def test_document_is_valid_openapi_31() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_document_describes_exactly_the_routes(shared_app: Flask) -> None:
    documented = {(operation.method, operation.path) for operation in OPERATIONS}
    served = {(method, path) for method, path in routes(shared_app) if path not in UNDOCUMENTED}
    assert documented == served


# The fields that each resource promises. Fields may be added, but not removed.
RESOURCES = {
    "CategoryOut": "id name description created_at updated_at",
    "CategoryDetail": "id name description created_at updated_at product_count products",
    "ProductOut": "id sku name description price cost quantity_on_hand reorder_point location category_id is_active"
    " version created_at updated_at",
    "TransactionOut": "id product_id sku transaction_type quantity delta balance_after seq reason reference notes"
    " reverses_id batch_id actor created_at",
    "ImportOut": "rows created updated unchanged stock_transactions dry_run",
}


@pytest.mark.parametrize("name", RESOURCES)
def test_resources_have_the_promised_fields(name: str) -> None:
    assert set(RESOURCES[name].split()) <= set(DOCUMENT["components"]["schemas"][name]["properties"])


@each_operation
def test_operation_has_a_summary_and_declared_tags(operation: Operation) -> None:
    assert operation.description["summary"].endswith(".")
    assert set(operation.description["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}


@each_operation
def test_parameter_defaults_match_their_schema(operation: Operation) -> None:
    named = re.findall(r"{(\w+)}", operation.path)
    assert sorted(operation.parameters_in("path")) == sorted(named)
    for parameter in operation.parameters:
        schema = parameter["schema"]
        assert "type" in schema, parameter["name"]
        if "default" in schema:
            assert_matches(schema["default"], schema)


@each_operation
def test_documented_errors_have_valid_examples(operation: Operation) -> None:
    errors = {int(status): described for status, described in operation.responses.items() if status >= "400"}
    assert {422, 500, 503} <= set(errors)
    for status, described in errors.items():
        content = described["content"]["application/json"]
        assert content["examples"], status
        for slug, example in content["examples"].items():
            assert slug in SLUGS[status]
            assert (example["value"]["error"], example["value"]["code"]) == (slug, status)
            assert_matches(example["value"], content["schema"])
            assert slug in described["description"]


@each_operation
def test_responses_document_their_headers(operation: Operation) -> None:
    for status, described in operation.responses.items():
        headers = set(described.get("headers", {}))
        schema = described.get("content", {}).get("application/json", {}).get("schema", {})
        if status == "201":
            assert "Location" in headers
        if status == "503":
            assert "Retry-After" in headers
        if "limit" in operation.parameters_in("query") and status == "200":
            assert schema["type"] == "array"
            assert "Link" in headers
        if "include_total" in operation.parameters_in("query") and status == "200":
            assert "X-Total-Count" in headers


@each_operation
def test_valid_requests_return_documented_responses(client: FlaskClient, operation: Operation) -> None:
    fill(client)
    for valid in valid_requests(operation):
        response = valid.send(client)
        assert response.status_code < 300, response.text
        assert_response_as_documented(operation, response)
        if "skip" in operation.parameters_in("query"):
            assert response.get_json() != [], "an empty list would not test the schema"
        if response.status_code == 201:
            assert client.get(response.headers["Location"]).status_code == 200


@pytest.mark.parametrize(
    "operation", [operation for operation in OPERATIONS if operation.parameters_in("query")], ids=str
)
def test_documented_query_parameters_are_accepted(shared_app: Flask, operation: Operation) -> None:
    values = {name: query_value(given) for name, given in operation.parameters_in("query").items()}
    query = {name: value for name, value in values.items() if value is not None}
    response = valid_requests(operation)[0].send(shared_app.test_client(), query=query)
    assert response.status_code < 300, response.text
    assert_response_as_documented(operation, response)


@pytest.mark.parametrize(
    "operation", [operation for operation in OPERATIONS if operation.parameters_in("path")], ids=str
)
def test_missing_rows_return_documented_404(shared_app: Flask, operation: Operation) -> None:
    valid = valid_requests(operation)[0]
    missing = operation.path.format(
        **{
            name: 4_000_000 if parameter["schema"]["type"] == "integer" else uuid4()
            for name, parameter in operation.parameters_in("path").items()
        }
    )
    response = valid.send(shared_app.test_client(), path=missing)
    assert response.status_code == 404
    assert assert_documented_refusal(response, operation, missing) != "not_found"
    assert_response_as_documented(operation, response)
