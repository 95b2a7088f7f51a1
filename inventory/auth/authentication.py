"""Finds out who sends a request, and whether they may, before anything else of it is read."""

from __future__ import annotations

from functools import lru_cache, partial
from importlib import import_module
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple, Protocol

import flask
from sqlalchemy.exc import DBAPIError

from inventory import errors
from inventory.auth import limits
from inventory.auth.known import RefusedKey
from inventory.auth.last_uses import LastUses
from inventory.auth.secrets import Pepper
from inventory.auth.validation import KeyValidator
from inventory.caller import NOBODY, Caller, caller, require
from inventory.web import access
from inventory.web.observability import note_refused_key

if TYPE_CHECKING:
    from flask import Flask

    from inventory.auth.limits import Failures


class Validator(Protocol):
    def knows(self, key: str) -> bool:
        """Whether this worker has found the key valid, even if it has to check it again."""

    def caller(self, key: str) -> Caller:
        """Whose key or token this is. Raises RefusedKey."""


class Validators(NamedTuple):
    """Of API keys, and of tokens if there is an identity provider."""

    keys: Validator
    tokens: Validator | None


def presented() -> list[str]:
    """The keys and tokens in the headers of the request."""
    headers = flask.request.headers
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    # Another scheme is for a proxy, which forwards it.
    keys = [bearer] if scheme.lower() == "bearer" else []
    return keys + headers.getlist("X-API-Key")


def authenticate(validators: Validators, failures: Failures) -> None:
    """Set the caller of a request, NOBODY without a key. Raises Unauthorized, and RateLimited after many failures.

    OPTIONS needs no key, because a browser asks without one whether it may send it.
    """
    flask.g.caller = NOBODY
    scope, is_optional = access.required()
    if scope is None or flask.request.method == "OPTIONS":
        return
    try:
        flask.g.caller = identify(validators, failures)
    except (errors.Unauthorized, errors.RateLimited, DBAPIError):
        if not is_optional:
            raise


def identify(validators: Validators, failures: Failures) -> Caller:
    """Whose key or token the request presents. Raises Unauthorized and RateLimited.

    While an address sends invalid keys, only those are checked that were valid before: other clients can have the same
    address.
    """
    keys = presented()
    if not keys:
        return NOBODY
    refusal = failures.refusal()
    if len(keys) > 1:
        failures.note()
        note_refused_key("more than one key in the request")
        raise refusal or errors.Unauthorized("Send one API key or token, in one header only.")
    key = keys[0]
    # The text of a key has no dot, and a token has two.
    validator = validators.tokens if "." in key and validators.tokens else validators.keys
    if refusal is not None and not validator.knows(key):
        raise refusal
    try:
        return validator.caller(key)
    except RefusedKey as reason:
        failures.note()
        note_refused_key(str(reason))
        raise errors.Unauthorized from None


def authorize() -> None:
    """Raise KeyRequired or InsufficientScope unless the caller may do what the request asks for."""
    scope, is_optional = access.required()
    if scope is None or is_optional or flask.request.method == "OPTIONS":
        return
    if caller() is NOBODY:
        note_refused_key("missing")
        raise errors.KeyRequired
    require(scope)


def init_app(app: Flask) -> None:
    """Limit rates, and require API keys, or else that requests come from this machine.

    The pepper is checked when the service starts to serve. Requests without a key, and with too small a scope, count.
    """
    needs_key = app.config["INVENTORY_AUTH"] == "keys"
    limiter = limits.init_app(app)
    if needs_key:
        keys = KeyValidator(Pepper(app.config["INVENTORY_KEY_PEPPER"] or ""), LastUses(app).note)
        failures = limits.Failures(app.config["INVENTORY_LIMIT_INVALID_KEYS"])
        app.before_request(partial(authenticate, Validators(keys, token_validator(app)), failures))
    else:
        app.before_request(refuse_other_machines)
    if limiter.reads or limiter.writes:
        app.before_request(limiter.check)
    if needs_key:
        app.before_request(authorize)


def refuse_other_machines() -> None:
    """Raise Unauthorized for a request without authentication that was not sent to a loopback address.

    gunicorn.conf.py already refuses to listen on other addresses. Another configuration or server does not read it.
    """
    environ = flask.request.environ
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    # Not the address that a proxy has forwarded.
    peer = environ.get("werkzeug.proxy_fix.orig", environ).get("REMOTE_ADDR") or "127.0.0.1"
    address = connection.getsockname() if connection else (peer,)
    if isinstance(address, tuple) and not is_loopback(address[0]):
        raise errors.Unauthorized("INVENTORY_AUTH is off, so only programs on the same machine may send requests.")


@lru_cache(maxsize=1_000)
def is_loopback(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:  # what an unknown server calls the peer
        return False


def token_validator(app: Flask) -> Validator | None:
    """None without an identity provider. Then its module is not loaded, which takes 20 MB and 0.1 s."""
    if app.config["INVENTORY_JWT_ISSUER"] is None:
        return None
    validator: Validator = import_module("inventory.auth.tokens").TokenValidator(app.config)
    return validator
