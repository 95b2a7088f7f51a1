"""/products."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from flask import url_for

from inventory import errors
from inventory.products import service, updates
from inventory.products.schemas import (
    CountIn,
    LowStockQuery,
    ProductChange,
    ProductDetail,
    ProductIn,
    ProductOut,
    ProductQuery,
    ProductUpdate,
    StockOut,
    StockQuery,
)
from inventory.transactions import queries
from inventory.transactions import service as ledger
from inventory.transactions.routes import ROW
from inventory.transactions.schemas import OpeningQuery
from inventory.web.blueprint import Blueprint
from inventory.web.conditional import etag, is_current, not_modified
from inventory.web.idempotency import once
from inventory.web.openapi.operations import ETAG_HEADER, LINK_HEADER, LOCATION_HEADER
from inventory.web.pagination import FeedQuery, next_link

if TYPE_CHECKING:
    from inventory.database.keyset import Page
    from inventory.fields import Values
    from inventory.products.rows import ProductRow
    from inventory.transactions.rows import LedgerRow, StockAt
    from inventory.web.conditional import Condition
    from inventory.web.idempotency import RequestKey

blueprint = Blueprint("products", __name__, description="Products and their stock.")


@blueprint.route("/products", scope="read")
@blueprint.arguments(ProductQuery, location="query")
@blueprint.page(ProductOut)
@blueprint.errors(errors.InvalidCursor)
def list_products(query: Values) -> Page[ProductRow]:
    """List products.

    Sorted by id by default. Filters are combined with AND. Follow the `Link` header to the other pages. To keep a copy
    of the catalogue up to date, use `GET /products/feed`.
    """
    page = query.pop("page")
    return service.find(query, page)


@blueprint.route("/products/low-stock", scope="read")
@blueprint.arguments(LowStockQuery, location="query")
@blueprint.page(ProductOut)
@blueprint.errors(errors.InvalidCursor)
def list_low_stock(query: Values) -> Page[ProductRow]:
    """List products to reorder.

    Active products whose stock is at or below their reorder point, sorted by the number of units below it, largest
    first.
    """
    page = query.pop("page")
    return service.find_low_stock(query, page)


@blueprint.route("/products/feed", scope="read")
@blueprint.arguments(FeedQuery, location="query")
@blueprint.response(200, ProductChange(many=True), headers=LINK_HEADER)
@blueprint.errors(errors.InvalidCursor)
def read_products_feed(query: Values) -> object:
    """Follow changes of the catalogue.

    Created, changed and deleted products in commit order, so that a copy maintained from this feed does not miss
    changes. A product is shown in its current state; a deleted one as `{"id", "sku", "deleted": true}`. Stock movements
    do not appear here: follow `GET /transactions/feed` for those. Start without `after` to read the whole catalogue, or
    with `after=now` to read only later changes. Then poll the `next` link, which is always present, even when nothing
    has changed.
    """
    rows, cursor = service.feed(**query)
    return rows, next_link(cursor)


@blueprint.route("/products", scope="catalogue", methods=["POST"])
@blueprint.arguments(ProductIn)
@blueprint.response(201, ProductOut, headers=LOCATION_HEADER | ETAG_HEADER)
@blueprint.errors(errors.UnknownCategory, errors.DuplicateSku)
@blueprint.writes(moves_stock=lambda data: data["quantity_on_hand"] > 0)
def create_product(data: Values, *, key: RequestKey | None) -> object:
    """Create a product.

    A `quantity_on_hand` above 0 is recorded as the opening balance, and the `Idempotency-Key` is stored with that row.
    Without stock there is no row to store the key; a repeated request then returns 409 `duplicate_sku`, since SKUs are
    unique. An unknown `category_id` returns 400 `unknown_category`. `price` must not be below `cost`.
    """
    product = once(key, partial(service.create, data, key), partial(service.as_created, data))
    return product, {"Location": url_for(".get_product", product_id=product.id)} | etag(service.tag_of(product))


@blueprint.route("/products/<id:product_id>", scope="read")
@blueprint.arguments(OpeningQuery, location="query")
@blueprint.response(200, ProductDetail, headers=ETAG_HEADER)
@blueprint.errors(errors.ProductNotFound)
@blueprint.revalidated
def get_product(query: Values, product_id: int) -> object:
    """Get a product with its movements.

    Includes the latest 50 movements, newest first. The opening balance is included only with `include_opening=true`.
    `GET /transactions/product/{product_id}` lists all of them. The `ETag` changes with the product and with its stock.
    """
    return detail(service.get(product_id), **query)


@blueprint.route("/products/by-sku/<sku:sku>", scope="read")
@blueprint.arguments(OpeningQuery, location="query")
@blueprint.response(200, ProductDetail, headers=ETAG_HEADER)
@blueprint.errors(errors.ProductNotFound)
@blueprint.revalidated
def get_product_by_sku(query: Values, sku: str) -> object:
    """Get a product by its SKU.

    The SKU is case-insensitive. The response is the same as for `GET /products/{product_id}`.
    """
    return detail(service.get_by_sku(sku), **query)


def detail(product: ProductRow, *, include_opening: bool) -> object:
    """The product with its movements, which are not read if the client has them already."""
    tag = service.tag_of(product)
    if is_current(tag):
        return not_modified(tag)
    movements = service.latest_movements(product, include_opening=include_opening)
    return product._asdict() | {"transactions": movements}, etag(tag)


@blueprint.route("/products/<id:product_id>/stock", scope="read")
@blueprint.arguments(StockQuery, location="query")
@blueprint.response(200, StockOut)
@blueprint.errors(errors.ProductNotFound)
def get_stock(query: Values, product_id: int) -> StockAt:
    """Get the stock of a product at a point in time.

    The balance after the last movement up to `as_of`, read from the ledger. A time in the future or before the product
    was created returns 422.
    """
    return queries.stock_at(product_id, query["as_of"])


@blueprint.route("/products/<id:product_id>/counts", scope="stock", methods=["POST"])
@blueprint.records(CountIn, ROW)
@blueprint.errors(errors.ProductNotFound, errors.StaleQuantity)
def count_product(data: dict[str, object], product_id: int, *, key: RequestKey | None) -> LedgerRow:
    """Record a physical count.

    Sets the stock to `counted_quantity` and records the difference. A count that equals the stock is recorded too, as
    evidence. With `expected_quantity` the count returns 409 `stale_quantity` if the stock has changed in the meantime.
    """
    return ledger.count(product_id, data, key)


@blueprint.route("/products/<id:product_id>", scope="catalogue", methods=["PUT", "PATCH"])
@blueprint.arguments(ProductUpdate)
@blueprint.response(200, ProductOut, headers=ETAG_HEADER)
@blueprint.errors(errors.ProductNotFound, errors.UnknownCategory, errors.DuplicateSku, errors.StaleQuantity)
@blueprint.writes(moves_stock=lambda data: "quantity_on_hand" in data, conditional=True)
def update_product(data: dict[str, object], product_id: int, *, key: RequestKey | None, condition: Condition) -> object:
    """Change a product.

    Only the fields that are sent change; PUT and PATCH behave the same. A `quantity_on_hand` that differs from the
    stock is recorded as a count; leave the field out to keep the stock, and use `POST /transactions` for purchases and
    sales. With an `Idempotency-Key` a repeated request moves the stock once and returns the first response. If no stock
    moves, the key is not stored and a repeated request is processed again. `If-Match`, or `version` in the body, makes
    the change conditional (412). A change that does not set the stock compares the version only, so a sale in between
    does not cause a 412; a change that sets the stock compares the whole `ETag`. A product can be sent back as it was
    read, with some fields changed: fields marked `readOnly` are ignored, and with its `updated_at` an unchanged
    `quantity_on_hand` does not restore units sold since. PATCH also accepts `application/merge-patch+json`.
    """
    product = once(key, partial(updates.update, product_id, data, condition, key), updates.replayed_update)
    return product, etag(service.tag_of(product))


@blueprint.route("/products/<id:product_id>", scope="catalogue", methods=["DELETE"])
@blueprint.response(204)
@blueprint.errors(errors.ProductNotFound, errors.ProductHasHistory)
@blueprint.writes(conditional=True)
def delete_product(product_id: int, *, condition: Condition) -> None:
    """Delete a product without movements.

    A product with rows in the ledger returns 409 `product_has_history`; set `is_active` to false instead.
    """
    service.delete(product_id, condition)
