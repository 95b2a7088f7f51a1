"""Conditional requests (RFC 9110 section 13): entity tags, If-Match and If-None-Match."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import flask
import orjson

from inventory.errors import PreconditionFailed

if TYPE_CHECKING:
    from werkzeug.wrappers import Response


@dataclass(frozen=True)
class Condition:
    """The tags of If-Match (RFC 9110 section 13.1.1), one of which must be current. None is no condition."""

    tags: frozenset[str] | None = None

    def check(self, tag: str) -> None:
        """Raise PreconditionFailed unless the current tag is among them."""
        if self.tags is not None and tag not in self.tags:
            raise PreconditionFailed

    def check_version(self, version: int) -> None:
        """Compare only the version, with which every tag begins: ``5-12`` or ``5.6f3a``."""
        if self.tags is not None and str(version) not in {re.split("[-.]", tag)[0] for tag in self.tags}:
            raise PreconditionFailed


UNCONDITIONAL = Condition()


def digest(shown: object) -> str:
    """A short hash of JSON values, for an entity tag."""
    return hashlib.sha256(orjson.dumps(shown)).hexdigest()[:16]


def etag(tag: str) -> dict[str, str]:
    return {"ETag": f'"{tag}"'}


def condition() -> Condition:
    """The If-Match condition of the request."""
    tags = flask.request.if_match
    if "If-Match" not in flask.request.headers or tags.star_tag:
        return UNCONDITIONAL
    # A compressing proxy turns strong tags into weak ones, so weak tags are accepted. Werkzeug reads the empty tag,
    # which this service never sends, as None.
    return Condition(frozenset(tag for tag in tags.as_set(include_weak=True) if tag))


def is_current(tag: str) -> bool:
    """Whether the client has the current representation: If-None-Match contains its tag (RFC 9110 section 13.1.2)."""
    sent = flask.request.if_none_match
    return sent.star_tag or sent.contains_weak(tag)


def not_modified(tag: str) -> Response:
    return flask.Response(status=304, headers=etag(tag))


def answer_conditionally(response: Response) -> Response:
    """Return 304 if If-None-Match contains the current tag (RFC 9110 section 13.1.2). Reads ignore If-Match."""
    sent = "If-None-Match" in flask.request.headers
    if sent and response.status_code == 200 and "ETag" in response.headers:
        environ = {name: value for name, value in flask.request.environ.items() if name != "HTTP_IF_MATCH"}
        return response.make_conditional(environ)
    return response
