"""A valid request for every operation; negative tests change one thing."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from tests import builders

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from tests.contract import Operation

PRODUCT = {
    "sku": "WASHER-8",
    "name": "Washer M8",
    "description": "Steel\nzinc plated",
    "price": 0.25,
    "cost": 0.125,
    "quantity_on_hand": 3,
    "reorder_point": 5,
    "location": "A-1",
    "category_id": 1,
    "is_active": True,
}
CATEGORY = {"name": "Washers", "description": "Flat\nand spring"}

BY_ID = {
    "product_id": 1,
    "transaction_type": "adjustment",
    "quantity": -1,
    "reason": "damage",
    "reference": "RMA-7",
    "notes": "Dropped\nby the lift",
    "expected_quantity": 8,
}
BY_SKU = {"sku": "bolt-8", "transaction_type": "sale", "quantity": 2}
REVERSAL = {"reference": "RMA-8", "notes": "Sold\nin error"}

# Every field of a body stands in at least one of its sound bodies.
BODIES: dict[str, list[dict[str, Any]]] = {
    "POST /categories": [CATEGORY],
    "PUT /categories/{category_id}": [CATEGORY],
    "PATCH /categories/{category_id}": [CATEGORY],
    "POST /products": [PRODUCT],
    "PUT /products/{product_id}": [PRODUCT | {"version": 1}],
    "PATCH /products/{product_id}": [PRODUCT | {"version": 1}],
    "POST /products/{product_id}/counts": [{"counted_quantity": 7, "expected_quantity": 8} | REVERSAL],
    "POST /transactions": [BY_ID, BY_SKU],
    "POST /transactions/batch": [{"lines": [BY_ID, BY_SKU]}],
    "POST /transactions/{transaction_id}/reversal": [REVERSAL],
    "POST /transactions/batch/{batch_id}/reversal": [REVERSAL],
}
# A row of a product file: the category by its name.
FILE = {name: value for name, value in PRODUCT.items() if name != "category_id"} | {
    "category": "Nuts",
    "is_active": "true",
    "expected_quantity": 3,
}

# The batch's id is not ours to choose: it is looked up when it is needed.
PATH_VALUES = {
    "category_id": "2",
    "product_id": "1",
    "sku": "bolt-8",
    "transaction_id": "3",
    "batch_id": "{batch_id}",
}
# A product that never moved, since only such a one can be deleted.
PATH_EXCEPTIONS = {"DELETE /products/{product_id}": {"product_id": "3"}}


def fill(client: FlaskClient) -> None:
    """Two of everything that is listed, with known ids, and an empty category and an unmoved product to delete."""
    full, _empty = builders.category(client, name="Bolts"), builders.category(client, name="Nuts")
    stocked = builders.product(client, sku="BOLT-8", category_id=full["id"], quantity_on_hand=10)
    builders.product(client, sku="BOLT-10", category_id=full["id"], quantity_on_hand=1)
    builders.product(client, sku="BOLT-12", category_id=full["id"])
    for _sale in range(2):
        builders.transaction(client, stocked["id"], "sale", 1)
    lines = [{"sku": "BOLT-10", "transaction_type": "purchase", "quantity": quantity} for quantity in (1, 2)]
    assert client.post("/transactions/batch", json={"lines": lines}).status_code == 201


def batch_id(client: FlaskClient) -> str:
    """The batch that ``fill`` recorded."""
    found = next(row["batch_id"] for row in client.get("/transactions").get_json() if row["batch_id"])
    return str(found)


CURSORS = {"cursor", "after"}


def kind_of(parameter: Mapping[str, Any]) -> str:
    """What a query parameter holds: a JSON type, or a narrower word for the texts with a notation of their own."""
    schema = one_value(parameter["schema"])
    if parameter["name"] == "sort":
        return "sort"
    if parameter["name"] in CURSORS:
        return "cursor"
    if "enum" in schema:
        return "choice"
    return "date-time" if schema.get("format") == "date-time" else json_type(schema)


def one_value(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of one value of a parameter that may be given more than once."""
    items: Mapping[str, Any] = schema.get("items", schema)
    return items


def json_type(schema: Mapping[str, Any]) -> str:
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return str(next(name for name in types if name != "null"))


def query_value(parameter: Mapping[str, Any]) -> str | None:
    """A text that a query parameter accepts; none where only an answer or the moment can give one."""
    schema = one_value(parameter["schema"])
    if parameter["name"] == "as_of":
        return None
    values = {
        "integer": str(schema.get("minimum", 1)),
        "number": str(schema.get("minimum", 1)),
        "boolean": "true",
        "choice": str(schema.get("enum", [""])[0]),
        "date-time": "2024-02-29T12:00:00+01:00",
        "sort": str(schema.get("default", "id")),
        "string": "BOLT-8",
    }
    return values.get(kind_of(parameter))


def file_of(**changes: Any) -> bytes:
    """A product file with one row, ``FILE`` with its cells changed."""
    text = io.StringIO()
    csv.writer(text).writerows([FILE, [*(FILE | changes).values()]])
    return text.getvalue().encode()


@dataclass(frozen=True)
class ValidRequest:
    """A request that the service accepts."""

    operation: Operation
    path: str
    query: Mapping[str, str]
    body: bytes = b""
    content_type: str | None = None

    def send(self, client: FlaskClient, **changes: Any) -> TestResponse:
        """Send the request, or one that differs from it in ``changes`` to its fields or in ``headers``.

        The whole answer is read, so that a stream of it holds no connection any longer.
        """
        request = replace(self, **{name: value for name, value in changes.items() if name != "headers"})
        path = request.path
        if "{batch_id}" in path:
            path = path.format(batch_id=batch_id(client))
        return client.open(
            path,
            method=self.operation.method,
            query_string=request.query,
            data=request.body,
            content_type=request.content_type,
            headers=changes.get("headers"),
            buffered=True,
        )


def valid_requests(operation: Operation) -> list[ValidRequest]:
    """The operation's sound requests: one for each of its bodies. Raises KeyError if its body is not known here."""
    path = operation.path.format(**PATH_VALUES | PATH_EXCEPTIONS.get(str(operation), {}))
    query = {name: query_value(given) for name, given in operation.parameters_in("query").items() if given["required"]}
    request = ValidRequest(operation, path, {name: value for name, value in query.items() if value is not None})
    if "text/csv" in operation.bodies:
        return [replace(request, body=file_of(), content_type="text/csv")]
    if operation.json_body is None:
        return [request]
    return [
        replace(request, body=orjson.dumps(body), content_type="application/json") for body in BODIES[str(operation)]
    ]
