"""Idempotency keys: a repeated request takes effect once.

The key and a fingerprint of its request are stored in the ledger row or batch that the request wrote, under a unique
constraint and in the same transaction. A repeated request gets its response from those rows, which never change; what
they do not contain is stored separately. A rejected request stores nothing, so it can be retried with its key. Follows
draft-ietf-httpapi-idempotency-key-header-07.

``records`` in web/api.py calls ``once``, and so do the product routes and the import. Each domain rebuilds its response
with a ``replay`` function.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import flask
import orjson
from sqlalchemy import insert, literal, select, union_all
from sqlalchemy.exc import OperationalError

from inventory import errors
from inventory.database.base import db
from inventory.database.engines import advisory_lock
from inventory.models.transaction import Batch, StoredResponse, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from werkzeug.wrappers import Response

T = TypeVar("T")

# Visible ASCII, bare or as a quoted string (RFC 8941 section 3.3.3). Servers join repeated headers with a comma, so a
# bare key may not contain one.
BARE = re.compile(r"[!-+\--~]{1,255}")
QUOTED = re.compile(r'"([!#-\[\]-~]{1,255})"')
# PostgreSQL: lock_not_available, or query_canceled if the statement timeout is shorter.
WAITED_TOO_LONG = {"55P03", "57014"}


class Earlier(NamedTuple):
    """What an earlier request wrote: a row of the ledger, or a batch; the other one is 0 or empty."""

    transaction_id: int
    batch_id: str
    fingerprint: str


@dataclass
class RequestKey:
    """A client's key and the fingerprint of its request. ``replayed`` is set if the request was processed before."""

    client: str
    key: str
    fingerprint: str
    replayed: bool = False

    def columns(self) -> dict[str, str]:
        """The columns in which the ledger stores it."""
        return {"client": self.client, "idempotency_key": self.key, "fingerprint": self.fingerprint}


def parse(header: str) -> str:
    """The key in a header. Raises InvalidIdempotencyKey."""
    if quoted := QUOTED.fullmatch(header):
        return quoted[1]
    if header.startswith('"') or not BARE.fullmatch(header):
        raise errors.InvalidIdempotencyKey
    return header


def fingerprint(content: object) -> str:
    """SHA-256 of a request after loading: with defaults, without surrounding white space, keys sorted.

    It is stored permanently, so a change of this function breaks the keys of earlier releases. Nulls count as absent,
    so a new optional field changes nothing.
    """
    canonical = orjson.dumps(without_nulls(content), option=orjson.OPT_SORT_KEYS, default=shortest)
    return hashlib.sha256(canonical).hexdigest()


def without_nulls(content: object) -> object:
    if isinstance(content, dict):
        return {name: without_nulls(value) for name, value in content.items() if value is not None}
    if isinstance(content, (list, tuple)):
        return [without_nulls(value) for value in content]
    return content


def shortest(amount: Decimal) -> str:
    """The same text for equal amounts, such as 10, 10.0 and 1e1."""
    return str(amount.normalize())


def idempotency_key(*payload: object, moves_stock: bool) -> RequestKey | None:
    """The request's key, with a fingerprint of its method, its address and ``payload``.

    Raises InvalidIdempotencyKey, and IdempotencyKeyRequired if there is none and the settings require one.
    """
    request, sent = flask.request, flask.request.headers.get("Idempotency-Key")
    if sent is None:
        if moves_stock and flask.current_app.config["INVENTORY_REQUIRE_IDEMPOTENCY_KEY"]:
            raise errors.IdempotencyKeyRequired
        return None
    # The canonical address: 007 in a path is 7.
    address = flask.url_for(request.endpoint or "", **(request.view_args or {}))
    key = flask.g.idempotency_key = RequestKey("", parse(sent), fingerprint([request.method, address, payload]))
    return key


def mark_replay(response: Response) -> Response:
    key = flask.g.get("idempotency_key")
    if key is not None and key.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def once(key: RequestKey | None, work: Callable[[], T], replay: Callable[[Earlier], T]) -> T:
    """Do ``work``, or ``replay`` what an earlier request with this key wrote. Call it in a unit of work.

    Raises what ``claim`` raises.
    """
    earlier = claim(key)
    return work() if earlier is None else replay(earlier)


def claim(request_key: RequestKey | None) -> Earlier | None:
    """Find what an earlier request with this key wrote.

    Locks the key until the transaction ends, so that a concurrent copy waits for the outcome. Raises
    IdempotencyKeyReused if the earlier request was different, and IdempotencyInProgress after too long a wait.
    """
    if request_key is None:
        return None
    lock_key(request_key)
    return recall(request_key)


def recall(request_key: RequestKey | None) -> Earlier | None:
    """Like ``claim``, but without a lock: a concurrent request can still use the key first."""
    if request_key is None:
        return None
    earlier = find(request_key)
    if earlier is not None and earlier.fingerprint != request_key.fingerprint:
        raise errors.IdempotencyKeyReused
    request_key.replayed = earlier is not None
    return earlier


def lock_key(request_key: RequestKey) -> None:
    try:
        advisory_lock(db.session(), f"{request_key.client}\0{request_key.key}")
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) in WAITED_TOO_LONG:
            raise errors.IdempotencyInProgress from None
        raise


def find(request_key: RequestKey) -> Earlier | None:
    no_row, no_batch = literal(0, Transaction.id.type), literal("", Batch.id.type)
    rows = select(Transaction.id.label("transaction_id"), no_batch.label("batch_id"), Transaction.fingerprint)
    batches = select(no_row, Batch.id, Batch.fingerprint)
    found = union_all(
        rows.where(Transaction.idempotency_key == request_key.key, Transaction.client == request_key.client),
        batches.where(Batch.idempotency_key == request_key.key, Batch.client == request_key.client),
    )
    row = db.session.execute(found).one_or_none()
    return None if row is None else Earlier(*row)


def store_response(transaction_id: int, body: str) -> None:
    """Store the response to the request that wrote this row, if it cannot be rebuilt from the ledger."""
    db.session.execute(insert(StoredResponse).values(transaction_id=transaction_id, body=body))


def stored_response(transaction_id: int) -> str:
    return db.session.scalars(select(StoredResponse.body).where(StoredResponse.transaction_id == transaction_id)).one()
