"""What browsers may do with responses: the security headers of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask, Response


def content_security_policy(**sources: str) -> str:
    """A policy that allows only ``sources``, by directive: ``script_src="'self'"``. No page may frame the response."""
    allowed = {name.replace("_", "-"): value for name, value in sources.items()}
    # These do not fall back to default-src.
    nothing = dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'")
    return "; ".join(f"{name} {value}" for name, value in (nothing | allowed).items())


SECURITY_HEADERS = {
    "Content-Security-Policy": content_security_policy(),
    # Not for CORS requests: their responses are protected by CORS alone.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def add_security_headers(response: Response) -> Response:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def init_app(app: Flask) -> None:
    app.after_request(add_security_headers)
