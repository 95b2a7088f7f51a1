"""/categories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import url_for

from inventory import errors
from inventory.categories import service
from inventory.categories.schemas import CategoryDetail, CategoryIn, CategoryOut, CategoryQuery, CategoryUpdate
from inventory.web.blueprint import Blueprint
from inventory.web.conditional import etag
from inventory.web.openapi.operations import ETAG_HEADER, LOCATION_HEADER

if TYPE_CHECKING:
    from inventory.categories.rows import CategoryRow
    from inventory.database.keyset import Page
    from inventory.fields import Values
    from inventory.web.conditional import Condition

blueprint = Blueprint("categories", __name__, description="Groups of products.")


@blueprint.route("/categories", scope="read")
@blueprint.arguments(CategoryQuery, location="query")
@blueprint.page(CategoryOut)
@blueprint.errors(errors.InvalidCursor)
def list_categories(query: Values) -> Page[CategoryRow]:
    """List categories.

    Sorted by id by default. Follow the `Link` header to the other pages.
    """
    return service.find(query["page"])


@blueprint.route("/categories", scope="catalogue", methods=["POST"])
@blueprint.arguments(CategoryIn)
@blueprint.response(201, CategoryOut, headers=LOCATION_HEADER | ETAG_HEADER)
@blueprint.errors(errors.DuplicateCategory)
@blueprint.writes()
def create_category(data: dict[str, object]) -> object:
    """Create a category.

    Names are unique, ignoring case; a duplicate returns 409 `duplicate_category`.
    """
    category = service.create(data)
    location = url_for(".get_category", category_id=category.id)
    return category, {"Location": location} | etag(service.current_tag(category))


@blueprint.route("/categories/<id:category_id>", scope="read")
@blueprint.response(200, CategoryDetail, headers=ETAG_HEADER)
@blueprint.errors(errors.CategoryNotFound)
@blueprint.revalidated
def get_category(category_id: int) -> object:
    """Get a category with its products.

    Includes the number of its products and the first 100 of them by id. `GET /products?category_id=` lists all of
    them. The `ETag` changes when the category or one of the listed products changes.
    """
    category, count, members = service.with_products(category_id)
    detail = category._asdict() | {"product_count": count, "products": members}
    return detail, etag(service.tag_of(category, count, members))


@blueprint.route("/categories/<id:category_id>", scope="catalogue", methods=["PUT", "PATCH"])
@blueprint.arguments(CategoryUpdate)
@blueprint.response(200, CategoryOut, headers=ETAG_HEADER)
@blueprint.errors(errors.CategoryNotFound, errors.DuplicateCategory)
@blueprint.writes(conditional=True)
def update_category(data: dict[str, object], category_id: int, *, condition: Condition) -> object:
    """Change a category.

    Only the fields that are sent change; PUT and PATCH behave the same. A duplicate name returns 409
    `duplicate_category`. With `If-Match` the change is made only if the category has not changed since it was read;
    changes of its products do not matter. Fields marked `readOnly` can be sent back and are ignored. PATCH also accepts
    `application/merge-patch+json`.
    """
    category = service.update(category_id, data, condition)
    return category, etag(service.current_tag(category))


@blueprint.route("/categories/<id:category_id>", scope="catalogue", methods=["DELETE"])
@blueprint.response(204)
@blueprint.errors(errors.CategoryNotFound, errors.CategoryNotEmpty)
@blueprint.writes(conditional=True)
def delete_category(category_id: int, *, condition: Condition) -> None:
    """Delete an empty category.

    A category with products returns 409 `category_not_empty`; move or delete the products first.
    """
    service.delete(category_id, condition)
