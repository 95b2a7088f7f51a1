"""Validates API keys. Each worker keeps a valid key for a few seconds, so that most requests need no query for it."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import bindparam, select

from inventory.auth.secrets import Pepper, id_in
from inventory.caller import Caller
from inventory.database.base import fetch_all
from inventory.database.query import Query
from inventory.models.api_key import ApiKey, ApiKeySecret

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    NoteUse = Callable[[str, datetime | None], None]

# A revoked key is refused after at most this time.
CACHE_SECONDS = 5
MAX_CACHED = 1_000


class RefusedKey(Exception):
    """Why a key is refused. Only the log says it."""


class Secret(NamedTuple):
    """A secret of a key, with the columns of the key itself."""

    digest: str
    pepper: str
    expires_at: datetime | None
    name: str
    scopes: str
    key_expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


SECRETS = Query(
    select(
        ApiKeySecret.digest,
        ApiKeySecret.pepper,
        ApiKeySecret.expires_at,
        ApiKey.name,
        ApiKey.scopes,
        ApiKey.expires_at.label("key_expires_at"),
        ApiKey.revoked_at,
        ApiKey.last_used_at,
    )
    .join(ApiKey, ApiKey.id == ApiKeySecret.key_id)
    .where(ApiKeySecret.key_id == bindparam("key_id"))
)
# Compared for an id without secrets, so that the answer to an unknown id takes as long as to a wrong secret.
NO_SECRET = Secret("0" * 64, "", None, "", "", None, None, None)


@dataclass(frozen=True)
class KnownKey:
    """A key that was valid when it was read. ``until`` is a time of the monotonic clock, which never jumps."""

    caller: Caller
    expires_at: datetime | None
    until: float


class Validator:
    """``note_use`` is called with the id and the last use of each key that is read from the database and valid."""

    def __init__(self, pepper: Pepper, note_use: NoteUse) -> None:
        self.pepper, self.note_use = pepper, note_use
        # By digest, so that the memory of a worker does not hold the keys.
        self.known: dict[str, KnownKey] = {}

    def caller(self, key: str) -> Caller:
        """Whose key this is. Raises RefusedKey."""
        key_id = id_in(key)
        if key_id is None:
            raise RefusedKey("not in the format of a key")
        digest = self.pepper.digest(key)
        known = self.known.get(digest)
        if known is None or known.until <= time.monotonic():
            known = self.read(key_id, digest)
        if known.expires_at is not None and known.expires_at <= datetime.now(UTC):
            raise RefusedKey(f"key {key_id} has expired, or was rotated")
        return known.caller

    def read(self, key_id: str, digest: str) -> KnownKey:
        """Read a key from the database. Raises RefusedKey."""
        until = time.monotonic() + CACHE_SECONDS
        self.known.pop(digest, None)
        secrets = [Secret(*row) for row in fetch_all(SECRETS, {"key_id": key_id})]
        matching = [secret for secret in secrets or [NO_SECRET] if hmac.compare_digest(secret.digest, digest)]
        if not matching:
            raise RefusedKey(self.why_none_matches(key_id, secrets))
        secret = matching[0]
        if secret.revoked_at is not None:
            raise RefusedKey(f"key {key_id} is revoked")
        ends = [end for end in (secret.expires_at, secret.key_expires_at) if end is not None]
        known = KnownKey(
            Caller(secret.name, key_id, frozenset(secret.scopes.split())),
            expires_at=min(ends, default=None),
            until=until,
        )
        if len(self.known) >= MAX_CACHED:
            self.known.clear()
        self.known[digest] = known
        self.note_use(key_id, secret.last_used_at)
        return known

    def why_none_matches(self, key_id: str, secrets: Sequence[Secret]) -> str:
        if not secrets:
            return f"no key has the id {key_id}"
        if all(secret.pepper != self.pepper.fingerprint for secret in secrets):
            return f"key {key_id} was created with another INVENTORY_KEY_PEPPER"
        return f"wrong secret for key {key_id}"
