"""/categories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import url_for

from inventory import errors
from inventory.categories import service
from inventory.categories.schemas import CategoryDetail, CategoryIn, CategoryOut, CategoryQuery
from inventory.database.base import check_tag, db, unit_of_work
from inventory.database.engines import begin_snapshot
from inventory.products import service as products
from inventory.web.api import Blueprint
from inventory.web.headers import etag, if_match
from inventory.web.idempotency import fingerprint
from inventory.web.openapi import ETAG_HEADER, LOCATION_HEADER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Row

    from inventory.models.category import Category

blueprint = Blueprint("categories", __name__, description="What products are grouped by.")

SHOWN = 100


def tag_of(category: Category, count: int, members: Sequence[Row[Any]]) -> str:
    """Names a state of a category: its version, and the products shown with it."""
    shown = fingerprint([count, [[product.id, products.tag_of(product)] for product in members]])
    return f"{category.version}.{shown[:16]}"


def current_tag(category: Category) -> str:
    return tag_of(category, *products.of_category(category.id, SHOWN))


def check_unchanged(category_id: int) -> None:
    """Lock the category. Raises CategoryNotFound, and PreconditionFailed if it is in none of the states of If-Match."""
    category = service.get_for_update(category_id)
    check_tag(if_match(), current_tag(category))


@blueprint.route("/categories")
@blueprint.arguments(CategoryQuery, location="query")
@blueprint.page(CategoryOut)
@blueprint.errors(errors.InvalidCursor)
def list_categories(query: dict[str, Any]) -> Any:
    """List categories."""
    return service.find(query["page"])


@blueprint.route("/categories", methods=["POST"])
@blueprint.arguments(CategoryIn)
@blueprint.response(201, CategoryOut, headers=LOCATION_HEADER | ETAG_HEADER)
@blueprint.errors(errors.DuplicateCategory)
@unit_of_work
def create_category(data: dict[str, Any]) -> Any:
    """Create a category."""
    category = service.create(data)
    return category, {"Location": url_for(".get_category", category_id=category.id)} | etag(current_tag(category))


@blueprint.route("/categories/<id:category_id>")
@blueprint.response(200, CategoryDetail, headers=ETAG_HEADER)
@blueprint.errors(errors.CategoryNotFound)
@blueprint.revalidated
def get_category(category_id: int) -> Any:
    """Get a category with its number of products and the first 100 of them."""
    begin_snapshot(db.session())
    category = service.get(category_id)
    count, members = products.of_category(category_id, SHOWN)
    detail = {**vars(category), "product_count": count, "products": members}
    return detail, etag(tag_of(category, count, members))


@blueprint.route("/categories/<id:category_id>", methods=["PUT", "PATCH"])
@blueprint.arguments(CategoryIn(partial=True))
@blueprint.response(200, CategoryOut, headers=ETAG_HEADER)
@blueprint.errors(errors.CategoryNotFound, errors.DuplicateCategory)
@blueprint.conditional
@unit_of_work
def update_category(data: dict[str, Any], category_id: int) -> Any:
    """Change the fields that are sent; PUT and PATCH do the same."""
    check_unchanged(category_id)
    category = service.update(category_id, data)
    return category, etag(current_tag(category))


@blueprint.route("/categories/<id:category_id>", methods=["DELETE"])
@blueprint.response(204)
@blueprint.errors(errors.CategoryNotFound, errors.CategoryNotEmpty)
@blueprint.conditional
@unit_of_work
def delete_category(category_id: int) -> None:
    """Delete a category that has no products."""
    check_unchanged(category_id)
    service.delete(category_id)
