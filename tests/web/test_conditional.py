"""Conditional requests on products and categories: ETag, If-None-Match, If-Match (RFC 9110 section 13)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import body, category, nothing_changes, product, refusal, transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

STALE = (412, "precondition_failed")
RESOURCES = ["product", "category"]

each_resource = pytest.mark.parametrize("resource", RESOURCES)


def make(client: FlaskClient, resource: str) -> str:
    """The address of a new product with stock, or of a new category without products."""
    if resource == "product":
        return f"/products/{product(client, sku='BOLT', quantity_on_hand=20)['id']}"
    return f"/categories/{category(client, name='Metal')['id']}"


def tag(client: FlaskClient, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return response.headers["ETag"]


def revalidate(client: FlaskClient, address: str, tags: str) -> TestResponse:
    return client.get(address, headers={"If-None-Match": tags})


def change(client: FlaskClient, address: str, tags: str, **facts: Any) -> TestResponse:
    return client.patch(address, json=facts or {"description": "changed"}, headers={"If-Match": tags})


# If-None-Match


@each_resource
def test_what_is_unchanged_is_not_sent_again(client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    current = tag(client, address)
    for tags in (current, f"W/{current}", f'"other", {current}', "*"):
        response = revalidate(client, address, tags)
        assert (response.status_code, response.data) == (304, b"")
        assert response.headers["ETag"] == current
        assert "Content-Type" not in response.headers


@each_resource
@pytest.mark.parametrize("tags", ['"other"', 'W/"other"', '"a", "b"', "", '""'])
def test_what_the_client_does_not_have_is_sent(client: FlaskClient, resource: str, tags: str) -> None:
    address = make(client, resource)
    plain = client.get(address)
    response = revalidate(client, address, tags)
    assert (response.status_code, response.data) == (200, plain.data)
    assert response.headers["ETag"] == plain.headers["ETag"]


@each_resource
def test_head_is_answered_alike(client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    current = tag(client, address)
    assert client.head(address).headers["ETag"] == current
    assert client.head(address, headers={"If-None-Match": current}).status_code == 304


@each_resource
def test_looking_changes_no_tag(client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    assert tag(client, address) == tag(client, address)


@each_resource
def test_a_change_is_not_mistaken_for_a_look(client: FlaskClient, resource: str) -> None:
    """If-None-Match makes GET and HEAD conditional; a change goes through and is answered whole."""
    address = make(client, resource)
    current = tag(client, address)
    response = client.patch(address, json={"description": "x"}, headers={"If-None-Match": current})
    assert (response.status_code, body(response)["description"]) == (200, "x")


def post(client: FlaskClient, path: str, facts: Any = None) -> None:
    response = client.post(path, json=facts)
    assert response.status_code in {200, 201}, response.text


PRODUCT_CHANGES: dict[str, Callable[[FlaskClient], object]] = {
    "a sale": lambda client: transaction(client, 1, "sale", 1),
    "a purchase": lambda client: transaction(client, 1, "purchase", 1),
    "a count that agrees": lambda client: post(client, "/products/1/counts", {"counted_quantity": 20}),
    "a reversal": lambda client: post(client, "/transactions/1/reversal"),
    "a batch": lambda client: post(
        client, "/transactions/batch", [{"product_id": 1, "transaction_type": "sale", "quantity": 1}]
    ),
    "an import of stock": lambda client: client.post(
        "/import/products", data="sku,quantity_on_hand\nBOLT,7\n", content_type="text/csv"
    ),
    "an import of facts": lambda client: client.post(
        "/import/products", data="sku,location\nBOLT,A1\n", content_type="text/csv"
    ),
    "another price": lambda client: client.patch("/products/1", json={"price": 11}),
    "another quantity": lambda client: client.put("/products/1", json={"quantity_on_hand": 7}),
    "deactivation": lambda client: client.patch("/products/1", json={"is_active": False}),
}


@pytest.mark.parametrize("kind", PRODUCT_CHANGES)
def test_whatever_changes_a_product_or_its_stock_changes_its_tag(client: FlaskClient, kind: str) -> None:
    address = make(client, "product")
    before, old = tag(client, address), client.get(address).data
    PRODUCT_CHANGES[kind](client)
    assert client.get(address).data != old
    assert revalidate(client, address, before).status_code == 200
    assert tag(client, address) != before


def test_every_state_of_a_product_has_a_tag_of_its_own(client: FlaskClient) -> None:
    address = make(client, "product")
    tags = [tag(client, address)]
    for turn in range(12):
        if turn % 3:
            transaction(client, 1, "sale", 1)
        else:
            assert client.patch(address, json={"location": f"A{turn}"}).status_code == 200
        tags.append(tag(client, address))
    assert len(set(tags)) == len(tags)


PRODUCT_ATTEMPTS: dict[str, Callable[[FlaskClient], TestResponse]] = {
    "a refused sale": lambda client: client.post(
        "/transactions", json={"product_id": 1, "transaction_type": "sale", "quantity": 99}
    ),
    "a dry run": lambda client: client.post("/products/1/counts?dry_run=true", json={"counted_quantity": 1}),
    "a refused change": lambda client: client.patch("/products/1", json={"price": -1}),
    "the same facts again": lambda client: client.patch("/products/1", json={"price": 10, "quantity_on_hand": 20}),
    "nothing": lambda client: client.patch("/products/1", json={}),
}


@pytest.mark.parametrize("kind", PRODUCT_ATTEMPTS)
def test_what_changes_nothing_changes_no_tag(app: Flask, client: FlaskClient, kind: str) -> None:
    address = make(client, "product")
    before = tag(client, address)
    with nothing_changes(app):
        PRODUCT_ATTEMPTS[kind](client)
    assert revalidate(client, address, before).status_code == 304


CATEGORY_CHANGES: dict[str, Callable[[FlaskClient], object]] = {
    "another name": lambda client: client.patch("/categories/1", json={"name": "Steel"}),
    "a new product": lambda client: product(client, category_id=1),
    "a product that leaves": lambda client: client.patch("/products/1", json={"category_id": 2}),
    "a product that comes": lambda client: client.patch("/products/2", json={"category_id": 1}),
    "a sale": lambda client: transaction(client, 1, "sale", 1),
    "a product's price": lambda client: client.patch("/products/1", json={"price": 11}),
}


@pytest.mark.parametrize("kind", CATEGORY_CHANGES)
def test_a_categorys_tag_covers_the_products_shown_with_it(client: FlaskClient, kind: str) -> None:
    for _category in range(2):
        home = category(client)["id"]
        product(client, category_id=home, quantity_on_hand=20)
    before, old = tag(client, "/categories/1"), client.get("/categories/1").data
    CATEGORY_CHANGES[kind](client)
    assert client.get("/categories/1").data != old
    assert revalidate(client, "/categories/1", before).status_code == 200
    assert tag(client, "/categories/1") != before


def test_a_product_beyond_those_shown_counts_by_its_number(client: FlaskClient) -> None:
    home = category(client)["id"]
    for _product in range(100):
        product(client, category_id=home)
    before = tag(client, f"/categories/{home}")
    unseen = product(client, category_id=home)["id"]
    after = tag(client, f"/categories/{home}")
    assert after != before
    assert client.delete(f"/products/{unseen}").status_code == 204
    assert tag(client, f"/categories/{home}") == before


def test_creation_and_change_answer_the_tag_that_a_look_finds(client: FlaskClient) -> None:
    home = category(client)["id"]
    facts = {"sku": "BOLT", "name": "Bolt", "price": 1, "category_id": home, "quantity_on_hand": 5}
    created = client.post("/products", json=facts)
    address = created.headers["Location"]
    assert created.headers["ETag"] == tag(client, address)
    for changes in ({"price": 2}, {"quantity_on_hand": 9}, {"quantity_on_hand": 1, "name": "B"}, {}):
        changed = client.put(address, json=changes)
        assert changed.headers["ETag"] == tag(client, address)


@pytest.mark.parametrize("address", ["/products", "/categories", "/transactions", "/products/low-stock"])
def test_lists_have_no_tag(client: FlaskClient, address: str) -> None:
    response = client.get(address, headers={"If-None-Match": "*"})
    assert response.status_code == 200
    assert "ETag" not in response.headers


# If-Match


@each_resource
@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "{},W/{}", "*"])
def test_a_change_of_what_was_seen_goes_through(client: FlaskClient, resource: str, form: str) -> None:
    address = make(client, resource)
    tags = form.replace("{}", tag(client, address))
    assert change(client, address, tags).status_code == 200
    assert body(client.get(address))["description"] == "changed"


@each_resource
@pytest.mark.parametrize("tags", ['"other"', 'W/"other"', '"a", "b"', '""'])
def test_a_change_of_something_else_is_refused(app: Flask, client: FlaskClient, resource: str, tags: str) -> None:
    address = make(client, resource)
    with nothing_changes(app):
        assert refusal(change(client, address, tags)) == STALE
        assert refusal(client.put(address, json={"description": "x"}, headers={"If-Match": tags})) == STALE
        assert refusal(client.delete(address, headers={"If-Match": tags})) == STALE


@each_resource
def test_what_was_changed_in_between_is_not_changed_again(app: Flask, client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    seen = tag(client, address)
    assert change(client, address, seen).status_code == 200
    with nothing_changes(app):
        assert refusal(change(client, address, seen, description="mine")) == STALE


@each_resource
def test_without_a_condition_the_last_change_wins(client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    for text in ("one", "two"):
        assert client.patch(address, json={"description": text}).status_code == 200
    assert body(client.get(address))["description"] == "two"


def test_a_sale_in_between_makes_a_products_tag_stale(app: Flask, client: FlaskClient) -> None:
    address = make(client, "product")
    seen = tag(client, address)
    transaction(client, 1, "sale", 1)
    with nothing_changes(app):
        assert refusal(change(client, address, seen, quantity_on_hand=20)) == STALE
        assert refusal(client.delete(address, headers={"If-Match": seen})) == STALE


def test_a_sale_in_between_makes_the_tag_of_its_category_a_stale_one(app: Flask, client: FlaskClient) -> None:
    home = category(client)["id"]
    bolt = product(client, category_id=home, quantity_on_hand=5)["id"]
    seen = tag(client, f"/categories/{home}")
    transaction(client, bolt, "sale", 1)
    with nothing_changes(app):
        assert refusal(change(client, f"/categories/{home}", seen, name="Steel")) == STALE
    assert change(client, f"/categories/{home}", tag(client, f"/categories/{home}"), name="Steel").status_code == 200


@each_resource
def test_a_change_answers_the_tag_that_a_reader_finds(client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    if resource == "category":
        product(client, category_id=int(address.rpartition("/")[2]))
    response = client.patch(address, json={"description": "new"})
    assert response.headers["ETag"] == tag(client, address)


@each_resource
@pytest.mark.parametrize("tags", ['""', '"2.zzz"', '"1-0", "x"', "W/"])
def test_a_tag_that_was_never_given_is_a_stale_one(app: Flask, client: FlaskClient, resource: str, tags: str) -> None:
    address = make(client, resource)
    with nothing_changes(app):
        assert refusal(change(client, address, tags, description="new")) == STALE


@each_resource
def test_the_tag_that_a_change_answered_serves_for_the_next(client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    current = tag(client, address)
    for number in range(3):
        response = change(client, address, current, description=f"{number}")
        assert response.status_code == 200
        current = response.headers["ETag"]


def test_a_product_that_never_moved_is_deleted_as_it_was_seen(client: FlaskClient) -> None:
    bolt = product(client)["id"]
    seen = tag(client, f"/products/{bolt}")
    assert client.delete(f"/products/{bolt}", headers={"If-Match": seen}).status_code == 204
    assert client.get(f"/products/{bolt}").status_code == 404


def test_an_empty_category_is_deleted_as_it_was_seen(client: FlaskClient) -> None:
    address = make(client, "category")
    assert client.delete(address, headers={"If-Match": tag(client, address)}).status_code == 204
    assert client.get(address).status_code == 404


@pytest.mark.parametrize("address", ["/products/999", "/categories/999"])
@pytest.mark.parametrize("tags", ["*", '"1-0"', '"1"'])
def test_what_does_not_exist_is_not_found_whatever_the_condition(client: FlaskClient, address: str, tags: str) -> None:
    for response in (change(client, address, tags), client.delete(address, headers={"If-Match": tags})):
        assert response.status_code == 404
    assert revalidate(client, address, tags).status_code == 404


@each_resource
def test_of_changes_at_once_on_one_tag_one_goes_through(app: Flask, client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    seen = tag(client, address)
    with ThreadPoolExecutor(5) as pool:
        responses = list(
            pool.map(lambda n: change(app.test_client(), address, seen, description=f"number {n}"), range(5))
        )
    assert sorted(response.status_code for response in responses) == [200, 412, 412, 412, 412]
    (winner,) = (response for response in responses if response.status_code == 200)
    assert body(client.get(address))["description"] == body(winner)["description"]
