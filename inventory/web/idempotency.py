"""Idempotency keys: a repeated request takes effect once.

The key and a fingerprint of its request are stored in the ledger row or batch that the request wrote, under a unique
constraint and in the same transaction. A repeated request gets its response from those rows, which never change; what
they do not contain is stored separately. A rejected request stores nothing, so it can be retried with its key. Follows
draft-ietf-httpapi-idempotency-key-header-07.

Most requests store their key whenever they succeed. They try first, without looking for the key: the unique constraint
decides, and only a request that fails looks (``unless_done``). A request that may succeed without storing its key has
to look first (``once``). Each domain rebuilds its response with a ``replay`` function.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import flask
import orjson
from sqlalchemy import bindparam, insert, literal, select, union_all
from sqlalchemy.exc import DBAPIError, OperationalError

from inventory import errors
from inventory.caller import caller
from inventory.database.base import execute, fetch_one, fetch_value, unit_of_work_connection
from inventory.database.engines import advisory_lock, is_locked
from inventory.database.query import Query
from inventory.models.transaction import Batch, StoredResponse, Transaction
from inventory.web.observability import note_replay

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


NO_ROW, NO_BATCH = literal(0, Transaction.id.type), literal("", Batch.id.type)
KEY = bindparam("key", type_=Transaction.idempotency_key.type)
CLIENT = bindparam("client", type_=Transaction.client.type)
FIND = Query(
    union_all(
        select(Transaction.id.label("transaction_id"), NO_BATCH.label("batch_id"), Transaction.fingerprint).where(
            Transaction.idempotency_key == KEY, Transaction.client == CLIENT
        ),
        select(NO_ROW, Batch.id, Batch.fingerprint).where(Batch.idempotency_key == KEY, Batch.client == CLIENT),
    )
)


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

    @property
    def lock(self) -> str:
        """The name of its advisory lock, which the triggers of migration 0007 take, too."""
        return f"{self.client}/{self.key}"

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
    content = fingerprint([request.method, address, payload])
    key = flask.g.idempotency_key = RequestKey(caller().client, parse(sent), content)
    return key


def mark_replay(response: Response) -> Response:
    key = flask.g.get("idempotency_key")
    if key is not None and key.replayed:
        response.headers["Idempotent-Replayed"] = "true"
        note_replay()
    return response


def unless_done(key: RequestKey | None, work: Callable[[], T], replay: Callable[[Earlier], T]) -> T:
    """Do ``work`` in its own transaction. If it fails because it is done already, ``replay`` what it wrote.

    The work must store the key whenever it succeeds. Every failure can be due to an earlier request with this key, such
    as a sale that is refused because the first one took the last units. Raises IdempotencyKeyReused if the earlier
    request was different, and IdempotencyInProgress if it is not finished after too long a wait.
    """
    if key is None:
        return work()
    try:
        return work()
    except (errors.ServiceError, DBAPIError) as error:
        earlier = recall(key)
        if earlier is not None:
            return replay(earlier)
        if is_in_progress(key, error):
            raise errors.IdempotencyInProgress from None
        raise


def is_in_progress(key: RequestKey, error: Exception) -> bool:
    """Whether a request waited too long, and another one with its key is still being processed."""
    return waited_too_long(error) and bool(fetch_value(is_locked(key.lock)))


def once(key: RequestKey | None, work: Callable[[], T], replay: Callable[[Earlier], T]) -> T:
    """Do ``work``, or ``replay`` what an earlier request with this key wrote. Call it in a unit of work.

    Looks for the key first, because the work may succeed without storing it. Raises what ``claim`` raises.
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
        advisory_lock(unit_of_work_connection(), request_key.lock)
    except OperationalError as error:
        if waited_too_long(error):
            raise errors.IdempotencyInProgress from None
        raise


def waited_too_long(error: Exception) -> bool:
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) in WAITED_TOO_LONG


def find(request_key: RequestKey) -> Earlier | None:
    row = fetch_one(FIND, {"client": request_key.client, "key": request_key.key})
    return None if row is None else Earlier(*row)


def store_response(transaction_id: int, body: str) -> None:
    """Store the response to the request that wrote this row, if it cannot be rebuilt from the ledger."""
    execute(insert(StoredResponse).values(transaction_id=transaction_id, body=body))


def stored_response(transaction_id: int) -> str:
    return str(fetch_value(select(StoredResponse.body).where(StoredResponse.transaction_id == transaction_id)))
