"""Multipart uploads (RFC 7578) as different clients send them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inventory import create_app
from tests.builders import body, nothing_changes
from tests.import_export.files import NEW, only_product

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

FILE = f"{NEW}A,Bolt,1,C\n"


def part(disposition: str, content: str = FILE, *headers: str) -> str:
    return "\r\n".join(["--limit", f"Content-Disposition: form-data{disposition}", *headers, "", content, ""])


def send_form(client: FlaskClient, *parts: str, end: str = "--limit--\r\n") -> TestResponse:
    return client.post(
        "/import/products", data="".join(parts) + end, content_type="multipart/form-data; boundary=limit"
    )


@pytest.mark.parametrize(
    "form",
    [
        part('; name="file"; filename="products.csv"', FILE, "Content-Type: text/csv"),
        part('; name="file"; filename="products.csv"', FILE, "Content-Type: application/vnd.ms-excel"),
        part('; name="file"; filename=""', FILE, "Content-Type: application/octet-stream"),
        part('; name="file"'),
        part("; name=file"),
        part('; name="file"', FILE, "Content-Type: text/plain; charset=utf-8"),
    ],
    ids=["text/csv", "Excel content type", "empty file name", "curl -F 'file=<…'", "unquoted name", "text/plain"],
)
def test_file_part_is_identified_by_name_alone(client: FlaskClient, form: str) -> None:
    response = send_form(client, form)
    assert (response.status_code, body(response).get("created")) == (200, 1), response.text
    assert only_product(client)["sku"] == "A"


def test_large_file_part_without_file_name_is_accepted(client: FlaskClient) -> None:
    padding = " " * 1_000
    file = NEW + "".join(f"S{number},Bolt,1,C{padding}\n" for number in range(1_000))
    assert body(send_form(client, part('; name="file"', file)))["created"] == 1_000


@pytest.mark.parametrize("disposition", ["", '; filename="products.csv"', "; name", '; name=""'])
def test_part_without_name_is_rejected(app: Flask, client: FlaskClient, disposition: str) -> None:
    with nothing_changes(app):
        response = send_form(client, part('; name="file"'), part(disposition))
    assert (response.status_code, body(response)["error"]) == (422, "validation_error")
    assert body(response)["details"] == {"form": {"(unnamed)": ["Unknown field."]}}


@pytest.mark.parametrize(
    ("form", "end"),
    [
        (part('; name="file"'), ""),
        (part('; name="file"'), "--limit"),
        (part('; name="file"').replace("limit", "other"), "--other--"),
        (part('; name="file"').replace("Content-Disposition", "X-Other"), "--limit--"),
        ("x" * 1_000_000, ""),
    ],
    ids=["no end", "truncated end", "wrong boundary", "no disposition", "no form"],
)
def test_incomplete_form_is_rejected(app: Flask, client: FlaskClient, form: str, end: str) -> None:
    with nothing_changes(app):
        response = send_form(client, form, end=end)
    assert (response.status_code, body(response)["error"]) == (422, "validation_error")
    assert "form data is incomplete" in body(response)["details"]["form"]["file"][0]


def test_unknown_fields_are_listed_with_shortened_names(app: Flask, client: FlaskClient) -> None:
    parts = [part(f'; name="{"x" * 1_000}{number}"', "1") for number in range(3)]
    parts += [part(f'; name="field {number}"', "1") for number in range(6)]
    with nothing_changes(app):
        response = send_form(client, part('; name="file"'), *parts)
    named = body(response)["details"]["form"]
    assert (response.status_code, sorted(named)) == (422, [*(f"field {number}" for number in range(6)), "x" * 49 + "…"])


def test_form_with_too_many_parts_returns_413(app: Flask, client: FlaskClient) -> None:
    parts = [part(f'; name="field {number}"', "1") for number in range(app.config["MAX_FORM_PARTS"])]
    with nothing_changes(app):
        response = send_form(client, part('; name="file"'), *parts)
    assert (response.status_code, body(response)["error"]) == (413, "payload_too_large")


def test_openapi_describes_import_file_as_binary() -> None:
    document = create_app({"DATABASE_URL": "sqlite://"}).test_client().get("/openapi.json").get_json()
    content = document["paths"]["/import/products"]["post"]["requestBody"]["content"]
    file = content["multipart/form-data"]["schema"]["properties"]["file"]
    assert (file["type"], file["format"]) == ("string", "binary")
    assert content["text/csv"]["schema"]["format"] == "binary"
