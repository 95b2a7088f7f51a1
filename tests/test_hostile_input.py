"""Invalid input of every kind, on every endpoint: rejected as documented, nothing written, nothing disclosed.

The requests are derived from the OpenAPI document: each valid request of tests/valid_requests.py with one invalid
value, in every body field, query parameter, path and file cell. New endpoints and fields are tested too, or fail here
until tests/valid_requests.py has valid values for them and tests/hostile.py knows their type.
"""

from __future__ import annotations

import gzip
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest
from sqlalchemy import func, select

from inventory.database.base import Base, db, fetch_one
from inventory.products import service as products
from inventory.transactions import queries
from tests import builders, hostile
from tests.contract import (
    OPERATIONS,
    UNDOCUMENTED,
    Operation,
    assert_documented_refusal,
    assert_envelope,
    resolve,
    routes,
)
from tests.valid_requests import CURSORS, FILE, ValidRequest, query_value, valid_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flask import Flask

TABLES = Base.metadata.sorted_tables
MARKS = select(
    *(select(func.count()).select_from(table).scalar_subquery() for table in TABLES),
    *(select(func.max(table.c.updated_at)).scalar_subquery() for table in TABLES if "updated_at" in table.c),
)
# Seconds: far more than a rejection takes, far less than one with quadratic run time.
PATIENCE = 60

pytestmark = pytest.mark.slow


class Attack:
    """Sends requests that must be rejected, and counts them."""

    def __init__(self, app: Flask) -> None:
        self.app, self.client = app, app.test_client()
        self.sent = 0
        self.before = self.marks()

    def marks(self) -> tuple[Any, ...]:
        """Row counts and newest change of every table: a quick check that nothing was written."""
        with self.app.app_context():
            return tuple(db.session.execute(MARKS).one())

    def rejected(self, valid: ValidRequest, what: str, **changes: Any) -> dict[str, Any]:
        """Check that the request with ``changes``, described by ``what``, is rejected. Returns the envelope."""
        self.sent += 1
        what = ascii(what if len(what) < 200 else f"{what[:200]} and so on, {len(what)} characters")
        started = time.monotonic()
        response = valid.send(self.client, **changes)
        assert time.monotonic() - started < PATIENCE, f"{valid.operation}, {what}, took too long to reject"
        assert_documented_refusal(response, valid.operation, what)
        assert not hostile.ECHO.search(response.text), f"{valid.operation}, {what}, is repeated: {response.text[:500]}"
        if valid.operation.method != "GET":
            assert self.marks() == self.before, f"{valid.operation}, {what}, wrote something"
        return builders.body(response)


@pytest.fixture
def attack(shared_app: Flask, record_property: Callable[[str, object], None]) -> Iterator[Attack]:
    attack = Attack(shared_app)
    with builders.nothing_changes(shared_app):
        yield attack
    record_property("hostile requests", attack.sent)


def each(condition: Callable[[Operation], object] = bool) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("operation", [found for found in OPERATIONS if condition(found)], ids=str)


each_with_json = each(lambda operation: operation.json_body)
each_with_body = each(lambda operation: operation.bodies)
each_with_query = each(lambda operation: operation.parameters_in("query"))


def test_every_route_is_covered(shared_app: Flask) -> None:
    documentation = {("GET", path) for path in UNDOCUMENTED}
    assert set(routes(shared_app)) == {(found.method, found.path) for found in OPERATIONS} | documentation
    for operation in OPERATIONS:
        assert valid_requests(operation), operation
        assert set(operation.bodies) <= {"application/json", "text/csv", "multipart/form-data"}, operation
        assert {parameter["in"] for parameter in operation.parameters} <= {"path", "query", "header"}, operation
        assert set(operation.parameters_in("header")) <= set(hostile.HEADERS), operation


@each_with_query
def test_every_query_parameter_is_covered(operation: Operation) -> None:
    for parameter in operation.parameters_in("query").values():
        assert len(hostile.hostile_texts(parameter)) >= 7, parameter


@each_with_json
def test_every_body_field_is_covered(operation: Operation) -> None:
    assert operation.json_body is not None
    valid = [orjson.loads(request.body) for request in valid_requests(operation)]
    assert list(fields_not_covered(operation.json_body, valid)) == []


# Clients send it back with a product that they have read. An invalid timestamp there is ignored.
IGNORED = "updated_at"


def fields_not_covered(schema: Mapping[str, Any], values: list[Any], where: str = "") -> Iterator[str]:
    """Fields of a schema that none of the values contains."""
    schema = resolve(schema)
    properties = schema.get("properties", {}).items()
    for name, field in ((name, field) for name, field in properties if not field.get("readOnly") and name != IGNORED):
        held = [value[name] for value in values if name in value]
        if not held:
            yield f"{where}{name}"
        yield from fields_not_covered(field, held, f"{where}{name}.")
    if "items" in schema:
        yield from fields_not_covered(schema["items"], [item for value in values for item in value], where)


def test_every_file_column_is_covered() -> None:
    assert sorted(hostile.column_schemas()) == sorted(FILE)


@each_with_json
def test_body_with_invalid_value_is_rejected(attack: Attack, operation: Operation) -> None:
    assert operation.json_body is not None
    for valid in valid_requests(operation):
        for what, text in hostile.hostile_json(operation.json_body, orjson.loads(valid.body)):
            if text or operation.needs_body:
                attack.rejected(valid, what, body=text.encode())


@each_with_json
def test_malformed_json_is_rejected(attack: Attack, operation: Operation) -> None:
    for valid in valid_requests(operation):
        for body in filter(None, hostile.no_json_in_utf_8(valid.body)):
            assert attack.rejected(valid, repr(body), body=body)["error"] == "malformed_json", body


@each(lambda operation: operation.json_body and operation.needs_body)
def test_missing_body_is_rejected(attack: Attack, operation: Operation) -> None:
    valid = valid_requests(operation)[0]
    for content_type in ("application/json", None):
        assert attack.rejected(valid, "no body", body=b"", content_type=content_type)["error"] == "malformed_json"


@each_with_body
def test_wrong_content_type_or_encoding_is_rejected(attack: Attack, operation: Operation) -> None:
    for valid in valid_requests(operation):
        for slug, what, changes in hostile.wrong_wrappings(valid):
            assert attack.rejected(valid, what, **changes)["error"] == slug, what


@each_with_body
def test_body_over_limit_is_rejected(attack: Attack, operation: Operation, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("MAX_CONTENT_LENGTH", "INVENTORY_MAX_IMPORT_BYTES"):
        monkeypatch.setitem(attack.app.config, limit, 1_000)
    for valid in valid_requests(operation):
        for size in (1_001, 1_000_000):
            padded = valid.body.ljust(size, b"\n")
            assert attack.rejected(valid, f"{size} bytes", body=padded)["error"] == "payload_too_large"
        assert attack.rejected(valid, "as much as is allowed", body=b" " * 1_000)["code"] != 413


REJECTED_UPDATES: list[tuple[str, dict[str, Any]]] = [
    ("duplicate_sku", {"sku": "bolt-10"}),
    ("unknown_category", {"category_id": 9}),
    ("precondition_failed", {"version": 2}),
]
REJECTED_BY_STORED_DATA: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "POST /categories": [("duplicate_category", {"name": "bOLTS"})],
    "PUT /categories/{category_id}": [("duplicate_category", {"name": "bOLTS"})],
    "PATCH /categories/{category_id}": [("duplicate_category", {"name": "bOLTS"})],
    "POST /products": [("duplicate_sku", {"sku": "bolt-8"}), ("unknown_category", {"category_id": 4_000_000})],
    "PUT /products/{product_id}": REJECTED_UPDATES,
    "PATCH /products/{product_id}": REJECTED_UPDATES,
    "POST /transactions": [
        ("unknown_product", {"product_id": 4_000_000}),
        ("insufficient_stock", {"quantity": -9}),
        ("stale_quantity", {"expected_quantity": 7}),
        ("validation_error", {"quantity": 0}),
        ("validation_error", {"transaction_type": "purchase"}),
        ("validation_error", {"sku": "BOLT-8"}),
    ],
    "POST /transactions/batch": [
        ("batch_rejected", {"lines": [{"sku": "NONE", "transaction_type": "sale", "quantity": 1}]}),
        ("batch_rejected", {"lines": [{"product_id": 1, "transaction_type": "sale", "quantity": 4}] * 3}),
    ],
    "POST /products/{product_id}/counts": [("stale_quantity", {"expected_quantity": 7})],
}


@each(lambda operation: str(operation) in REJECTED_BY_STORED_DATA)
def test_body_conflicting_with_stored_data_is_rejected(attack: Attack, operation: Operation) -> None:
    valid = valid_requests(operation)[0]
    for slug, changes in REJECTED_BY_STORED_DATA[str(operation)]:
        body = orjson.dumps(orjson.loads(valid.body) | changes)
        assert attack.rejected(valid, str(changes), body=body)["error"] == slug


@each_with_query
def test_query_parameter_with_invalid_value_is_rejected(attack: Attack, operation: Operation) -> None:
    valid = valid_requests(operation)[0]
    for name, parameter in operation.parameters_in("query").items():
        for text in hostile.hostile_texts(parameter):
            attack.rejected(valid, f"{name}={text}", query={**valid.query, name: text})


@each()
def test_unknown_and_repeated_query_parameters_are_rejected(attack: Attack, operation: Operation) -> None:
    valid = valid_requests(operation)[0]
    for name in hostile.STRAY_PARAMETERS:
        envelope = attack.rejected(valid, f"stray {name}", query={**valid.query, name: hostile.HOSTILE})
        assert envelope["error"] == "validation_error"
    for name, parameter in operation.parameters_in("query").items():
        value = query_value(parameter) or "x"
        often, problem = 2, "Duplicate parameter."
        if most := parameter["schema"].get("maxItems"):
            often, problem = most + 1, f"Longer than maximum length {most}."
        envelope = attack.rejected(valid, f"{name} {often} times", query={**valid.query, name: [value] * often})
        assert envelope["details"] == {"query": {name: [problem]}}


@pytest.mark.parametrize("path", sorted(UNDOCUMENTED))
def test_docs_reject_query_parameters(shared_app: Flask, path: str) -> None:
    for query in ("hostile=1", "=", "%00", "%FF=%FF", "a=1&a=2"):
        response = shared_app.test_client().get(path.format(path="index.html"), query_string=query)
        assert assert_envelope(response, 422, query) == "validation_error"


FEEDS = {"/products/feed": products.FEED, "/transactions/feed": queries.FEED}


def cursor_of(operation: Operation) -> str:
    """The name of the parameter that takes a cursor, if there is one."""
    return next((name for name in CURSORS if name in operation.parameters_in("query")), "")


def sorting_columns(operation: Operation) -> list[str | None]:
    """Every column that a list can be sorted by; None for a list with a fixed order."""
    pattern = operation.parameters_in("query").get("sort", {"schema": {}})["schema"].get("pattern", "")
    columns = re.search(r"\((.*?)\)", pattern)
    return [*columns[1].split("|")] if columns else [None]


def valid_cursor(attack: Attack, valid: ValidRequest, query: dict[str, str]) -> str:
    """A valid cursor: of the next page, or for a feed, which may hold back new rows for a while, of its first row."""
    name = cursor_of(valid.operation)
    if name == "after":
        feed = FEEDS[valid.path]
        with attack.client.application.app_context():
            row = fetch_one(feed.by_id, {"id": 1})
        assert row is not None
        return feed.cursor(row)
    link = re.search(rf'{name}=([\w-]+)>; rel="next"', valid.send(attack.client, query=query).headers["Link"])
    assert link
    return link[1]


@each(cursor_of)
def test_tampered_cursor_is_rejected(attack: Attack, operation: Operation) -> None:
    valid, name = valid_requests(operation)[0], cursor_of(operation)
    for column in sorting_columns(operation):
        query = {"limit": "1"} | ({"sort": column} if column else {})
        cursor = valid_cursor(attack, valid, query)
        assert valid.send(attack.client, query=query | {name: cursor}).status_code == 200, column
        for changed, may_be_valid in hostile.tampered(cursor):
            attack.sent += 1
            response = valid.send(attack.client, query=query | {name: changed})
            if not (may_be_valid and response.status_code == 200):
                assert assert_envelope(response, 400, f"sort={column}&{name}={changed}") == "invalid_cursor"


@each(lambda operation: operation.parameters_in("path"))
def test_unknown_or_malformed_path_id_returns_404(attack: Attack, operation: Operation) -> None:
    valid = valid_requests(operation)[0]
    for text in hostile.BAD_IDS:
        quoted = quote(text, safe="", errors="surrogatepass")
        path = operation.path.format(**dict.fromkeys(operation.parameters_in("path"), quoted))
        assert attack.rejected(valid, f"id {text}", path=path)["code"] == 404, text


@each(lambda operation: any(hostile.HEADERS[name][1] for name in operation.parameters_in("header")))
def test_header_with_invalid_value_is_rejected(attack: Attack, operation: Operation) -> None:
    valid = valid_requests(operation)[0]
    for name in operation.parameters_in("header"):
        slug, texts = hostile.HEADERS[name]
        for text in texts:
            assert attack.rejected(valid, f"{name}: {text}", headers={name: text})["error"] == slug, text


REJECTED_DELETES = {
    "DELETE /categories/{category_id}": ({"category_id": 1}, "category_not_empty"),
    "DELETE /products/{product_id}": ({"product_id": 1}, "product_has_history"),
}


@each(lambda operation: operation.method == "DELETE")
def test_delete_of_referenced_row_is_rejected(attack: Attack, operation: Operation) -> None:
    ids, slug = REJECTED_DELETES[str(operation)]
    valid = valid_requests(operation)[0]
    assert attack.rejected(valid, str(ids), path=operation.path.format(**ids))["error"] == slug


@pytest.fixture
def file() -> ValidRequest:
    """The import of a valid file."""
    (operation,) = (operation for operation in OPERATIONS if "text/csv" in operation.bodies)
    return valid_requests(operation)[0]


def test_file_with_invalid_cell_is_rejected(attack: Attack, file: ValidRequest) -> None:
    for column, text, body in hostile.files_with_a_wrong_cell():
        details = attack.rejected(file, f"{column}: {text}", body=body)["details"]
        assert details["error_count"] == len(details["errors"]) >= 1, text
        assert {(problem["row"], problem["column"]) for problem in details["errors"]} == {(2, column)}, text


def test_malformed_file_is_rejected(attack: Attack, file: ValidRequest) -> None:
    for what, body in hostile.FILES_WITHOUT_SENSE.items():
        assert attack.rejected(file, what, body=body)["error"] == "import_invalid", what


def test_import_mode_create_rejects_existing_sku(attack: Attack, file: ValidRequest) -> None:
    body = file.body.replace(b"WASHER-8", b"bolt-8")
    assert attack.rejected(file, "bolt-8", body=body, query={"mode": "create"})["error"] == "import_invalid"


def test_file_that_is_not_utf_8_is_rejected(attack: Attack, file: ValidRequest) -> None:
    stray = [file.body.replace(b"Washer", b"Washer" + stray) for stray in hostile.NOT_UTF_8]
    for body in [*stray, *hostile.NOT_UTF_8, file.body.decode().encode("utf-16"), gzip.compress(file.body)]:
        assert attack.rejected(file, repr(body), body=body)["error"] == "unsupported_encoding", body


def test_form_without_valid_file_is_rejected(attack: Attack, file: ValidRequest) -> None:
    for what, body in hostile.forms_without_a_file(file.body).items():
        assert attack.rejected(file, what, body=body, content_type=hostile.FORM)["error"] == "validation_error", what
    form = hostile.PART % (b"file", hostile.NAMED, file.body)
    for ending in ("", "; boundary=", "; boundary=\x7f", "; boundary=" + "x" * 5_000, "; boundary=c"):
        attack.rejected(file, ending, body=form, content_type=f"multipart/form-data{ending}")
    nonsense = form.replace(file.body, b"nonsense")
    assert attack.rejected(file, "nonsense", body=nonsense, content_type=hostile.FORM)["error"] == "import_invalid"
    valid = file.send(attack.client, body=form, content_type=hostile.FORM, query={"dry_run": "true"})
    assert valid.status_code == 200
