"""The examples of the document, sent to the service in order: the responses match the documented ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from tests.conftest import on_sqlite
from tests.contract import DOCUMENT, OPERATIONS, Operation

if TYPE_CHECKING:
    from flask.testing import FlaskClient

BY_ID = {operation.description["operationId"]: operation for operation in OPERATIONS}
# The order in which the examples are sent, each with its path's examples.
SEQUENCE = [
    *("create_category", "create_product", "record_transaction"),
    *("list_products", "list_low_stock", "get_product", "get_category", "get_transaction"),
    *("list_transactions", "list_product_transactions"),
    *("record_batch", "count_product", "reverse_transaction", "reverse_batch"),
    *("update_product", "put_product", "update_category", "put_category"),
]
# Fields that examples cannot predict: timestamps, random ids, and properties of the machine.
TIMESTAMPS = {"created_at", "updated_at", "last_counted_at", "as_of"}
RANDOM = {"batch_id", "cursor", "database", "revision", "pool"}

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+[+]00:00")

each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=str)


def examples(content: dict[str, Any]) -> list[Any]:
    """The examples of a media type."""
    named = [named["value"] for named in content.get("examples", {}).values()]
    return [content["example"], *named] if "example" in content else named


def request_examples(operation: Operation) -> dict[str, list[Any]]:
    """The examples of a request body, by media type."""
    content = operation.description.get("requestBody", {}).get("content", {})
    return {media_type: examples(described) for media_type, described in content.items()}


def stable(value: Any) -> Any:
    """A value in which unpredictable fields are replaced by whether they are null."""
    if isinstance(value, list):
        return [stable(item) for item in value]
    if isinstance(value, dict):
        unknown = TIMESTAMPS | RANDOM
        return {name: item is None if name in unknown else stable(item) for name, item in value.items()}
    return value


def send(client: FlaskClient, operation: Operation, body: Any, **known: Any) -> Any:
    values = {name: known.get(name, given["example"]) for name, given in operation.parameters_in("path").items()}
    return client.open(operation.path.format(**values), method=operation.method, json=body)


def send_examples(client: FlaskClient, *names: str) -> None:
    """Send the first example of each operation."""
    for name in names:
        body = request_examples(BY_ID[name])["application/json"][0]
        assert send(client, BY_ID[name], body).status_code == 201


@each_operation
def test_request_bodies_have_examples(operation: Operation) -> None:
    """Except forms, whose file is chosen by a user."""
    examples_by_type = request_examples(operation)
    assert all(found for media_type, found in examples_by_type.items() if media_type != "multipart/form-data")


@each_operation
def test_success_responses_have_examples(operation: Operation) -> None:
    for status, described in operation.responses.items():
        for media_type, content in described.get("content", {}).items():
            assert status >= "400" or examples(content), (status, media_type)


@each_operation
def test_examples_match_their_schemas(operation: Operation) -> None:
    contents = [*operation.description.get("requestBody", {}).get("content", {}).values()]
    contents += [
        content for described in operation.responses.values() for content in described.get("content", {}).values()
    ]
    for content in contents:
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        for example in examples(content):
            assert [error.message for error in validator.iter_errors(example)] == []


def test_examples_in_order_return_documented_responses(client: FlaskClient) -> None:
    known: dict[str, str] = {}
    for name in SEQUENCE:
        operation = BY_ID[name]
        body = next(iter(request_examples(operation).values()), [None])[0]
        response = send(client, operation, body, **known)
        assert response.status_code < 300, (name, response.text)
        answer = response.get_json()
        documented = operation.responses[str(response.status_code)]["content"]["application/json"]["example"]
        assert stable(answer) == stable(documented), name
        if name == "record_batch":
            known["batch_id"] = answer["batch_id"]


@pytest.mark.parametrize("position", range(len(request_examples(BY_ID["record_transaction"])["application/json"])))
def test_each_movement_example_is_recorded(client: FlaskClient, position: int) -> None:
    send_examples(client, "create_category", "create_product")
    movement = request_examples(BY_ID["record_transaction"])["application/json"][position]
    assert send(client, BY_ID["record_transaction"], movement).status_code == 201
    (row, *_) = client.get("/transactions").get_json()
    assert row["transaction_type"] == movement["transaction_type"]
    assert abs(row["delta"]) == abs(movement["quantity"])


def test_dry_run_of_example_returns_documented_response(client: FlaskClient) -> None:
    operation = BY_ID["record_transaction"]
    send_examples(client, "create_category", "create_product")
    response = client.post("/transactions?dry_run=true", json=request_examples(operation)["application/json"][0])
    documented = operation.responses["200"]["content"]["application/json"]["example"]
    assert stable(response.get_json()) == stable(documented)


@on_sqlite
def test_feed_of_examples_matches_the_document(client: FlaskClient) -> None:
    """On PostgreSQL a feed waits for transactions of other databases, which other tests have open."""
    send_examples(client, "create_category", "create_product", "record_transaction")
    operation = BY_ID["read_transactions_feed"]
    documented = operation.responses["200"]["content"]["application/json"]["example"]
    assert stable(client.get(operation.path).get_json()) == stable(documented)


@pytest.mark.parametrize("name", ["export_price_list", "export_products", "export_transactions"])
def test_exports_of_examples_match_the_document(client: FlaskClient, name: str) -> None:
    send_examples(client, "create_category", "create_product", "record_transaction")
    documented = BY_ID[name].responses["200"]["content"]
    for media_type, content in documented.items():
        query = {"format": "jsonl"} if media_type == "application/x-ndjson" else {}
        response = client.get(BY_ID[name].path, query_string=query)
        assert response.mimetype == media_type
        assert TIMESTAMP.sub("", response.text) == TIMESTAMP.sub("", content["example"])


def test_import_of_example_file_returns_documented_response(client: FlaskClient) -> None:
    send_examples(client, "create_category", "create_product")
    operation = BY_ID["import_products"]
    (file,) = request_examples(operation)["text/csv"]
    response = client.post(operation.path, data=file, content_type="text/csv")
    assert response.get_json() == operation.responses["200"]["content"]["application/json"]["example"]
    assert {product["sku"]: product["price"] for product in client.get("/products").get_json()} == {
        "MUG-01": 14.5,
        "MUG-02": 12.5,
    }
