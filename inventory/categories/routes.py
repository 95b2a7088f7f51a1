"""/categories."""

from __future__ import annotations

from typing import Any

from flask import url_for

from inventory import errors
from inventory.api import Blueprint
from inventory.categories import service
from inventory.categories.schemas import CategoryDetail, CategoryIn, CategoryOut, CategoryQuery
from inventory.db import db, unit_of_work
from inventory.engines import begin_snapshot
from inventory.headers import etag, if_match
from inventory.idempotency import fingerprint
from inventory.openapi import ETAG_HEADER, LOCATION_HEADER
from inventory.products import service as products

blueprint = Blueprint("categories", __name__, description="What products are grouped by.")


def versions_wanted() -> frozenset[str] | None:
    """The category's own versions among the tags of If-Match."""
    tags = if_match()
    return None if tags is None else frozenset(tag.partition(".")[0] for tag in tags)


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
    return category, {"Location": url_for(".get_category", category_id=category.id)} | etag(str(category.version))


@blueprint.route("/categories/<id:category_id>")
@blueprint.response(200, CategoryDetail, headers=ETAG_HEADER)
@blueprint.errors(errors.CategoryNotFound)
@blueprint.revalidated
def get_category(category_id: int) -> Any:
    """Get a category with its number of products and the first 100 of them."""
    begin_snapshot(db.session())
    category = service.get(category_id)
    count, members = products.of_category(category_id, 100)
    detail = {**vars(category), "product_count": count, "products": members}
    # The tag covers the products shown as well; what stands before the point is the category's own version.
    shown = fingerprint([count, [[product.id, products.tag_of(product)] for product in members]])
    return detail, etag(f"{category.version}.{shown[:16]}")


@blueprint.route("/categories/<id:category_id>", methods=["PUT", "PATCH"])
@blueprint.arguments(CategoryIn(partial=True))
@blueprint.response(200, CategoryOut, headers=ETAG_HEADER)
@blueprint.errors(errors.CategoryNotFound, errors.DuplicateCategory)
@blueprint.conditional
@unit_of_work
def update_category(data: dict[str, Any], category_id: int) -> Any:
    """Change the fields that are sent; PUT and PATCH do the same."""
    category = service.update(category_id, data, versions_wanted())
    return category, etag(str(category.version))


@blueprint.route("/categories/<id:category_id>", methods=["DELETE"])
@blueprint.response(204)
@blueprint.errors(errors.CategoryNotFound, errors.CategoryNotEmpty)
@blueprint.conditional
@unit_of_work
def delete_category(category_id: int) -> None:
    """Delete a category that has no products."""
    service.delete(category_id, versions_wanted())
