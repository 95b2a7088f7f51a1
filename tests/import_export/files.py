"""Sends product files and reads exports."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tests.builders import body

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

COLUMNS = "sku,name,description,price,cost,quantity_on_hand,reorder_point,location,category,is_active"
EXPORTED = f"{COLUMNS},expected_quantity"
NEW = "sku,name,price,category\n"


def send(client: FlaskClient, file: str | bytes, content_type: str = "text/csv", **query: str) -> TestResponse:
    content = file.encode() if isinstance(file, str) else file
    return client.post(f"/import/products?{urlencode(query)}", data=content, content_type=content_type)


def import_file(client: FlaskClient, file: str | bytes, **query: str) -> dict[str, Any]:
    """Import a valid file. Returns the counts in the response."""
    response = send(client, file, **query)
    assert response.status_code == 200, response.text
    return body(response)


def problems(client: FlaskClient, file: str | bytes, **query: str) -> list[tuple[int, str | None]]:
    """Import an invalid file. Returns row and column of each error, in the order reported."""
    response = send(client, file, **query)
    assert (response.status_code, body(response)["error"]) == (422, "import_invalid"), response.text
    return [(problem["row"], problem["column"]) for problem in body(response)["details"]["errors"]]


def message(client: FlaskClient, file: str | bytes, **query: str) -> str:
    """The message of the only error in a file."""
    (problem,) = body(send(client, file, **query))["details"]["errors"]
    text: str = problem["message"]
    return text


def only_product(client: FlaskClient) -> dict[str, Any]:
    (product,) = client.get("/products").get_json()
    found: dict[str, Any] = product
    return found


def exported(client: FlaskClient, path: str = "/export/products") -> list[dict[str, str]]:
    """The rows of a CSV export; cells are not parsed."""
    response = client.get(path)
    assert response.status_code == 200, response.text
    return list(csv.DictReader(io.StringIO(response.get_data(as_text=True), newline="")))


def json_lines(client: FlaskClient, path: str) -> list[dict[str, Any]]:
    response = client.get(path)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.get_data().splitlines()]
