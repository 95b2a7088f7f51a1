"""Finds out who sends a request, and whether they may, before anything else of it is read."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol

import flask
from sqlalchemy import bindparam, or_, update
from sqlalchemy.exc import DBAPIError

from inventory import errors
from inventory.auth.known import RefusedKey
from inventory.auth.secrets import Pepper
from inventory.auth.validation import KeyValidator
from inventory.caller import NOBODY, Caller, require
from inventory.database.base import execute
from inventory.database.unit_of_work import unit_of_work
from inventory.models.api_key import ApiKey
from inventory.web import access
from inventory.web.observability import note_refused_key

if TYPE_CHECKING:
    from flask import Flask

# The time of the last use is not exact, so that it costs few writes.
NOTE_USE_EVERY = timedelta(minutes=5)
NOTE_USE = (
    update(ApiKey)
    .where(ApiKey.id == bindparam("key_id"))
    .where(or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < bindparam("before")))
    .values(last_used_at=bindparam("now"))
)

logger = logging.getLogger(__name__)


class Validator(Protocol):
    def caller(self, key: str) -> Caller:
        """Whose key or token this is. Raises RefusedKey."""


class Validators(NamedTuple):
    """Of API keys, and of tokens if there is an identity provider."""

    keys: Validator
    tokens: Validator | None


def presented() -> str | None:
    """The key or token that the request presents, if any. Raises Unauthorized if it presents two."""
    headers = flask.request.headers
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    # Another scheme is for a proxy, which forwards it.
    keys = [bearer] if scheme.lower() == "bearer" else []
    keys += headers.getlist("X-API-Key")
    if len(keys) > 1:
        raise errors.Unauthorized("Send one API key or token, in one header only.")
    return keys[0] if keys else None


def authenticate(validators: Validators) -> None:
    """Set the caller of a request. Raises KeyRequired, Unauthorized, and InsufficientScope.

    OPTIONS needs no key, because a browser asks without one whether it may send it.
    """
    flask.g.caller = NOBODY
    scope, is_optional = access.required()
    if scope is None or flask.request.method == "OPTIONS":
        return
    try:
        flask.g.caller = identify(validators)
        require(scope)
    except (errors.Unauthorized, errors.InsufficientScope, DBAPIError):
        if not is_optional:
            raise


def identify(validators: Validators) -> Caller:
    """Whose key the request presents. Raises KeyRequired and Unauthorized."""
    key = presented()
    if key is None:
        raise errors.KeyRequired
    try:
        # The text of a key has no dot, and a token has two.
        validator = validators.tokens if "." in key and validators.tokens else validators.keys
        return validator.caller(key)
    except RefusedKey as reason:
        note_refused_key(str(reason))
        raise errors.Unauthorized from None


def note_use(key_id: str, last_used_at: datetime | None) -> None:
    """Store the time of the use, unless a recent one is stored, after the response has been sent."""
    if last_used_at is None or last_used_at < datetime.now(UTC) - NOTE_USE_EVERY:
        write = partial(write_use, flask.current_app._get_current_object(), key_id)  # type: ignore[attr-defined] # noqa: SLF001

        @flask.after_this_request
        def write_later(response: flask.Response) -> flask.Response:
            response.call_on_close(write)
            return response


def write_use(app: Flask, key_id: str) -> None:
    now = datetime.now(UTC)
    try:
        with app.app_context():
            unit_of_work(execute)(NOTE_USE, {"key_id": key_id, "now": now, "before": now - NOTE_USE_EVERY})
    except (errors.ServiceError, DBAPIError) as error:
        logger.info("The last use of key %s was not stored: %s", key_id, type(error).__name__)


def init_app(app: Flask) -> None:
    """Require API keys, unless INVENTORY_AUTH is off. The pepper is checked when the service starts to serve."""
    if app.config["INVENTORY_AUTH"] == "keys":
        keys = KeyValidator(Pepper(app.config["INVENTORY_KEY_PEPPER"] or ""), note_use)
        app.before_request(partial(authenticate, Validators(keys, token_validator(app))))


def token_validator(app: Flask) -> Validator | None:
    """None without an identity provider. Then its module is not loaded, which takes 20 MB and 0.1 s."""
    if app.config["INVENTORY_JWT_ISSUER"] is None:
        return None
    validator: Validator = import_module("inventory.auth.tokens").TokenValidator(app.config)
    return validator
