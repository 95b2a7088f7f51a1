"""/products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import url_for

from inventory import errors
from inventory.database.base import unit_of_work
from inventory.products import service
from inventory.products.schemas import (
    CountIn,
    LowStockQuery,
    ProductDetail,
    ProductIn,
    ProductOut,
    ProductQuery,
    StockOut,
    StockQuery,
)
from inventory.transactions import queries
from inventory.transactions import service as ledger
from inventory.transactions.routes import recorded
from inventory.transactions.schemas import DryRunQuery, TransactionOut
from inventory.web.api import Blueprint
from inventory.web.headers import etag, if_match
from inventory.web.openapi import ETAG_HEADER, LOCATION_HEADER

if TYPE_CHECKING:
    from inventory.web.idempotency import RequestKey

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
@blueprint.idempotent(moves_stock=lambda data: data["quantity_on_hand"] > 0)
@blueprint.response(201, ProductOut, headers=LOCATION_HEADER | ETAG_HEADER)
@blueprint.errors(errors.UnknownCategory, errors.DuplicateSku)
@unit_of_work
def create_product(data: dict[str, Any], *, key: RequestKey | None) -> Any:
    """Create a product, with its opening stock if there is any.

    The opening row remembers the idempotency key. Without stock there is none, and the SKU alone keeps a second
    product from being made.
    """
    product = service.create(data, key)
    return product, {"Location": url_for(".get_product", product_id=product.id)} | etag(service.tag_of(product))


@blueprint.route("/products/<id:product_id>")
@blueprint.response(200, ProductDetail, headers=ETAG_HEADER)
@blueprint.errors(errors.ProductNotFound)
@blueprint.revalidated
def get_product(product_id: int) -> Any:
    """Get a product with its latest 50 movements."""
    product, transactions = service.get_with_transactions(product_id)
    return {**product._mapping, "transactions": transactions}, etag(service.tag_of(product))  # noqa: SLF001


@blueprint.route("/products/<id:product_id>/stock")
@blueprint.arguments(StockQuery, location="query")
@blueprint.response(200, StockOut)
@blueprint.errors(errors.ProductNotFound)
def get_stock(query: dict[str, Any], product_id: int) -> Any:
    """Get a product's stock at a moment."""
    return queries.stock_at(product_id, query["as_of"])


@blueprint.route("/products/<id:product_id>/counts", methods=["POST"])
@blueprint.arguments(DryRunQuery, location="query")
@blueprint.arguments(CountIn)
@blueprint.idempotent()
@blueprint.response(200, TransactionOut, description="What a dry run would have recorded.")
@blueprint.response(201, TransactionOut, headers=LOCATION_HEADER)
@blueprint.errors(errors.ProductNotFound, errors.StaleQuantity)
@unit_of_work
def create_count(query: dict[str, Any], data: dict[str, Any], product_id: int, *, key: RequestKey | None) -> Any:
    """Record a physical count: the stock becomes what was counted.

    A count that agrees leaves a row as well, as its proof.
    """
    return recorded(ledger.count(product_id, data, key), **query)


@blueprint.route("/products/<id:product_id>", methods=["PUT", "PATCH"])
@blueprint.arguments(ProductIn(partial=True))
@blueprint.response(200, ProductOut, headers=ETAG_HEADER)
@blueprint.errors(errors.ProductNotFound, errors.UnknownCategory, errors.DuplicateSku)
@blueprint.conditional
@unit_of_work
def update_product(data: dict[str, Any], product_id: int) -> Any:
    """Change the fields that are sent; PUT and PATCH do the same."""
    product = service.update(product_id, data, if_match())
    return product, etag(service.tag_of(product))


@blueprint.route("/products/<id:product_id>", methods=["DELETE"])
@blueprint.response(204)
@blueprint.errors(errors.ProductNotFound, errors.ProductHasHistory)
@blueprint.conditional
@unit_of_work
def delete_product(product_id: int) -> None:
    """Delete a product that never moved."""
    service.delete(product_id, if_match())
