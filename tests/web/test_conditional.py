"""Conditional requests on products and categories: ETag, If-None-Match, If-Match (RFC 9110 section 13)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders import body, category, error_of, nothing_changes, product, transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

STALE = (412, "precondition_failed")
RESOURCES = ["product", "category"]

each_resource = pytest.mark.parametrize("resource", RESOURCES)


def make(client: FlaskClient, resource: str) -> str:
    """The path of a new product with stock, or of a new category without products."""
    if resource == "product":
        return f"/products/{product(client, sku='BOLT', quantity_on_hand=20)['id']}"
    return f"/categories/{category(client, name='Metal')['id']}"


def etag(client: FlaskClient, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return response.headers["ETag"]


def revalidate(client: FlaskClient, address: str, tags: str) -> TestResponse:
    return client.get(address, headers={"If-None-Match": tags})


def change(client: FlaskClient, address: str, tags: str, **fields: Any) -> TestResponse:
    return client.patch(address, json=fields or {"description": "changed"}, headers={"If-Match": tags})


# If-None-Match


@each_resource
def test_if_none_match_returns_304_when_unchanged(client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    current = etag(client, address)
    for tags in (current, f"W/{current}", f'"other", {current}', "*"):
        response = revalidate(client, address, tags)
        assert (response.status_code, response.data) == (304, b"")
        assert response.headers["ETag"] == current
        assert "Content-Type" not in response.headers


@each_resource
@pytest.mark.parametrize("tags", ['"other"', 'W/"other"', '"a", "b"', "", '""'])
def test_if_none_match_returns_200_without_a_match(client: FlaskClient, resource: str, tags: str) -> None:
    address = make(client, resource)
    plain = client.get(address)
    response = revalidate(client, address, tags)
    assert (response.status_code, response.data) == (200, plain.data)
    assert response.headers["ETag"] == plain.headers["ETag"]


@each_resource
def test_head_supports_etag_and_if_none_match(client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    current = etag(client, address)
    assert client.head(address).headers["ETag"] == current
    assert client.head(address, headers={"If-None-Match": current}).status_code == 304


@each_resource
def test_get_does_not_change_the_etag(client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    assert etag(client, address) == etag(client, address)


@each_resource
def test_if_none_match_is_ignored_on_patch(client: FlaskClient, resource: str) -> None:
    """If-None-Match makes only GET and HEAD conditional."""
    address = make(client, resource)
    current = etag(client, address)
    response = client.patch(address, json={"description": "x"}, headers={"If-None-Match": current})
    assert (response.status_code, body(response)["description"]) == (200, "x")


def post(client: FlaskClient, path: str, payload: Any = None) -> None:
    response = client.post(path, json=payload)
    assert response.status_code in {200, 201}, response.text


PRODUCT_CHANGES: dict[str, Callable[[FlaskClient], object]] = {
    "a sale": lambda client: transaction(client, 1, "sale", 1),
    "a purchase": lambda client: transaction(client, 1, "purchase", 1),
    "a matching count": lambda client: post(client, "/products/1/counts", {"counted_quantity": 20}),
    "a reversal": lambda client: post(client, "/transactions/1/reversal"),
    "a batch": lambda client: post(
        client, "/transactions/batch", [{"product_id": 1, "transaction_type": "sale", "quantity": 1}]
    ),
    "an import of stock": lambda client: client.post(
        "/import/products", data="sku,quantity_on_hand\nBOLT,7\n", content_type="text/csv"
    ),
    "an import of fields": lambda client: client.post(
        "/import/products", data="sku,location\nBOLT,A1\n", content_type="text/csv"
    ),
    "another price": lambda client: client.patch("/products/1", json={"price": 11}),
    "another quantity": lambda client: client.put("/products/1", json={"quantity_on_hand": 7}),
    "deactivation": lambda client: client.patch("/products/1", json={"is_active": False}),
}


@pytest.mark.parametrize("kind", PRODUCT_CHANGES)
def test_product_etag_changes_with_fields_and_stock(client: FlaskClient, kind: str) -> None:
    address = make(client, "product")
    before, old = etag(client, address), client.get(address).data
    PRODUCT_CHANGES[kind](client)
    assert client.get(address).data != old
    assert revalidate(client, address, before).status_code == 200
    assert etag(client, address) != before


def test_product_etag_is_unique_per_state(client: FlaskClient) -> None:
    address = make(client, "product")
    tags = [etag(client, address)]
    for turn in range(12):
        if turn % 3:
            transaction(client, 1, "sale", 1)
        else:
            assert client.patch(address, json={"location": f"A{turn}"}).status_code == 200
        tags.append(etag(client, address))
    assert len(set(tags)) == len(tags)


PRODUCT_ATTEMPTS: dict[str, Callable[[FlaskClient], TestResponse]] = {
    "a rejected sale": lambda client: client.post(
        "/transactions", json={"product_id": 1, "transaction_type": "sale", "quantity": 99}
    ),
    "a dry run": lambda client: client.post("/products/1/counts?dry_run=true", json={"counted_quantity": 1}),
    "a rejected change": lambda client: client.patch("/products/1", json={"price": -1}),
    "the same values": lambda client: client.patch("/products/1", json={"price": 10, "quantity_on_hand": 20}),
    "nothing": lambda client: client.patch("/products/1", json={}),
}


@pytest.mark.parametrize("kind", PRODUCT_ATTEMPTS)
def test_product_etag_is_kept_when_nothing_changes(app: Flask, client: FlaskClient, kind: str) -> None:
    address = make(client, "product")
    before = etag(client, address)
    with nothing_changes(app):
        PRODUCT_ATTEMPTS[kind](client)
    assert revalidate(client, address, before).status_code == 304


CATEGORY_CHANGES: dict[str, Callable[[FlaskClient], object]] = {
    "another name": lambda client: client.patch("/categories/1", json={"name": "Steel"}),
    "a new product": lambda client: product(client, category_id=1),
    "a product moved out": lambda client: client.patch("/products/1", json={"category_id": 2}),
    "a product moved in": lambda client: client.patch("/products/2", json={"category_id": 1}),
    "a sale": lambda client: transaction(client, 1, "sale", 1),
    "a product's price": lambda client: client.patch("/products/1", json={"price": 11}),
}


@pytest.mark.parametrize("kind", CATEGORY_CHANGES)
def test_category_etag_covers_its_listed_products(client: FlaskClient, kind: str) -> None:
    for _category in range(2):
        home = category(client)["id"]
        product(client, category_id=home, quantity_on_hand=20)
    before, old = etag(client, "/categories/1"), client.get("/categories/1").data
    CATEGORY_CHANGES[kind](client)
    assert client.get("/categories/1").data != old
    assert revalidate(client, "/categories/1", before).status_code == 200
    assert etag(client, "/categories/1") != before


def test_category_etag_covers_the_product_count(client: FlaskClient) -> None:
    home = category(client)["id"]
    for _product in range(100):
        product(client, category_id=home)
    before = etag(client, f"/categories/{home}")
    unseen = product(client, category_id=home)["id"]
    after = etag(client, f"/categories/{home}")
    assert after != before
    assert client.delete(f"/products/{unseen}").status_code == 204
    assert etag(client, f"/categories/{home}") == before


def test_post_and_put_return_the_etag_of_get(client: FlaskClient) -> None:
    home = category(client)["id"]
    fields = {"sku": "BOLT", "name": "Bolt", "price": 1, "category_id": home, "quantity_on_hand": 5}
    created = client.post("/products", json=fields)
    address = created.headers["Location"]
    assert created.headers["ETag"] == etag(client, address)
    for changes in ({"price": 2}, {"quantity_on_hand": 9}, {"quantity_on_hand": 1, "name": "B"}, {}):
        changed = client.put(address, json=changes)
        assert changed.headers["ETag"] == etag(client, address)


@pytest.mark.parametrize("address", ["/products", "/categories", "/transactions", "/products/low-stock"])
def test_lists_have_no_etag(client: FlaskClient, address: str) -> None:
    response = client.get(address, headers={"If-None-Match": "*"})
    assert response.status_code == 200
    assert "ETag" not in response.headers


# If-Match


@each_resource
@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "{},W/{}", "*"])
def test_if_match_accepts_current_etag(client: FlaskClient, resource: str, form: str) -> None:
    address = make(client, resource)
    tags = form.replace("{}", etag(client, address))
    assert change(client, address, tags).status_code == 200
    assert body(client.get(address))["description"] == "changed"


@each_resource
@pytest.mark.parametrize("tags", ['"other"', 'W/"other"', '"a", "b"', '""'])
def test_if_match_with_other_etag_returns_412(app: Flask, client: FlaskClient, resource: str, tags: str) -> None:
    address = make(client, resource)
    with nothing_changes(app):
        assert error_of(change(client, address, tags)) == STALE
        assert error_of(client.put(address, json={"description": "x"}, headers={"If-Match": tags})) == STALE
        assert error_of(client.delete(address, headers={"If-Match": tags})) == STALE


@each_resource
def test_if_match_with_outdated_etag_returns_412(app: Flask, client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    seen = etag(client, address)
    assert change(client, address, seen).status_code == 200
    with nothing_changes(app):
        assert error_of(change(client, address, seen, description="mine")) == STALE


@each_resource
def test_last_write_wins_without_if_match(client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    for text in ("one", "two"):
        assert client.patch(address, json={"description": text}).status_code == 200
    assert body(client.get(address))["description"] == "two"


def test_if_match_ignores_movements_when_stock_is_not_changed(client: FlaskClient) -> None:
    address = make(client, "product")
    seen = etag(client, address)
    transaction(client, 1, "sale", 1)
    for fields in ({"price": 11.5}, {"location": "A1", "quantity_on_hand": 19}):
        response = change(client, address, seen, **fields)
        assert (response.status_code, body(response)["quantity_on_hand"]) == (200, 19)
        seen = response.headers["ETag"]
        transaction(client, 1, "sale", 1)
        transaction(client, 1, "purchase", 1)
    assert body(client.get(address)).items() >= {"price": 11.5, "location": "A1", "quantity_on_hand": 19}.items()


def test_if_match_after_sale_returns_412_for_stock_change_or_delete(app: Flask, client: FlaskClient) -> None:
    address = make(client, "product")
    seen = etag(client, address)
    transaction(client, 1, "sale", 1)
    with nothing_changes(app):
        assert error_of(change(client, address, seen, quantity_on_hand=20)) == STALE
        assert error_of(change(client, address, seen, quantity_on_hand=20, price=11)) == STALE
        assert error_of(client.delete(address, headers={"If-Match": seen})) == STALE


def test_if_match_after_field_change_returns_412(app: Flask, client: FlaskClient) -> None:
    address = make(client, "product")
    seen = etag(client, address)
    assert client.patch(address, json={"name": "Nut"}).status_code == 200
    with nothing_changes(app):
        for fields in ({"price": 11}, {"quantity_on_hand": 20}, {"quantity_on_hand": 7}):
            assert error_of(change(client, address, seen, **fields)) == STALE


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_version_in_body_returns_412_when_outdated(app: Flask, client: FlaskClient, method: str) -> None:
    address = make(client, "product")
    assert client.open(address, method=method, json={"version": 1, "name": "Nut"}).status_code == 200
    transaction(client, 1, "sale", 1)
    with nothing_changes(app):
        for fields in ({"price": 11}, {"quantity_on_hand": 7}, {}):
            assert error_of(client.open(address, method=method, json={"version": 1} | fields)) == STALE
    answer = body(client.open(address, method=method, json={"version": 2, "price": 11}))
    assert (answer["version"], answer["price"], answer["quantity_on_hand"]) == (3, 11, 19)


def test_category_if_match_ignores_changes_to_its_products(client: FlaskClient) -> None:
    home = category(client)["id"]
    bolt = product(client, category_id=home, quantity_on_hand=5)["id"]
    seen = etag(client, f"/categories/{home}")
    transaction(client, bolt, "sale", 1)
    client.patch(f"/products/{bolt}", json={"price": 11})
    assert change(client, f"/categories/{home}", seen, name="Steel").status_code == 200
    assert body(client.get(f"/categories/{home}"))["name"] == "Steel"
    assert error_of(change(client, f"/categories/{home}", seen, name="Iron")) == STALE


def test_category_delete_returns_412_after_new_product(app: Flask, client: FlaskClient) -> None:
    home = category(client)["id"]
    seen = etag(client, f"/categories/{home}")
    product(client, category_id=home)
    with nothing_changes(app):
        assert error_of(client.delete(f"/categories/{home}", headers={"If-Match": seen})) == STALE


@each_resource
def test_patch_returns_the_etag_of_get(client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    if resource == "category":
        product(client, category_id=int(address.rpartition("/")[2]))
    response = client.patch(address, json={"description": "new"})
    assert response.headers["ETag"] == etag(client, address)


@each_resource
@pytest.mark.parametrize("tags", ['""', '"2.zzz"', '"2-0", "x"', "W/"])
def test_if_match_with_unknown_etag_returns_412(app: Flask, client: FlaskClient, resource: str, tags: str) -> None:
    address = make(client, resource)
    with nothing_changes(app):
        assert error_of(change(client, address, tags, description="new")) == STALE


@each_resource
def test_etag_of_patch_is_valid_for_the_next_patch(client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    current = etag(client, address)
    for number in range(3):
        response = change(client, address, current, description=f"{number}")
        assert response.status_code == 200
        current = response.headers["ETag"]


def test_if_match_deletes_product_without_history(client: FlaskClient) -> None:
    bolt = product(client)["id"]
    seen = etag(client, f"/products/{bolt}")
    assert client.delete(f"/products/{bolt}", headers={"If-Match": seen}).status_code == 204
    assert client.get(f"/products/{bolt}").status_code == 404


def test_if_match_deletes_empty_category(client: FlaskClient) -> None:
    address = make(client, "category")
    assert client.delete(address, headers={"If-Match": etag(client, address)}).status_code == 204
    assert client.get(address).status_code == 404


@pytest.mark.parametrize("address", ["/products/999", "/categories/999"])
@pytest.mark.parametrize("tags", ["*", '"1-0"', '"1"'])
def test_conditional_request_on_missing_resource_returns_404(client: FlaskClient, address: str, tags: str) -> None:
    for response in (change(client, address, tags), client.delete(address, headers={"If-Match": tags})):
        assert response.status_code == 404
    assert revalidate(client, address, tags).status_code == 404


@each_resource
def test_concurrent_patches_with_same_etag_succeed_once(app: Flask, client: FlaskClient, resource: str) -> None:
    address = make(client, resource)
    seen = etag(client, address)
    with ThreadPoolExecutor(5) as pool:
        responses = list(
            pool.map(lambda n: change(app.test_client(), address, seen, description=f"number {n}"), range(5))
        )
    assert sorted(response.status_code for response in responses) == [200, 412, 412, 412, 412]
    (winner,) = (response for response in responses if response.status_code == 200)
    assert body(client.get(address))["description"] == body(winner)["description"]


@pytest.mark.parametrize("tag", ['"other"', 'W/"1-1"', "*"])
def test_get_ignores_if_match(client: FlaskClient, tag: str) -> None:
    path = f"/products/{product(client)['id']}"
    answer = client.get(path, headers={"If-Match": tag})
    assert (answer.status_code, body(answer)) == (200, body(client.get(path)))
