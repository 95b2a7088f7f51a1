"""The texts of the OpenAPI document: every operation, parameter and field is described."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract import DOCUMENT, OPERATIONS, Operation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

SCHEMAS: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]

each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=str)
each_schema = pytest.mark.parametrize("name", SCHEMAS)


def test_operation_ids_are_unique() -> None:
    ids = Counter(operation.description["operationId"] for operation in OPERATIONS)
    assert [name for name, times in ids.items() if times > 1] == []


@each_operation
def test_operation_id_matches_its_view(shared_app: Flask, operation: Operation) -> None:
    name = operation.description["operationId"]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name)
    views = {endpoint.rpartition(".")[2] for endpoint in shared_app.view_functions}
    assert name.replace("put_", "update_") in views


def test_published_operation_ids_are_unchanged() -> None:
    ids = {str(operation): operation.description["operationId"] for operation in OPERATIONS}
    assert ids["GET /products"] == "list_products"
    assert ids["POST /transactions"] == "record_transaction"
    assert ids["POST /transactions/batch"] == "record_batch"
    assert ids["PATCH /products/{product_id}"] == "update_product"
    assert ids["PUT /products/{product_id}"] == "put_product"


@each_operation
def test_operation_has_a_short_summary_and_a_longer_description(operation: Operation) -> None:
    summary, description = operation.description["summary"], operation.description["description"]
    assert len(summary) <= 70
    assert "\n" not in summary
    assert len(description) > 40
    assert not description.startswith(summary)


@each_operation
def test_parameters_have_descriptions(operation: Operation) -> None:
    silent = [given["name"] for given in operation.parameters if len(given.get("description", "")) < 10]
    assert silent == []


@each_operation
def test_only_required_parameters_have_examples(operation: Operation) -> None:
    """The form in /docs sends every example: all filters at once, or an idempotency key that was used before."""
    for given in operation.parameters:
        assert ("example" in given) == given["required"], given["name"]


@each_schema
def test_fields_have_descriptions(name: str) -> None:
    fields = SCHEMAS[name].get("properties", {})
    assert [field for field, said in fields.items() if "description" not in said and "$ref" not in said] == []


@each_schema
def test_object_schemas_have_descriptions(name: str) -> None:
    if SCHEMAS[name].get("type", "object") == "object" and "error" not in SCHEMAS[name].get("properties", {}):
        assert SCHEMAS[name]["description"]


def test_tags_have_descriptions_and_are_used() -> None:
    used = {tag for operation in OPERATIONS for tag in operation.description["tags"]}
    assert {tag["name"] for tag in DOCUMENT["tags"] if tag["description"]} == used


def test_document_has_licence_contact_and_server() -> None:
    info = DOCUMENT["info"]
    assert info["license"] == {"name": "MIT", "identifier": "MIT"}
    assert info["contact"]["name"]
    assert info["version"]
    assert DOCUMENT["servers"][0]["url"] == "/"


@pytest.mark.parametrize(
    "subject", ["Requests", "Values", "Lists", "Access", "Errors", "Retries", "Concurrent changes", "Files"]
)
def test_introduction_covers_the_conventions(subject: str) -> None:
    assert f"**{subject}" in DOCUMENT["info"]["description"]


def texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name in {"description", "summary"} and isinstance(value, str):
                yield value
            else:
                yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)


def test_descriptions_contain_no_rst_literals() -> None:
    assert [text for text in texts(DOCUMENT) if "``" in text] == []


def test_all_components_are_used() -> None:
    document = json.dumps(DOCUMENT)
    unused = [
        f"{kind}/{name}"
        for kind, components in DOCUMENT["components"].items()
        for name in components
        if kind != "securitySchemes"  # named without a path
        if f'"#/components/{kind}/{name}"' not in document
    ]
    assert unused == []
