"""A request's idempotency key, as the header brings it; the ledger's side is transactions/idempotency.py."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from inventory import errors

if TYPE_CHECKING:
    from decimal import Decimal

# Visible ASCII, bare or as a quoted string (RFC 8941 section 3.3.3). Servers join a header that was sent twice with
# a comma, so a bare key has none.
BARE = re.compile(r"[!-+\--~]{1,255}")
QUOTED = re.compile(r'"([!#-\[\]-~]{1,255})"')


@dataclass
class RequestKey:
    """A client's key and what it was sent with. ``replayed`` tells afterwards that the effect was there already."""

    client: str
    key: str
    fingerprint: str
    replayed: bool = False

    def columns(self) -> dict[str, str]:
        """What the ledger stores of it."""
        return {"client": self.client, "idempotency_key": self.key, "fingerprint": self.fingerprint}


def parse(header: str) -> str:
    """The key in a header. Raises InvalidIdempotencyKey."""
    if quoted := QUOTED.fullmatch(header):
        return quoted[1]
    if header.startswith('"') or not BARE.fullmatch(header):
        raise errors.InvalidIdempotencyKey
    return header


def fingerprint(content: Any) -> str:
    """SHA-256 of a request as it was understood: defaults filled in, blanks trimmed, keys in one order.

    The ledger keeps it for ever, so a release that alters it no longer knows the requests of the one before. Nulls
    count as absent: a new field that may be left out, and is null then, alters nothing.
    """
    canonical = orjson.dumps(without_nulls(content), option=orjson.OPT_SORT_KEYS, default=shortest)
    return hashlib.sha256(canonical).hexdigest()


def without_nulls(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: without_nulls(value) for name, value in content.items() if value is not None}
    if isinstance(content, (list, tuple)):
        return [without_nulls(value) for value in content]
    return content


def shortest(amount: Decimal) -> str:
    """The same text for 10, 10.0 and 1e1, which are one amount."""
    return str(amount.normalize())
