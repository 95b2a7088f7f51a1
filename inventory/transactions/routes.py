"""/transactions: record movements of stock and read the ledger."""

from __future__ import annotations

from typing import Any

from flask import url_for

from inventory import errors
from inventory.api import LOCATION_HEADER, Blueprint
from inventory.db import unit_of_work
from inventory.transactions import service
from inventory.transactions.schemas import HistoryQuery, TransactionIn, TransactionOut, TransactionQuery

blueprint = Blueprint("transactions", __name__, description="The append-only ledger of stock movements.")


@blueprint.route("/transactions")
@blueprint.arguments(TransactionQuery, location="query")
@blueprint.page(TransactionOut)
@blueprint.errors(errors.InvalidCursor)
def list_transactions(query: dict[str, Any]) -> Any:
    """List movements, newest first."""
    page = query.pop("page")
    return service.find(query, page)


@blueprint.route("/transactions", methods=["POST"])
@blueprint.arguments(TransactionIn)
@blueprint.response(201, TransactionOut, headers=LOCATION_HEADER)
@blueprint.errors(errors.UnknownProduct, errors.InsufficientStock, errors.ProductInactive, errors.StaleQuantity)
@unit_of_work
def create_transaction(data: dict[str, Any]) -> Any:
    """Record a purchase, a sale or an adjustment."""
    transaction = service.create(data)
    return transaction, {"Location": url_for(".get_transaction", transaction_id=transaction["id"])}


@blueprint.route("/transactions/<id:transaction_id>")
@blueprint.response(200, TransactionOut)
@blueprint.errors(errors.TransactionNotFound)
def get_transaction(transaction_id: int) -> Any:
    """Get one movement."""
    return service.get(transaction_id)


@blueprint.route("/transactions/product/<id:product_id>")
@blueprint.arguments(HistoryQuery, location="query")
@blueprint.page(TransactionOut)
@blueprint.errors(errors.InvalidCursor, errors.ProductNotFound)
def list_product_transactions(query: dict[str, Any], product_id: int) -> Any:
    """List one product's movements, newest first."""
    return service.history(product_id, query["page"])
