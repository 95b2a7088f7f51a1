"""Who sends the current request, and what they may do."""

from __future__ import annotations

from typing import NamedTuple

from flask import g

from inventory.errors import InsufficientScope

# What each scope permits. No scope includes another one.
SCOPES = {
    "read": "read products, categories, the ledger and exports",
    "stock": "record movements of stock",
    "catalogue": "create, change and delete products and categories",
    "admin": "read operational data of the service",
}


class Caller(NamedTuple):
    """``actor`` is the name on the ledger rows of a caller, ``client`` the owner of its idempotency keys."""

    actor: str | None
    client: str
    scopes: frozenset[str]


NOBODY = Caller(None, "", frozenset())
# The command line, and all requests if INVENTORY_AUTH is off.
OPERATOR = Caller(None, "", frozenset(SCOPES))


def caller() -> Caller:
    found: Caller = g.get("caller", OPERATOR)
    return found


def require(scope: str) -> Caller:
    """The caller. Raises InsufficientScope unless it has the scope."""
    found = caller()
    if scope not in found.scopes:
        raise InsufficientScope(scope)
    return found
