"""Bad input of every kind, on every route: refused as documented, nothing written, nothing given away.

What is sent follows from the OpenAPI document: each sound request of tests/valid_requests.py with one thing wrong, in
every field of every body, every query parameter, every path and every cell of a file. What is added to the service is
attacked too, or fails here until its sound values stand in tests/valid_requests.py and its kind in tests/hostile.py.
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

from inventory.database.base import Base, db
from inventory.models.transaction import Transaction
from inventory.transactions.queries import feed_cursor
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
from tests.valid_requests import CURSORS, FILE, Sound, query_value, sound_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flask import Flask

TABLES = Base.metadata.sorted_tables
MARKS = select(
    *(select(func.count()).select_from(table).scalar_subquery() for table in TABLES),
    *(select(func.max(table.c.updated_at)).scalar_subquery() for table in TABLES if "updated_at" in table.c),
)
# Seconds: far more than any refusal takes, far less than one whose time grows with the square of the input.
PATIENCE = 10


class Attack:
    """Sends requests that must be refused, and counts them."""

    def __init__(self, app: Flask) -> None:
        self.app, self.client = app, app.test_client()
        self.sent = 0
        self.before = self.marks()

    def marks(self) -> tuple[Any, ...]:
        """How many rows every table has, and when one was changed last: a quick sign that something was written."""
        with self.app.app_context():
            return tuple(db.session.execute(MARKS).one())

    def refused(self, sound: Sound, what: str, **changes: Any) -> dict[str, Any]:
        """Send the request with ``changes``, described by ``what``, and see it refused. Returns the envelope."""
        self.sent += 1
        what = ascii(what if len(what) < 200 else f"{what[:200]} and so on, {len(what)} characters")
        started = time.monotonic()
        response = sound.send(self.client, **changes)
        assert time.monotonic() - started < PATIENCE, f"{sound.operation}, {what}, took too long to refuse"
        assert_documented_refusal(response, sound.operation, what)
        assert not hostile.ECHO.search(response.text), f"{sound.operation}, {what}, is repeated: {response.text[:500]}"
        if sound.operation.method != "GET":
            assert self.marks() == self.before, f"{sound.operation}, {what}, wrote something"
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


def test_every_route_is_attacked(shared_app: Flask) -> None:
    documentation = {("GET", path) for path in UNDOCUMENTED}
    assert set(routes(shared_app)) == {(found.method, found.path) for found in OPERATIONS} | documentation
    for operation in OPERATIONS:
        assert sound_requests(operation), operation
        assert set(operation.bodies) <= {"application/json", "text/csv", "multipart/form-data"}, operation
        assert {parameter["in"] for parameter in operation.parameters} <= {"path", "query", "header"}, operation
        assert set(operation.parameters_in("header")) <= set(hostile.HEADERS), operation


@each_with_query
def test_every_query_parameter_is_attacked(operation: Operation) -> None:
    for parameter in operation.parameters_in("query").values():
        assert len(hostile.hostile_texts(parameter)) >= 7, parameter


@each_with_json
def test_every_field_of_a_body_is_attacked(operation: Operation) -> None:
    assert operation.json_body is not None
    sound = [orjson.loads(request.body) for request in sound_requests(operation)]
    assert list(fields_left_out(operation.json_body, sound)) == []


def fields_left_out(schema: Mapping[str, Any], values: list[Any], where: str = "") -> Iterator[str]:
    """Fields of a schema that none of the values holds."""
    schema = resolve(schema)
    for name, field in schema.get("properties", {}).items():
        held = [value[name] for value in values if name in value]
        if not held:
            yield f"{where}{name}"
        yield from fields_left_out(field, held, f"{where}{name}.")
    if "items" in schema:
        yield from fields_left_out(schema["items"], [item for value in values for item in value], where)


def test_every_column_of_a_file_is_attacked() -> None:
    assert sorted(hostile.column_schemas()) == sorted(FILE)


@each_with_json
def test_bodies_with_a_wrong_value_are_refused_and_change_nothing(attack: Attack, operation: Operation) -> None:
    assert operation.json_body is not None
    for sound in sound_requests(operation):
        for what, text in hostile.hostile_json(operation.json_body, orjson.loads(sound.body)):
            if text or operation.needs_body:
                attack.refused(sound, what, body=text.encode())


@each_with_json
def test_bodies_that_are_no_json_in_utf_8_are_refused_and_change_nothing(attack: Attack, operation: Operation) -> None:
    for sound in sound_requests(operation):
        for body in filter(None, hostile.no_json_in_utf_8(sound.body)):
            assert attack.refused(sound, repr(body), body=body)["error"] == "malformed_json", body


@each(lambda operation: operation.json_body and operation.needs_body)
def test_requests_without_a_body_are_refused_and_change_nothing(attack: Attack, operation: Operation) -> None:
    sound = sound_requests(operation)[0]
    for content_type in ("application/json", None):
        assert attack.refused(sound, "no body", body=b"", content_type=content_type)["error"] == "malformed_json"


@each_with_body
def test_bodies_of_another_type_or_encoding_are_refused_and_change_nothing(
    attack: Attack, operation: Operation
) -> None:
    for sound in sound_requests(operation):
        for slug, what, changes in hostile.wrong_wrappings(sound):
            assert attack.refused(sound, what, **changes)["error"] == slug, what


@each_with_body
def test_bodies_past_the_limit_are_refused_and_change_nothing(
    attack: Attack, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("MAX_CONTENT_LENGTH", "INVENTORY_MAX_IMPORT_BYTES"):
        monkeypatch.setitem(attack.app.config, limit, 1_000)
    for sound in sound_requests(operation):
        for size in (1_001, 1_000_000):
            padded = sound.body.ljust(size, b"\n")
            assert attack.refused(sound, f"{size} bytes", body=padded)["error"] == "payload_too_large"
        assert attack.refused(sound, "as much as is allowed", body=b" " * 1_000)["code"] != 413


REFUSED_BY_WHAT_IS_STORED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "POST /categories": [("duplicate_category", {"name": "bOLTS"})],
    "PUT /categories/{category_id}": [("duplicate_category", {"name": "bOLTS"})],
    "PATCH /categories/{category_id}": [("duplicate_category", {"name": "bOLTS"})],
    "POST /products": [("duplicate_sku", {"sku": "bolt-8"}), ("unknown_category", {"category_id": 4_000_000})],
    "PUT /products/{product_id}": [("duplicate_sku", {"sku": "bolt-10"}), ("unknown_category", {"category_id": 9})],
    "PATCH /products/{product_id}": [("duplicate_sku", {"sku": "bolt-10"}), ("unknown_category", {"category_id": 9})],
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


@each(lambda operation: str(operation) in REFUSED_BY_WHAT_IS_STORED)
def test_bodies_that_contradict_what_is_stored_are_refused_and_change_nothing(
    attack: Attack, operation: Operation
) -> None:
    sound = sound_requests(operation)[0]
    for slug, changes in REFUSED_BY_WHAT_IS_STORED[str(operation)]:
        body = orjson.dumps(orjson.loads(sound.body) | changes)
        assert attack.refused(sound, str(changes), body=body)["error"] == slug


@each_with_query
def test_query_parameters_with_a_wrong_value_are_refused_and_change_nothing(
    attack: Attack, operation: Operation
) -> None:
    sound = sound_requests(operation)[0]
    for name, parameter in operation.parameters_in("query").items():
        for text in hostile.hostile_texts(parameter):
            attack.refused(sound, f"{name}={text}", query={**sound.query, name: text})


@each()
def test_unknown_and_repeated_query_parameters_are_refused_and_change_nothing(
    attack: Attack, operation: Operation
) -> None:
    sound = sound_requests(operation)[0]
    for name in hostile.STRAY_PARAMETERS:
        envelope = attack.refused(sound, f"stray {name}", query={**sound.query, name: hostile.HOSTILE})
        assert envelope["error"] == "validation_error"
    for name, parameter in operation.parameters_in("query").items():
        value = query_value(parameter) or "x"
        envelope = attack.refused(sound, f"{name} twice", query={**sound.query, name: [value, value]})
        assert envelope["details"] == {"query": {name: ["Given more than once."]}}


@pytest.mark.parametrize("path", sorted(UNDOCUMENTED))
def test_pages_of_the_documentation_refuse_query_parameters(shared_app: Flask, path: str) -> None:
    for query in ("hostile=1", "=", "%00", "%FF=%FF", "a=1&a=2"):
        response = shared_app.test_client().get(path.format(path="index.html"), query_string=query)
        assert assert_envelope(response, 422, query) == "validation_error"


def cursor_of(operation: Operation) -> str:
    """The name of the parameter that takes a cursor, if there is one."""
    return next((name for name in CURSORS if name in operation.parameters_in("query")), "")


def sorting_columns(operation: Operation) -> list[str | None]:
    """Every column that a list can be sorted by; none for a list with an order of its own."""
    pattern = operation.parameters_in("query").get("sort", {"schema": {}})["schema"].get("pattern", "")
    columns = re.search(r"\((.*?)\)", pattern)
    return [*columns[1].split("|")] if columns else [None]


def a_cursor(attack: Attack, sound: Sound, query: dict[str, str]) -> str:
    """A sound cursor: the next page's, or for the feed, whose rows may be held back a while, that of the first row."""
    name = cursor_of(sound.operation)
    if name == "after":
        columns = (Transaction.xid, Transaction.id, Transaction.created_at)
        with attack.client.application.app_context():
            return feed_cursor(db.session.execute(select(*columns).order_by(Transaction.id).limit(1)).one())
    link = re.search(rf'{name}=([\w-]+)>; rel="next"', sound.send(attack.client, query=query).headers["Link"])
    assert link
    return link[1]


@each(cursor_of)
def test_cursors_that_were_tampered_with_are_refused(attack: Attack, operation: Operation) -> None:
    sound, name = sound_requests(operation)[0], cursor_of(operation)
    for column in sorting_columns(operation):
        query = {"limit": "1"} | ({"sort": column} if column else {})
        cursor = a_cursor(attack, sound, query)
        assert sound.send(attack.client, query=query | {name: cursor}).status_code == 200, column
        for changed, may_be_sound in hostile.tampered(cursor):
            attack.sent += 1
            response = sound.send(attack.client, query=query | {name: changed})
            if not (may_be_sound and response.status_code == 200):
                assert assert_envelope(response, 400, f"sort={column}&{name}={changed}") == "invalid_cursor"


@each(lambda operation: operation.parameters_in("path"))
def test_ids_that_name_no_row_are_refused_and_change_nothing(attack: Attack, operation: Operation) -> None:
    sound = sound_requests(operation)[0]
    for text in hostile.BAD_IDS:
        quoted = quote(text, safe="", errors="surrogatepass")
        path = operation.path.format(**dict.fromkeys(operation.parameters_in("path"), quoted))
        assert attack.refused(sound, f"id {text}", path=path)["code"] == 404, text


@each(lambda operation: any(hostile.HEADERS[name][1] for name in operation.parameters_in("header")))
def test_headers_with_a_wrong_value_are_refused_and_change_nothing(attack: Attack, operation: Operation) -> None:
    sound = sound_requests(operation)[0]
    for name in operation.parameters_in("header"):
        slug, texts = hostile.HEADERS[name]
        for text in texts:
            assert attack.refused(sound, f"{name}: {text}", headers={name: text})["error"] == slug, text


DELETIONS_REFUSED = {
    "DELETE /categories/{category_id}": ({"category_id": 1}, "category_not_empty"),
    "DELETE /products/{product_id}": ({"product_id": 1}, "product_has_history"),
}


@each(lambda operation: operation.method == "DELETE")
def test_rows_that_others_rest_on_are_not_deleted(attack: Attack, operation: Operation) -> None:
    ids, slug = DELETIONS_REFUSED[str(operation)]
    sound = sound_requests(operation)[0]
    assert attack.refused(sound, str(ids), path=operation.path.format(**ids))["error"] == slug


@pytest.fixture
def file() -> Sound:
    """The import of a sound file."""
    (operation,) = (operation for operation in OPERATIONS if "text/csv" in operation.bodies)
    return sound_requests(operation)[0]


def test_files_with_a_wrong_cell_are_refused_and_change_nothing(attack: Attack, file: Sound) -> None:
    for column, text, body in hostile.files_with_a_wrong_cell():
        details = attack.refused(file, f"{column}: {text}", body=body)["details"]
        assert details["error_count"] == len(details["errors"]) >= 1, text
        assert {(problem["row"], problem["column"]) for problem in details["errors"]} == {(2, column)}, text


def test_files_without_sense_are_refused_and_change_nothing(attack: Attack, file: Sound) -> None:
    for what, body in hostile.FILES_WITHOUT_SENSE.items():
        assert attack.refused(file, what, body=body)["error"] == "import_invalid", what


def test_files_of_known_products_are_refused_by_mode_create(attack: Attack, file: Sound) -> None:
    body = file.body.replace(b"WASHER-8", b"bolt-8")
    assert attack.refused(file, "bolt-8", body=body, query={"mode": "create"})["error"] == "import_invalid"


def test_files_that_are_not_in_utf_8_are_refused_and_change_nothing(attack: Attack, file: Sound) -> None:
    stray = [file.body.replace(b"Washer", b"Washer" + stray) for stray in hostile.NOT_UTF_8]
    for body in [*stray, *hostile.NOT_UTF_8, file.body.decode().encode("utf-16"), gzip.compress(file.body)]:
        assert attack.refused(file, repr(body), body=body)["error"] == "unsupported_encoding", body


def test_forms_without_a_sound_file_are_refused_and_change_nothing(attack: Attack, file: Sound) -> None:
    for what, body in hostile.forms_without_a_file(file.body).items():
        assert attack.refused(file, what, body=body, content_type=hostile.FORM)["error"] == "validation_error", what
    form = hostile.PART % (b"file", hostile.NAMED, file.body)
    for ending in ("", "; boundary=", "; boundary=\x7f", "; boundary=" + "x" * 5_000, "; boundary=c"):
        attack.refused(file, ending, body=form, content_type=f"multipart/form-data{ending}")
    nonsense = form.replace(file.body, b"nonsense")
    assert attack.refused(file, "nonsense", body=nonsense, content_type=hostile.FORM)["error"] == "import_invalid"
    sound = file.send(attack.client, body=form, content_type=hostile.FORM, query={"dry_run": "true"})
    assert sound.status_code == 200
