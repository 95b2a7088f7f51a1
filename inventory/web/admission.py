"""Checks of the request line and the headers, before the body is read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import flask

from inventory import errors
from inventory.web.browsers import has_listed_origin

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask import Flask

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Used by health checks inside a container. Pages of other sites cannot have these names.
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# A host name or address, and an optional port. Docker Compose service names can contain underscores.
HOST = re.compile(r"([A-Za-z0-9._-]+|\[[A-Fa-f0-9:.]+\])(?::[0-9]{1,5})?")


def refuse_foreign_host() -> None:
    """Reject a request with an invalid Host, or with a host that is not in INVENTORY_TRUSTED_HOSTS.

    RFC 9112 section 3.2 requires the first. The second prevents DNS rebinding: if the name of a web page is made to
    resolve to this service, the browser treats both as one origin, and only the Host header differs.
    """
    host, listed = flask.request.headers.get("Host"), flask.current_app.config["INVENTORY_TRUSTED_HOSTS"]
    if host is None and not listed and flask.request.environ["SERVER_PROTOCOL"] == "HTTP/1.0":
        return
    match = HOST.fullmatch(host or "")
    if not match:
        raise errors.ForeignHost
    if listed and not is_listed(match[1].lower(), (*listed, *LOOPBACK)):
        raise errors.ForeignHost("This Host is not allowed. The operator can add it to INVENTORY_TRUSTED_HOSTS.")


def is_listed(name: str, listed: Iterable[str]) -> bool:
    return any(name == known or (known.startswith(".") and f".{name}".endswith(known)) for known in listed)


def refuse_cross_site() -> None:
    """Reject an unsafe cross-origin request of a browser, unless its origin is in INVENTORY_CORS_ORIGINS.

    The algorithm is that of CrossOriginProtection in Go's net/http. Browsers send Sec-Fetch-Site, older ones only
    Origin; other clients send neither and are not affected. Other origins of the same site are rejected, too, because
    they may not be trusted.
    """
    if flask.request.method in SAFE_METHODS:
        return
    site, origin = flask.request.headers.get("Sec-Fetch-Site"), flask.request.headers.get("Origin")
    if site in {"same-origin", "none"} or has_listed_origin():
        return
    if site is not None or (origin is not None and not is_own(origin)):
        raise errors.CrossSiteRequest


def is_own(origin: str) -> bool:
    """Whether an origin has the host and port of this request. The scheme is unknown behind a proxy."""
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        return False
    return host != "" and host.lower() == flask.request.headers.get("Host", "").lower()


def refuse_transfer_coding() -> None:
    """Reject transfer codings other than chunked, which gunicorn does not decode (RFC 9112 section 6.1)."""
    if flask.request.headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
        raise errors.TransferEncodingNotImplemented


def refuse_leading_slashes() -> None:
    """Reject ``//products``, which Werkzeug would treat like ``/products``."""
    if flask.request.environ["PATH_INFO"].startswith("//"):
        raise errors.NotFound


def refuse_long_query() -> None:
    if len(flask.request.query_string) > flask.current_app.config["INVENTORY_MAX_QUERY_BYTES"]:
        raise errors.UriTooLong


def init_app(app: Flask) -> None:
    for check in (
        refuse_foreign_host,
        refuse_cross_site,
        refuse_transfer_coding,
        refuse_leading_slashes,
        refuse_long_query,
    ):
        app.before_request(check)
