"""/categories."""

from __future__ import annotations

from typing import Any

from flask import url_for

from inventory import errors
from inventory.api import LOCATION_HEADER, Blueprint
from inventory.categories import service
from inventory.categories.schemas import CategoryDetail, CategoryIn, CategoryOut, CategoryQuery
from inventory.db import unit_of_work
from inventory.products import service as products

blueprint = Blueprint("categories", __name__, description="What products are grouped by.")


@blueprint.route("/categories")
@blueprint.arguments(CategoryQuery, location="query")
@blueprint.page(CategoryOut)
@blueprint.errors(errors.InvalidCursor)
def list_categories(query: dict[str, Any]) -> Any:
    """List categories."""
    return service.find(query["page"])


@blueprint.route("/categories", methods=["POST"])
@blueprint.arguments(CategoryIn)
@blueprint.response(201, CategoryOut, headers=LOCATION_HEADER)
@blueprint.errors(errors.DuplicateCategory)
@unit_of_work
def create_category(data: dict[str, Any]) -> Any:
    """Create a category."""
    category = service.create(data)
    return category, {"Location": url_for(".get_category", category_id=category.id)}


@blueprint.route("/categories/<id:category_id>")
@blueprint.response(200, CategoryDetail)
@blueprint.errors(errors.CategoryNotFound)
def get_category(category_id: int) -> Any:
    """Get a category with its number of products and the first 100 of them."""
    return products.with_category(category_id)


@blueprint.route("/categories/<id:category_id>", methods=["PUT", "PATCH"])
@blueprint.arguments(CategoryIn(partial=True))
@blueprint.response(200, CategoryOut)
@blueprint.errors(errors.CategoryNotFound, errors.DuplicateCategory)
@unit_of_work
def update_category(data: dict[str, Any], category_id: int) -> Any:
    """Change the fields that are sent; PUT and PATCH do the same."""
    return service.update(category_id, data)


@blueprint.route("/categories/<id:category_id>", methods=["DELETE"])
@blueprint.response(204)
@blueprint.errors(errors.CategoryNotFound, errors.CategoryNotEmpty)
@unit_of_work
def delete_category(category_id: int) -> None:
    """Delete a category that has no products."""
    service.delete(category_id)
