"""Responses with a fixed body: with ETags, plain and compressed."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import flask

if TYPE_CHECKING:
    from flask import Response

COMPRESSIBLE = ("text/", "application/json", "application/javascript")
SMALLEST_COMPRESSED = 1_000


@dataclass(frozen=True)
class Prepared:
    """A body and its compressed form, which is None if compression is not worthwhile."""

    body: bytes
    compressed: bytes | None
    media_type: str
    tag: str

    def respond(self, cache_control: str) -> Response:
        """The response in the encoding that the client accepts. Each has its own ETag (RFC 9110 section 8.8.3.3)."""
        accepted = self.compressed is not None and flask.request.accept_encodings.quality("gzip") > 0
        body, tag = (self.compressed, f"{self.tag}-gzip") if accepted else (self.body, self.tag)
        response = flask.Response(body, content_type=self.media_type)
        response.set_etag(tag)
        response.headers["Cache-Control"] = cache_control
        if accepted:
            response.headers["Content-Encoding"] = "gzip"
        if self.compressed is not None:
            response.vary.add("Accept-Encoding")
        return response


def prepare(body: bytes, media_type: str) -> Prepared:
    worthwhile = len(body) >= SMALLEST_COMPRESSED and media_type.startswith(COMPRESSIBLE)
    # Without the time, so that all processes produce the same bytes.
    compressed = gzip.compress(body, mtime=0) if worthwhile else None
    return Prepared(body, compressed, media_type, hashlib.sha256(body).hexdigest()[:32])
