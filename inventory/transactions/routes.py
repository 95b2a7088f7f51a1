"""/transactions: record movements of stock and read the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import url_for

from inventory import errors
from inventory.transactions import batches, queries, reversals, service
from inventory.transactions.rows import LedgerRow, RecordedBatch
from inventory.transactions.schemas import (
    BatchIn,
    BatchOut,
    FeedOut,
    HistoryQuery,
    ReversalIn,
    TransactionIn,
    TransactionOut,
    TransactionQuery,
)
from inventory.web.blueprint import Blueprint, Recorded
from inventory.web.openapi.operations import LINK_HEADER
from inventory.web.pagination import FeedQuery, next_link

if TYPE_CHECKING:
    from uuid import UUID

    from inventory.database.keyset import Page
    from inventory.fields import Values
    from inventory.web.idempotency import RequestKey

blueprint = Blueprint("transactions", __name__, description="The append-only ledger of stock movements.")

REFUSALS = (errors.UnknownProduct, errors.InsufficientStock, errors.ProductInactive, errors.StaleQuantity)


def row_without_id(row: LedgerRow) -> dict[str, object]:
    return row._asdict() | {"id": None}


def batch_without_ids(batch: RecordedBatch) -> dict[str, object]:
    rows = [row_without_id(row) | {"batch_id": None} for row in batch.transactions]
    return {"batch_id": None, "transactions": rows}


ROW = Recorded[LedgerRow](
    schema=TransactionOut,
    location=lambda row: url_for("transactions.get_transaction", transaction_id=row.id),
    replay=lambda earlier: queries.get(earlier.transaction_id),
    without_ids=row_without_id,
)
BATCH = Recorded[RecordedBatch](
    schema=BatchOut,
    location=lambda batch: url_for("transactions.get_batch", batch_id=batch.batch_id),
    replay=lambda earlier: batches.get(earlier.batch_id),
    without_ids=batch_without_ids,
)


@blueprint.route("/transactions", scope="read")
@blueprint.arguments(TransactionQuery, location="query")
@blueprint.page(TransactionOut)
@blueprint.errors(errors.InvalidCursor)
def list_transactions(query: Values) -> Page[LedgerRow]:
    """List the rows of the ledger.

    All rows, including opening balances; newest first by default. Filters are combined with AND. Follow the `Link`
    header to the other pages. To process every row once, use `GET /transactions/feed`.
    """
    page = query.pop("page")
    return queries.find(query, page)


@blueprint.route("/transactions", scope="stock", methods=["POST"])
@blueprint.records(TransactionIn, ROW, one_statement=True)
@blueprint.errors(*REFUSALS)
def record_transaction(data: Values, *, key: RequestKey | None) -> LedgerRow:
    """Record a purchase, a sale or an adjustment.

    Identify the product by `product_id` or by `sku`, not both. A sale of more units than available returns 400
    `insufficient_stock`; concurrent sales never oversell. Inactive products accept adjustments only (409
    `product_inactive`). With `expected_quantity` the movement is recorded only if the stock equals it (409
    `stale_quantity`). Send an `Idempotency-Key` to retry safely when a response is lost.
    """
    return service.create(data, key)


@blueprint.route("/transactions/batch", scope="stock", methods=["POST"])
@blueprint.records(BatchIn, BATCH)
@blueprint.errors(errors.BatchRejected)
def record_batch(data: Values, *, key: RequestKey | None) -> RecordedBatch:
    """Record up to 1,000 movements, all of them or none.

    Lines are applied in order, each to the stock left by the lines before it. If a line fails, nothing is recorded:
    400 `batch_rejected` lists every line that failed. The rows share a `batch_id`, and one `Idempotency-Key` covers
    the batch. The body may also be a bare array of lines.
    """
    return batches.create(data["lines"], key)


@blueprint.route("/transactions/batch/<uuid:batch_id>", scope="read")
@blueprint.response(200, BatchOut)
@blueprint.errors(errors.TransactionNotFound)
def get_batch(batch_id: UUID) -> RecordedBatch:
    """Get a batch.

    Returns its rows in the order in which they were applied, as `POST /transactions/batch` did. Reversals of batches
    and imports have a `batch_id` too.
    """
    return batches.get(str(batch_id))


@blueprint.route("/transactions/batch/<uuid:batch_id>/reversal", scope="stock", methods=["POST"])
@blueprint.records(ReversalIn, BATCH, body_required=False)
@blueprint.errors(errors.TransactionNotFound, errors.AlreadyReversed, errors.NotReversible, errors.BatchRejected)
def reverse_batch(data: Values, batch_id: UUID, *, key: RequestKey | None) -> RecordedBatch:
    """Reverse a batch.

    Records a contra row for every row of the batch, all or none. A second reversal returns 409 `already_reversed`. If
    the stock is no longer sufficient, the response is 400 `batch_rejected`. The body is optional.
    """
    return batches.reverse(str(batch_id), data, key)


@blueprint.route("/transactions/feed", scope="read")
@blueprint.arguments(FeedQuery, location="query")
@blueprint.response(200, FeedOut(many=True), headers=LINK_HEADER)
@blueprint.errors(errors.InvalidCursor)
def read_transactions_feed(query: Values) -> object:
    """Follow the ledger.

    All rows in commit order: later commits never insert rows before ones you have read, so a reader misses none.
    Start without `after` to read from the first row, or with `after=now` to read only new rows. Then poll the `next`
    link, which is always present, even when there are no new rows.
    """
    rows, cursor = queries.feed(**query)
    return rows, next_link(cursor)


@blueprint.route("/transactions/<id:transaction_id>", scope="read")
@blueprint.response(200, TransactionOut)
@blueprint.errors(errors.TransactionNotFound)
def get_transaction(transaction_id: int) -> LedgerRow:
    """Get a row of the ledger.

    Returns the row as it was recorded. Rows are never changed or deleted.
    """
    return queries.get(transaction_id)


@blueprint.route("/transactions/<id:transaction_id>/reversal", scope="stock", methods=["POST"])
@blueprint.records(ReversalIn, ROW, body_required=False)
@blueprint.errors(errors.TransactionNotFound, errors.AlreadyReversed, errors.NotReversible, errors.InsufficientStock)
def reverse_transaction(data: Values, transaction_id: int, *, key: RequestKey | None) -> LedgerRow:
    """Reverse a movement.

    Records a contra row with the opposite effect; the original row stays. A second reversal returns 409
    `already_reversed`. If the stock is no longer sufficient, the response is 400 `insufficient_stock`. The body is
    optional.
    """
    return reversals.reverse(transaction_id, data, key)


@blueprint.route("/transactions/product/<id:product_id>", scope="read")
@blueprint.arguments(HistoryQuery, location="query")
@blueprint.page(TransactionOut)
@blueprint.errors(errors.InvalidCursor, errors.ProductNotFound)
def list_product_transactions(query: Values, product_id: int) -> Page[LedgerRow]:
    """List the movements of a product.

    Newest first by default. The opening balance is not included unless `include_opening=true`. Follow the `Link`
    header to the other pages.
    """
    return queries.history(product_id, **query)
