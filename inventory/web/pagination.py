"""Pagination over HTTP: query parameters, and links to other pages (RFC 8288)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import flask
from marshmallow import ValidationError, fields, post_load, validate

from inventory.database.keyset import PageRequest
from inventory.fields import Flag, Integer, TextSchema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inventory.database.keyset import Page


class PageQuery(TextSchema):
    """Query parameters of every list. Subclasses add a ``sort`` field and their filters."""

    skip = Integer(
        load_default=0,
        validate=validate.Range(0, 10**9),
        metadata={
            "description": "Number of rows to skip. The service has a smaller maximum, 10,000 unless the operator has "
            "changed it; follow the `Link` header to go further."
        },
    )
    limit = Integer(
        load_default=100,
        validate=validate.Range(1, 1000),
        metadata={"description": "Maximum number of rows to return."},
    )
    cursor = fields.String(
        load_default=None,
        validate=validate.Length(max=4000),
        metadata={"description": "Opaque position from a `Link` header. Cannot be combined with a `skip` above 0."},
    )
    include_total = Flag(
        load_default=False, metadata={"description": "Whether to return the number of all rows in `X-Total-Count`."}
    )

    @post_load
    def collect_page(self, data: dict[str, Any], **_kwargs: object) -> dict[str, object]:
        """Move the parameters of the page to ``page``. The remaining ones are filters."""
        if data["cursor"] is not None and data["skip"]:
            raise ValidationError("Cannot be combined with skip.", "cursor")
        deepest = flask.current_app.config["INVENTORY_MAX_SKIP"]
        if data["skip"] > deepest:
            raise ValidationError(f"Must be at most {deepest}. To go further, follow the Link header.", "skip")
        names = ["sort", "skip", "limit", "cursor", "include_total"]
        data["page"] = PageRequest(**{name: data.pop(name) for name in names if name in data})
        return data


class FeedQuery(TextSchema):
    """Query parameters of every feed."""

    after = fields.String(
        load_default=None,
        validate=validate.Length(max=4000),
        metadata={
            "description": "Position to continue from, as given in the `next` link. Without it the feed starts with "
            "its first row; `now` returns no rows and a link to the rows that follow."
        },
    )
    limit = Integer(
        load_default=100,
        validate=validate.Range(1, 1000),
        metadata={"description": "Maximum number of rows to return."},
    )


def next_link(after: str | None) -> dict[str, str]:
    """The Link with which a poller of a feed continues; without a cursor it starts at the beginning."""
    return {"Link": f'<{address_with({} if after is None else {"after": after})}>; rel="next"'}


def page_headers(page: Page[object]) -> dict[str, str]:
    headers = {}
    if page.links:
        headers["Link"] = ", ".join(f'<{address_with(query)}>; rel="{rel}"' for rel, query in page.links.items())
    if page.total is not None:
        headers["X-Total-Count"] = str(page.total)
    return headers


def address_with(position: Mapping[str, str | int]) -> str:
    """The absolute URL of the current request, filters included, at another position."""
    request, moving = flask.request, {"skip", "cursor", "after", *position}
    kept = [(name, value) for name, value in request.args.items(multi=True) if name not in moving]
    query = urlencode([*kept, *position.items()])
    return f"{origin()}{quote(request.root_path + request.path)}{query and '?'}{query}"


def origin() -> str:
    """Scheme and host as the client named them; empty in HTTP/1.0 without a Host header."""
    host = flask.request.headers.get("Host")
    return f"{flask.request.scheme}://{host}" if host else ""
