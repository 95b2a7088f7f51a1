"""Idempotency keys: a request that moves stock has its effect once, however often it is sent.

The key stands with a fingerprint of its request in the row that the request wrote, or in its batch, under a unique
constraint and in the same transaction. An answer is given again from those rows, which never change. A refusal
leaves nothing, so the same request is judged anew. After draft-ietf-httpapi-idempotency-key-header-07.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import cast, null, select, union_all
from sqlalchemy.exc import OperationalError

from inventory import errors
from inventory.database.base import db
from inventory.database.engines import hold
from inventory.models.transaction import Batch, Transaction

if TYPE_CHECKING:
    from sqlalchemy import Row

    from inventory.web.idempotency import RequestKey

# PostgreSQL's lock_not_available, and query_canceled where the time limit of statements is the shorter one.
WAITED_TOO_LONG = {"55P03", "57014"}


def claim(request_key: RequestKey | None) -> Row[Any] | None:
    """Find what an earlier request with this key wrote: a row with ``transaction_id`` or ``batch_id``, or None.

    Holds the key until this transaction ends, so that a copy that arrives meanwhile waits for the outcome. Raises
    IdempotencyKeyReused if the earlier request was another, IdempotencyInProgress if the wait is too long.
    """
    if request_key is None:
        return None
    hold_key(request_key)
    earlier = find(request_key)
    if earlier is not None and earlier.fingerprint != request_key.fingerprint:
        raise errors.IdempotencyKeyReused
    request_key.replayed = earlier is not None
    return earlier


def hold_key(request_key: RequestKey) -> None:
    try:
        hold(db.session(), f"{request_key.client}\0{request_key.key}")
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) in WAITED_TOO_LONG:
            raise errors.IdempotencyInProgress from None
        raise


def find(request_key: RequestKey) -> Row[Any] | None:
    no_batch, no_row = cast(null(), Batch.id.type), cast(null(), Transaction.id.type)
    rows = select(Transaction.id.label("transaction_id"), no_batch.label("batch_id"), Transaction.fingerprint)
    batches = select(no_row, Batch.id, Batch.fingerprint)
    found = union_all(
        rows.where(Transaction.idempotency_key == request_key.key, Transaction.client == request_key.client),
        batches.where(Batch.idempotency_key == request_key.key, Batch.client == request_key.client),
    )
    return db.session.execute(found).one_or_none()
