"""What a worker remembers of valid keys and tokens, for a few seconds, so that most requests need no query for them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from inventory.caller import Caller

# A revoked key is refused after at most this time.
CACHE_SECONDS = 5
MAX_KNOWN = 1_000
EXPIRED = "expired, or replaced by a rotation"


class RefusedKey(Exception):
    """Why a key or a token is refused. Only the log says it."""


def end_of_cache() -> float:
    """Until when what is checked from now on may be remembered, on the monotonic clock, which does not jump."""
    return time.monotonic() + CACHE_SECONDS


@dataclass(frozen=True)
class KnownKey:
    """A key or token that was valid when it was checked."""

    caller: Caller
    expires_at: datetime | None
    until: float


class KnownCallers:
    """By digest, so that the memory of a worker does not hold the keys themselves."""

    def __init__(self) -> None:
        self.by_digest: dict[str, KnownKey] = {}

    def get(self, digest: str, check: Callable[[], KnownKey]) -> Caller:
        """Whose key has a digest. ``check`` is called if it was not checked recently. Raises RefusedKey."""
        known = self.by_digest.get(digest)
        if known is None or known.until <= time.monotonic():
            try:
                known = check()
            except RefusedKey:
                self.by_digest.pop(digest, None)
                raise
            if len(self.by_digest) >= MAX_KNOWN:
                self.by_digest.clear()
            self.by_digest[digest] = known
        if known.expires_at is not None and known.expires_at <= datetime.now(UTC):
            self.by_digest.pop(digest, None)
            raise RefusedKey(EXPIRED)
        return known.caller
