"""What browsers may do with responses: security headers for all, and CORS for pages of listed origins."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import flask
from flask_cors import CORS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask import Flask, Response


def content_security_policy(**sources: str) -> str:
    """A policy that allows only ``sources``, by directive: ``script_src="'self'"``. No page may frame the response."""
    allowed = {name.replace("_", "-"): value for name, value in sources.items()}
    # These do not fall back to default-src.
    nothing = dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'")
    return "; ".join(f"{name} {value}" for name, value in (nothing | allowed).items())


SECURITY_HEADERS = {
    # A shared cache must not give a response to a client without a key. Authorization tells it so, but X-API-Key does
    # not (RFC 9111 section 3.5). Browsers may keep it, and ask each time whether it has changed.
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": content_security_policy(),
    # Not for CORS requests: their responses are protected by CORS alone.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


# Request headers that pages may set, besides those that CORS always allows.
ALLOWED_HEADERS = [
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "X-API-Key",
    "X-Request-ID",
    "traceparent",
]
# Response headers that pages may read, besides those that CORS always exposes.
EXPOSED_HEADERS = [
    "Allow",
    "Content-Disposition",
    "ETag",
    "Idempotent-Replayed",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-ID",
    "X-Total-Count",
]
# For so many seconds, browsers need not ask again.
PREFLIGHT_MAX_AGE = 600


def add_security_headers(response: Response) -> Response:
    given = {name.lower() for name, _value in response.headers}
    for name, value in SECURITY_HEADERS.items():
        if name.lower() not in given:
            response.headers.add(name, value)
    return response


def has_listed_origin() -> bool:
    """Whether a page of an origin in INVENTORY_CORS_ORIGINS sends this request."""
    return flask.request.headers.get("Origin") in flask.current_app.config["INVENTORY_CORS_ORIGINS"]


def answer_preflight() -> Response | None:
    """Answer a CORS preflight of a listed origin, for any URL.

    If the URL is wrong, only a successful preflight lets the page send its request and read the error. A preflight has
    no API key, and its URL has the parameters of the request that follows.
    """
    if flask.request.method != "OPTIONS" or "Access-Control-Request-Method" not in flask.request.headers:
        return None
    return flask.Response(status=204) if has_listed_origin() else None


def vary_by_origin(response: Response) -> Response:
    """Without an Origin, too: a cache must not give that response to a page."""
    response.vary.add("Origin")
    return response


def allow_origins(app: Flask, origins: Iterable[str]) -> None:
    app.before_request(answer_preflight)
    app.after_request(vary_by_origin)
    CORS(
        app,
        # flask-cors would compare text without case, and read the brackets of an IPv6 address as a pattern.
        origins=[re.compile(re.escape(origin) + r"\Z") for origin in origins],
        allow_headers=ALLOWED_HEADERS,
        expose_headers=EXPOSED_HEADERS,
        max_age=PREFLIGHT_MAX_AGE,
        supports_credentials=False,
        vary_header=False,
        # The error handlers return responses, which have the headers of all others.
        intercept_exceptions=False,
    )


def init_app(app: Flask) -> None:
    app.after_request(add_security_headers)
    if origins := app.config["INVENTORY_CORS_ORIGINS"]:
        allow_origins(app, origins)
