"""What requests and answers say in headers: idempotency keys, conditions and tags, links between pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import flask

from inventory import errors
from inventory.web.idempotency import RequestKey, fingerprint, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from werkzeug.wrappers import Response

    from inventory.database.keyset import Page


def idempotency_key(*payload: Any, moves_stock: bool) -> RequestKey | None:
    """The request's key, with a fingerprint of its method, its address and ``payload``.

    Raises InvalidIdempotencyKey, and IdempotencyKeyRequired where one is missing that the settings demand.
    """
    request, sent = flask.request, flask.request.headers.get("Idempotency-Key")
    if sent is None:
        if moves_stock and flask.current_app.config["INVENTORY_REQUIRE_IDEMPOTENCY_KEY"]:
            raise errors.IdempotencyKeyRequired
        return None
    # The address as this service writes it: 007 in a path is 7.
    address = flask.url_for(request.endpoint or "", **(request.view_args or {}))
    key = flask.g.idempotency_key = RequestKey("", parse(sent), fingerprint([request.method, address, payload]))
    return key


def mark_replay(response: Response) -> Response:
    key = flask.g.get("idempotency_key")
    if key is not None and key.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def etag(tag: str) -> dict[str, str]:
    return {"ETag": f'"{tag}"'}


def if_match() -> frozenset[str] | None:
    """The tags of which one must be current, or None if the request makes no condition."""
    tags = flask.request.if_match
    if "If-Match" not in flask.request.headers or tags.star_tag:
        return None
    # A proxy that compresses weakens tags on their way to the client, who cannot know better. Werkzeug reads the
    # empty tag, which is none of ours, as None.
    return frozenset(tag for tag in tags.as_set(include_weak=True) if tag)


def answer_conditionally(response: Response) -> Response:
    """304 where If-None-Match names the representation's tag (RFC 9110 section 13.1.2)."""
    if response.status_code == 200 and "ETag" in response.headers:
        return response.make_conditional(flask.request)
    return response


def next_link(query: Mapping[str, str]) -> dict[str, str]:
    """The Link to where a poller goes on."""
    kept = {name: value for name, value in flask.request.args.items() if name not in query}
    return {"Link": f'<{flask.request.path}?{urlencode({**kept, **query})}>; rel="next"'}


def page_headers(page: Page) -> dict[str, str]:
    headers = {}
    if page.links:
        headers["Link"] = ", ".join(f'<{page_path(query)}>; rel="{rel}"' for rel, query in page.links.items())
    if page.total is not None:
        headers["X-Total-Count"] = str(page.total)
    return headers


def page_path(query: Mapping[str, str | int]) -> str:
    """The current request's path and filters with the page's position replaced."""
    kept = [(name, value) for name, value in flask.request.args.items() if name not in {"skip", "cursor", *query}]
    return f"{flask.request.path}?{urlencode([*kept, *query.items()])}"
