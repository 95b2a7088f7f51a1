"""Who sends the current request, and what they may do."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

from flask import current_app, g, has_request_context

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
    """Who sends the request. Until that is known it is nobody, unless authentication is off."""
    found: Caller | None = g.get("caller")
    if found is not None:
        return found
    return NOBODY if has_request_context() and current_app.config["INVENTORY_AUTH"] != "off" else OPERATOR


def require(scope: str) -> Caller:
    """The caller. Raises InsufficientScope unless it has the scope."""
    found = caller()
    if scope not in found.scopes:
        raise InsufficientScope(scope)
    return found


def is_legible(name: str) -> bool:
    """Whether people can read a name of a caller: not blank, without control, formatting and unassigned characters."""
    categories = {unicodedata.category(character) for character in name}
    return bool(name.strip()) and not any(found[0] == "C" or found in {"Zl", "Zp"} for found in categories)
