from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import body, category, error_of, insert_products, invalid_fields, listed, nothing_changes, product

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

FIELDS = {"id", "name", "description", "created_at", "updated_at"}
SAME_IGNORING_CASE = [
    ("Hand tools", "HAND TOOLS"),
    ("Straße", "STRASSE"),
    ("Σίσυφος", "ΣΊΣΥΦΟΣ"),
    ("ﬁttings", "FITTINGS"),
    ("İzmir", "i̇zmir"),
    ("Hand tools", "  hand tools "),
]
either_method = pytest.mark.parametrize("method", ["PUT", "PATCH"])


def read(client: FlaskClient, category_id: int) -> dict[str, Any]:
    """The category as a list shows it."""
    (found,) = [row for row in listed(client.get("/categories?limit=1000")) if row["id"] == category_id]
    return found


def test_create_returns_201_with_location_and_category(client: FlaskClient) -> None:
    response = client.post("/categories", json={"name": "Fasteners", "description": "Bolts\nand nuts"})
    created = body(response)
    assert response.status_code == 201
    assert response.headers["Location"] == f"/categories/{created['id']}"
    assert created.keys() == FIELDS
    assert (created["name"], created["description"]) == ("Fasteners", "Bolts\nand nuts")
    assert body(client.get(response.headers["Location"])).items() >= created.items()


def test_missing_or_blank_description_is_stored_as_null(client: FlaskClient) -> None:
    given: list[dict[str, Any]] = [{}, {"description": None}, {"description": ""}, {"description": " \n "}]
    created = [category(client, **fields) for fields in given]
    assert [read(client, row["id"])["description"] for row in created] == [None] * len(given)


def test_text_fields_are_stripped_at_both_ends(client: FlaskClient) -> None:
    created = category(client, name=" \u00a0Größe ½  🔩\u2003", description="  two\n lines ")
    stored = read(client, created["id"])
    assert (stored["name"], stored["description"]) == ("Größe ½  🔩", "two\n lines")


def test_name_of_1_to_100_characters_is_accepted(client: FlaskClient) -> None:
    names = ["a", "ß" * 100, "🔩" * 100, f"  {'x' * 100}  "]
    created = [category(client, name=name) for name in names]
    assert [read(client, row["id"])["name"] for row in created] == [name.strip() for name in names]


def test_invalid_name_is_rejected(app: Flask, client: FlaskClient) -> None:
    names: list[Any] = [None, "", "   ", "\u00a0", "x" * 101, 5, True, ["a"], {}, "a\0b", "a\nb", "a\x7fb", "a\x85b"]
    with nothing_changes(app):
        answers = [invalid_fields(client.post("/categories", json={"name": name})) for name in names]
    assert answers == [{"json": {"name"}}] * len(names)


def test_description_is_limited_to_500_characters(app: Flask, client: FlaskClient) -> None:
    created = category(client, description="é" * 500)
    assert read(client, created["id"])["description"] == "é" * 500
    with nothing_changes(app):
        response = client.post("/categories", json={"name": "Too much", "description": "é" * 501})
        assert invalid_fields(response) == {"json": {"description"}}


def test_missing_and_unknown_fields_are_rejected(app: Flask, client: FlaskClient) -> None:
    sent: dict[str, Any] = {"name": {}, "id": {"name": "A", "id": 7}, "created_at": {"name": "A", "created_at": None}}
    with nothing_changes(app):
        answers = {field: invalid_fields(client.post("/categories", json=fields)) for field, fields in sent.items()}
    assert answers == {field: {"json": {field}} for field in sent}


def test_duplicate_name_in_other_case_returns_409(app: Flask, client: FlaskClient) -> None:
    for taken in {taken for taken, _wanted in SAME_IGNORING_CASE}:
        category(client, name=taken)
    with nothing_changes(app):
        answers = [error_of(client.post("/categories", json={"name": wanted})) for _taken, wanted in SAME_IGNORING_CASE]
    assert answers == [(409, "duplicate_category")] * len(SAME_IGNORING_CASE)


def test_names_differing_by_more_than_case_are_accepted(client: FlaskClient) -> None:
    names = ["Tools", "Töols", "Tool s", "Tools.", "Tools%", "T_ols"]
    for name in names:
        category(client, name=name)
    assert [row["name"] for row in listed(client.get("/categories"))] == names


def test_timestamps_are_utc_with_offset(client: FlaskClient) -> None:
    created = category(client)
    times = [datetime.fromisoformat(created[name]) for name in ("created_at", "updated_at")]
    assert [time.utcoffset() for time in times] == [timedelta(0), timedelta(0)]
    assert times[0] <= times[1]


@either_method
def test_update_changes_only_sent_fields(client: FlaskClient, method: str) -> None:
    before = category(client, name="Tools", description="By hand")
    response = client.open(f"/categories/{before['id']}", method=method, json={"name": "Hand tools"})
    assert response.status_code == 200
    after = body(response)
    assert after == before | {"name": "Hand tools", "updated_at": after["updated_at"]}
    assert after["updated_at"] > before["updated_at"]
    assert read(client, before["id"]) == after


@either_method
def test_update_with_null_clears_only_description(client: FlaskClient, method: str) -> None:
    before = category(client, description="By hand")
    client.open(f"/categories/{before['id']}", method=method, json={"description": None})
    after = read(client, before["id"])
    assert after == before | {"description": None, "updated_at": after["updated_at"]}


@either_method
def test_update_without_changes_writes_nothing(app: Flask, client: FlaskClient, method: str) -> None:
    before = category(client, name="Tools", description="By hand")
    with nothing_changes(app):
        for changes in ({}, {"name": "Tools"}, {"description": " By hand "}):
            response = client.open(f"/categories/{before['id']}", method=method, json=changes)
            assert (response.status_code, body(response)) == (200, before)


def test_update_may_change_case_of_own_name(client: FlaskClient) -> None:
    tools = category(client, name="Tools")
    assert client.patch(f"/categories/{tools['id']}", json={"name": "TOOLS"}).status_code == 200
    assert read(client, tools["id"])["name"] == "TOOLS"


@either_method
def test_rename_to_existing_name_returns_409(app: Flask, client: FlaskClient, method: str) -> None:
    category(client, name="Straße")
    other = category(client, name="Weg")
    with nothing_changes(app):
        response = client.open(f"/categories/{other['id']}", method=method, json={"name": "STRASSE"})
        assert error_of(response) == (409, "duplicate_category")


def test_name_is_available_after_rename_or_delete(client: FlaskClient) -> None:
    renamed, deleted = category(client, name="First"), category(client, name="Second")
    client.patch(f"/categories/{renamed['id']}", json={"name": "Third"})
    client.delete(f"/categories/{deleted['id']}")
    assert [category(client, name=name)["name"] for name in ("first", "second")] == ["first", "second"]


@either_method
def test_update_with_invalid_fields_is_rejected(app: Flask, client: FlaskClient, method: str) -> None:
    address = f"/categories/{category(client, description='By hand')['id']}"
    fields: list[dict[str, Any]] = [{"name": None}, {"name": " "}, {"name": "x" * 101}, {"version": 9}, {"nmae": "x"}]
    with nothing_changes(app):
        for bad in fields:
            response = client.open(address, method=method, json={"description": "New"} | bad)
            assert invalid_fields(response) == {"json": set(bad)}


def test_delete_empty_category_returns_204(client: FlaskClient) -> None:
    tools = category(client)
    response = client.delete(f"/categories/{tools['id']}")
    assert (response.status_code, response.data) == (204, b"")
    assert listed(client.get("/categories")) == []
    assert error_of(client.delete(f"/categories/{tools['id']}")) == (404, "category_not_found")


def test_delete_category_with_product_returns_409(app: Flask, client: FlaskClient) -> None:
    tools = category(client)
    product(client, category_id=tools["id"], is_active=False)
    with nothing_changes(app):
        assert error_of(client.delete(f"/categories/{tools['id']}")) == (409, "category_not_empty")


def test_delete_succeeds_after_products_are_moved_or_deleted(client: FlaskClient) -> None:
    old, new = category(client), category(client)
    moved, gone = product(client, category_id=old["id"]), product(client, category_id=old["id"])
    client.patch(f"/products/{moved['id']}", json={"category_id": new["id"]})
    client.delete(f"/products/{gone['id']}")
    assert client.delete(f"/categories/{old['id']}").status_code == 204
    assert [row["id"] for row in listed(client.get("/categories"))] == [new["id"]]


def test_id_of_deleted_category_is_not_reused(client: FlaskClient) -> None:
    last = category(client)
    client.delete(f"/categories/{last['id']}")
    assert category(client)["id"] > last["id"]


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_unknown_category_returns_404(client: FlaskClient, method: str) -> None:
    sent = {"name": "New"} if method in {"PUT", "PATCH"} else None
    for category_id in ("1", "0", str(2**63 - 1), str(2**63), "9" * 60):
        response = client.open(f"/categories/{category_id}", method=method, json=sent)
        assert error_of(response) == (404, "category_not_found")


def test_invalid_category_path_returns_404(client: FlaskClient) -> None:
    for address in ("/categories/-1", "/categories/abc", "/categories/1.0", "/category"):
        assert error_of(client.get(address)) == (404, "not_found")


def test_detail_of_empty_category_has_zero_products(client: FlaskClient) -> None:
    tools = category(client)
    assert body(client.get(f"/categories/{tools['id']}")) == tools | {"product_count": 0, "products": []}


def test_detail_products_match_product_list(client: FlaskClient) -> None:
    tools = category(client)
    product(client, category_id=tools["id"], cost=1.25, quantity_on_hand=3)
    product(client, category_id=tools["id"], is_active=False)
    product(client)
    detail = body(client.get(f"/categories/{tools['id']}"))
    assert detail["product_count"] == 2
    assert detail["products"] == listed(client.get(f"/products?category_id={tools['id']}"))


def test_detail_counts_all_products_and_shows_first_100(app: Flask, client: FlaskClient) -> None:
    tools = category(client)
    insert_products(app, tools["id"], [{"name": f"Z{-number}"} for number in range(101)])
    detail = body(client.get(f"/categories/{tools['id']}"))
    first = listed(client.get("/products?limit=100"))
    assert detail["product_count"] == 101
    assert [row["id"] for row in detail["products"]] == [row["id"] for row in first]


def test_list_returns_all_fields_by_id(client: FlaskClient) -> None:
    created = [category(client, name=name) for name in ("b", "C", "a")]
    assert listed(client.get("/categories")) == created


def test_list_sort_by_name_is_case_insensitive(client: FlaskClient) -> None:
    for name in ("b", "Z", "a", "Ä", "ß", "C"):
        category(client, name=name)
    assert [row["name"] for row in listed(client.get("/categories?sort=name"))] == ["a", "b", "C", "ß", "Z", "Ä"]
    assert [row["name"] for row in listed(client.get("/categories?sort=-name"))] == ["Ä", "Z", "ß", "C", "b", "a"]


def test_list_sort_by_created_at_descending(client: FlaskClient) -> None:
    created = [category(client)["id"] for _ in range(3)]
    assert [row["id"] for row in listed(client.get("/categories?sort=-created_at"))] == created[::-1]


def test_list_rejects_unknown_query_parameters_and_values(client: FlaskClient) -> None:
    for query in ("name=x", "sort=description", "sort=", "sort=name,name", "sort=name;id", "page=2"):
        name = query.partition("=")[0]
        assert invalid_fields(client.get(f"/categories?{query}")) == {"query": {name}}


@pytest.mark.parametrize(
    ("method", "address"), [("POST", "/categories/1"), ("DELETE", "/categories"), ("PUT", "/categories")]
)
def test_unsupported_method_returns_405_with_allow_header(client: FlaskClient, method: str, address: str) -> None:
    response = client.open(address, method=method)
    assert error_of(response) == (405, "method_not_allowed")
    allowed = {"GET", "POST"} if address == "/categories" else {"GET", "PUT", "PATCH", "DELETE"}
    assert set(response.headers["Allow"].split(", ")) == allowed | {"HEAD", "OPTIONS"}


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_detail_may_be_sent_back_with_changed_field(client: FlaskClient, method: str) -> None:
    home = category(client)["id"]
    product(client, category_id=home, quantity_on_hand=5)
    detail = body(client.get(f"/categories/{home}"))
    response = client.open(f"/categories/{home}", method=method, json=detail | {"name": "Steel"})
    assert response.status_code == 200
    after = body(client.get(f"/categories/{home}"))
    assert after == detail | {"name": "Steel", "updated_at": after["updated_at"]}
