"""Schemas in the OpenAPI document: what generated clients send, and what they can rely on in responses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from marshmallow import ValidationError

from inventory.fields import BaseSchema, Text
from tests import builders
from tests.contract import DOCUMENT, OPERATIONS, Operation, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flask.testing import FlaskClient

SCHEMAS: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]
PARTIAL = [operation for operation in OPERATIONS if operation.method in {"PUT", "PATCH"}]
CHANGES_OF_FIELDS = [
    operation for operation in PARTIAL if operation.description["operationId"].endswith(("category", "product"))
]


def nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from nodes(value)


def success_schemas() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schema of every successful JSON response, with its operation."""
    for operation in OPERATIONS:
        for status, described in operation.responses.items():
            content = described.get("content", {}).get("application/json", {})
            if status < "300" and content:
                yield f"{operation} {status}", content["schema"]


def accepts(schema: Mapping[str, Any], value: Any) -> bool:
    return bool(Draft202012Validator({**schema, "components": DOCUMENT["components"]}).is_valid(value))


@pytest.mark.parametrize("operation", CHANGES_OF_FIELDS, ids=str)
def test_update_schemas_have_no_defaults_or_required_fields(operation: Operation) -> None:
    schema = operation.json_body
    assert schema is not None
    assert schema["properties"]
    assert [node for node in nodes(schema) if node.keys() & {"default", "required"}] == []


def test_request_bodies_have_no_defaults() -> None:
    """Generated clients would send it, or require it from their users."""
    for operation in OPERATIONS:
        for schema in operation.bodies.values():
            assert [node for node in nodes(schema) if "default" in node] == [], operation


def test_product_defaults_are_stated_in_descriptions() -> None:
    fields = SCHEMAS["ProductIn"]["properties"]
    assert "Defaults to `0`." in fields["quantity_on_hand"]["description"]
    assert "Defaults to `10`." in fields["reorder_point"]["description"]
    assert "Defaults to `true`." in fields["is_active"]["description"]


def generated_body(schema: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """The body that generated clients send: every default of the schema, and the fields that were set."""
    defaults = {name: said["default"] for name, said in schema["properties"].items() if "default" in said}
    return defaults | fields


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_price_update_by_generated_client_keeps_other_fields(client: FlaskClient, method: str) -> None:
    product = builders.product(client, quantity_on_hand=50, reorder_point=3, is_active=False)
    schema = next(found for found in PARTIAL if str(found) == f"{method} /products/{{product_id}}").json_body
    assert schema is not None
    client.open(f"/products/{product['id']}", method=method, json=generated_body(schema, price=11))
    after = builders.body(client.get(f"/products/{product['id']}"))
    assert (after["price"], after["quantity_on_hand"], after["reorder_point"], after["is_active"]) == (11, 50, 3, False)


@pytest.mark.parametrize(
    "schema", [schema for _, schema in success_schemas()], ids=[where for where, _ in success_schemas()]
)
def test_response_schemas_require_all_fields(schema: Mapping[str, Any]) -> None:
    """Unknown fields are not forbidden, since a later release may add one."""
    row = resolve(schema.get("items", schema))
    for shape in row.get("oneOf", row.get("anyOf", [row])):
        found = resolve(shape)
        only_with_key = {"database", "revision", "pool", "limiter"} if "revision" in found["properties"] else set()
        assert set(found["required"]) == set(found["properties"]) - only_with_key
        assert "additionalProperties" not in found


def test_integers_are_int64_and_money_is_double() -> None:
    for name, schema in SCHEMAS.items():
        for field, said in schema.get("properties", {}).items():
            kinds = said.get("type", [])
            if "integer" in kinds and not name.endswith("Error") and name != "ErrorOut":
                assert said["format"] == "int64", (name, field)
            if "number" in kinds:
                assert said["format"] == "double", (name, field)
                assert "multiple of 0.0001" in said["description"]


def test_required_fields_are_properties() -> None:
    for name, schema in SCHEMAS.items():
        assert set(schema.get("required", ())) <= set(schema.get("properties", ())), name


def test_enum_values_are_unique_across_components() -> None:
    """Go generators make each enum value a constant of the package."""
    words = [word for schema in SCHEMAS.values() for word in schema.get("enum", ())]
    assert sorted(words) == sorted(set(words))


def test_enums_are_components() -> None:
    """A generated client then has one type for each enum, wherever it is used."""
    fields = [said for schema in SCHEMAS.values() for said in schema.get("properties", {}).values()]
    parameters = [given["schema"] for found in OPERATIONS for given in found.description.get("parameters", ())]
    assert [said for said in [*fields, *parameters] if "enum" in said] == []


@pytest.mark.parametrize("name", ["TransactionOut", "FeedOut"])
@pytest.mark.parametrize("field", ["transaction_type", "reason"])
def test_ledger_row_schemas_list_their_enum_values(name: str, field: str) -> None:
    words = resolve(SCHEMAS[name]["properties"][field])["enum"]
    assert set(words) >= ({"sale"} if field == "transaction_type" else {"opening", "count", "reversal", "import", None})


def test_query_parameters_are_not_nullable() -> None:
    for operation in OPERATIONS:
        for said in operation.parameters_in("query").values():
            assert "null" not in said["schema"]["type"]
            assert said["schema"].get("default", "") is not None


PRICES = st.integers(1, 10**14 - 1).map(lambda amount: amount / 10_000)


@given(PRICES)
@example(0.07)
@example(9999999999.9999)
def test_storable_prices_match_their_schema(price: float) -> None:
    assert accepts(SCHEMAS["ProductIn"]["properties"]["price"], price)


FIELDS_OF_TEXT: dict[str, tuple[Text, dict[str, Any]]] = {
    "ProductIn.sku": (Text(required=True, max_length=50), SCHEMAS["ProductIn"]["properties"]["sku"]),
    "ProductIn.location": (Text(max_length=50, allow_none=True), SCHEMAS["ProductIn"]["properties"]["location"]),
    "ProductIn.description": (
        Text(max_length=1000, allow_none=True, multiline=True),
        SCHEMAS["ProductIn"]["properties"]["description"],
    ),
}
LETTERS = st.characters(codec="utf-8") | st.sampled_from(" \t\n\r\0\x1f\x7f\x85\u2028\u3000\ufeffx💣")


def is_loaded(field: Text, text: str) -> bool:
    try:
        BaseSchema.from_dict({"text": field})().load({"text": text})
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("name", FIELDS_OF_TEXT)
@given(text=st.text(LETTERS, max_size=60))
@example(text="")
@example(text=" ")
@example(text="x" * 50)
@example(text="x" * 51)
@example(text="a\n")
@example(text="a\x85b")
def test_schema_and_code_accept_the_same_texts(name: str, text: str) -> None:
    """Checked for trimmed texts. Of others, the schema rejects some that the code would trim."""
    field, schema = FIELDS_OF_TEXT[name]
    if accepts(schema, text):
        assert is_loaded(field, text)
    if text == text.strip() and is_loaded(field, text):
        assert accepts(schema, text)


def test_patterns_use_portable_regex_syntax() -> None:
    patterns = {node["pattern"] for node in nodes(DOCUMENT) if isinstance(node.get("pattern"), str)}
    assert len(patterns) >= 3
    for pattern in patterns:
        assert not re.search(r"\\u|\\p|\(\?", pattern), pattern


@pytest.mark.parametrize(
    ("named", "accepted"),
    [({"product_id": 1}, True), ({"sku": "A"}, True), ({"product_id": 1, "sku": "A"}, False), ({}, False)],
    ids=str,
)
def test_movement_names_its_product_by_id_or_sku(client: FlaskClient, named: dict[str, Any], accepted: bool) -> None:
    builders.product(client, sku="A", quantity_on_hand=5)
    movement = {"transaction_type": "sale", "quantity": 1} | named
    assert accepts(SCHEMAS["TransactionIn"], movement) == accepted
    assert (client.post("/transactions", json=movement).status_code == 201) == accepted
