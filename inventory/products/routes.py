"""/products."""

from __future__ import annotations

from typing import Any

from flask import url_for

from inventory import errors
from inventory.api import LOCATION_HEADER, Blueprint
from inventory.db import unit_of_work
from inventory.products import service
from inventory.products.schemas import LowStockQuery, ProductDetail, ProductIn, ProductOut, ProductQuery

blueprint = Blueprint("products", __name__, description="The catalogue, with the stock on hand.")


@blueprint.route("/products")
@blueprint.arguments(ProductQuery, location="query")
@blueprint.page(ProductOut)
@blueprint.errors(errors.InvalidCursor)
def list_products(query: dict[str, Any]) -> Any:
    """List products."""
    page = query.pop("page")
    return service.find(query, page)


@blueprint.route("/products/low-stock")
@blueprint.arguments(LowStockQuery, location="query")
@blueprint.page(ProductOut)
@blueprint.errors(errors.InvalidCursor)
def list_low_stock(query: dict[str, Any]) -> Any:
    """List active products at or below their reorder point, most urgent first."""
    page = query.pop("page")
    return service.find_low_stock(query, page)


@blueprint.route("/products", methods=["POST"])
@blueprint.arguments(ProductIn)
@blueprint.response(201, ProductOut, headers=LOCATION_HEADER)
@blueprint.errors(errors.UnknownCategory, errors.DuplicateSku)
@unit_of_work
def create_product(data: dict[str, Any]) -> Any:
    """Create a product, with its opening stock if there is any."""
    product = service.create(data)
    return product, {"Location": url_for(".get_product", product_id=product.id)}


@blueprint.route("/products/<id:product_id>")
@blueprint.response(200, ProductDetail)
@blueprint.errors(errors.ProductNotFound)
def get_product(product_id: int) -> Any:
    """Get a product with its latest 50 movements."""
    return service.get_with_transactions(product_id)


@blueprint.route("/products/<id:product_id>", methods=["PUT", "PATCH"])
@blueprint.arguments(ProductIn(partial=True))
@blueprint.response(200, ProductOut)
@blueprint.errors(errors.ProductNotFound, errors.UnknownCategory, errors.DuplicateSku)
@unit_of_work
def update_product(data: dict[str, Any], product_id: int) -> Any:
    """Change the fields that are sent; PUT and PATCH do the same."""
    return service.update(product_id, data)


@blueprint.route("/products/<id:product_id>", methods=["DELETE"])
@blueprint.response(204)
@blueprint.errors(errors.ProductNotFound, errors.ProductHasHistory)
@unit_of_work
def delete_product(product_id: int) -> None:
    """Delete a product that never moved."""
    service.delete(product_id)
