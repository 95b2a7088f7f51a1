"""The trace that a request belongs to: W3C Trace Context (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import re
from typing import NamedTuple

# https://www.w3.org/TR/trace-context/#traceparent-header: version, trace id, parent id, flags. Versions after 00 may
# have more fields.
TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Trace(NamedTuple):
    """A trace, and the operation of the caller in it, if the caller named one. ``flags`` are those of the header."""

    trace_id: str
    parent_id: str | None
    flags: int


def trace_in(header: str | None) -> Trace | None:
    """The trace in a header ``traceparent``. None if the header is missing or invalid."""
    match = TRACEPARENT.fullmatch(header) if header is not None else None
    if match is None or (match[1] == "00" and match[5]):
        return None
    return Trace(match[2], match[3], int(match[4], 16))
