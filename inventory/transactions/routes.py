"""/transactions: record movements of stock and read the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import url_for

from inventory import errors
from inventory.database.base import db, unit_of_work
from inventory.transactions import batches, queries, service
from inventory.transactions.schemas import (
    BatchIn,
    BatchOut,
    DryRunQuery,
    FeedOut,
    FeedQuery,
    HistoryQuery,
    ReversalIn,
    TransactionIn,
    TransactionOut,
    TransactionQuery,
)
from inventory.web.api import Blueprint
from inventory.web.headers import next_link
from inventory.web.openapi import LINK_HEADER, LOCATION_HEADER

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Row

    from inventory.transactions.batches import RecordedBatch
    from inventory.web.idempotency import RequestKey

blueprint = Blueprint("transactions", __name__, description="The append-only ledger of stock movements.")

REFUSALS = (errors.UnknownProduct, errors.InsufficientStock, errors.ProductInactive, errors.StaleQuantity)


def recorded(transaction: Row[Any], *, dry_run: bool) -> Any:
    """The answer to one movement; a dry run is undone here and has no id."""
    if dry_run:
        db.session.rollback()
        return {**transaction._mapping, "id": None}, 200  # noqa: SLF001
    return transaction, {"Location": url_for("transactions.get_transaction", transaction_id=transaction.id)}


def recorded_batch(batch: RecordedBatch, *, dry_run: bool) -> Any:
    """The answer to a batch; a dry run is undone here and has no ids."""
    if dry_run:
        db.session.rollback()
        rows = [{**row._mapping, "id": None, "batch_id": None} for row in batch.transactions]  # noqa: SLF001
        return {"batch_id": None, "transactions": rows}, 200
    return batch, {"Location": url_for("transactions.list_transactions", batch_id=batch.batch_id)}


@blueprint.route("/transactions")
@blueprint.arguments(TransactionQuery, location="query")
@blueprint.page(TransactionOut)
@blueprint.errors(errors.InvalidCursor)
def list_transactions(query: dict[str, Any]) -> Any:
    """List movements, newest first."""
    page = query.pop("page")
    return queries.find(query, page)


@blueprint.route("/transactions", methods=["POST"])
@blueprint.arguments(DryRunQuery, location="query")
@blueprint.arguments(TransactionIn)
@blueprint.idempotent()
@blueprint.response(200, TransactionOut, description="What a dry run would have recorded.")
@blueprint.response(201, TransactionOut, headers=LOCATION_HEADER)
@blueprint.errors(*REFUSALS)
@unit_of_work
def create_transaction(query: dict[str, Any], data: dict[str, Any], *, key: RequestKey | None) -> Any:
    """Record a purchase, a sale or an adjustment."""
    return recorded(service.create(data, key), **query)


@blueprint.route("/transactions/batch", methods=["POST"])
@blueprint.arguments(DryRunQuery, location="query")
@blueprint.arguments(BatchIn)
@blueprint.idempotent()
@blueprint.response(200, BatchOut, description="What a dry run would have recorded.")
@blueprint.response(201, BatchOut, headers=LOCATION_HEADER)
@blueprint.errors(errors.BatchRejected)
@unit_of_work
def create_batch(query: dict[str, Any], data: dict[str, Any], *, key: RequestKey | None) -> Any:
    """Record up to 1,000 movements in the order given, all of them or none."""
    return recorded_batch(batches.create(data["lines"], key), **query)


@blueprint.route("/transactions/batch/<uuid:batch_id>/reversal", methods=["POST"])
@blueprint.arguments(DryRunQuery, location="query")
@blueprint.arguments(ReversalIn, required=False)
@blueprint.idempotent()
@blueprint.response(200, BatchOut, description="What a dry run would have recorded.")
@blueprint.response(201, BatchOut, headers=LOCATION_HEADER)
@blueprint.errors(errors.TransactionNotFound, errors.AlreadyReversed, errors.NotReversible, errors.BatchRejected)
@unit_of_work
def reverse_batch(query: dict[str, Any], data: dict[str, Any], batch_id: UUID, *, key: RequestKey | None) -> Any:
    """Undo a batch by contra rows, all of them or none, and once only."""
    return recorded_batch(batches.reverse(str(batch_id), data, key), **query)


@blueprint.route("/transactions/feed")
@blueprint.arguments(FeedQuery, location="query")
@blueprint.response(200, FeedOut(many=True), headers=LINK_HEADER)
@blueprint.errors(errors.InvalidCursor)
def read_feed(query: dict[str, Any]) -> Any:
    """Follow the ledger in the order of its commits, without ever missing a row.

    Poll the `next` link. It is always there, also where no row has come since.
    """
    rows, cursor = queries.feed(**query)
    return rows, next_link({"after": cursor} if cursor else {})


@blueprint.route("/transactions/<id:transaction_id>")
@blueprint.response(200, TransactionOut)
@blueprint.errors(errors.TransactionNotFound)
def get_transaction(transaction_id: int) -> Any:
    """Get one movement."""
    return queries.get(transaction_id)


@blueprint.route("/transactions/<id:transaction_id>/reversal", methods=["POST"])
@blueprint.arguments(DryRunQuery, location="query")
@blueprint.arguments(ReversalIn, required=False)
@blueprint.idempotent()
@blueprint.response(200, TransactionOut, description="What a dry run would have recorded.")
@blueprint.response(201, TransactionOut, headers=LOCATION_HEADER)
@blueprint.errors(errors.TransactionNotFound, errors.AlreadyReversed, errors.NotReversible, errors.InsufficientStock)
@unit_of_work
def reverse_transaction(
    query: dict[str, Any], data: dict[str, Any], transaction_id: int, *, key: RequestKey | None
) -> Any:
    """Undo a movement by a contra row, once only."""
    return recorded(service.reverse(transaction_id, data, key), **query)


@blueprint.route("/transactions/product/<id:product_id>")
@blueprint.arguments(HistoryQuery, location="query")
@blueprint.page(TransactionOut)
@blueprint.errors(errors.InvalidCursor, errors.ProductNotFound)
def list_product_transactions(query: dict[str, Any], product_id: int) -> Any:
    """List one product's movements, newest first."""
    return queries.history(product_id, query["page"])
