"""Validates API keys."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import bindparam, literal, select

from inventory.auth.known import EXPIRED, KnownCallers, KnownKey, RefusedKey, end_of_cache
from inventory.auth.secrets import id_in
from inventory.caller import Caller
from inventory.database.base import fetch_all
from inventory.database.query import Query
from inventory.models.api_key import ApiKey, ApiKeySecret

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inventory.auth.secrets import Pepper

    NoteUse = Callable[[str, datetime | None], None]


class Secret(NamedTuple):
    """A secret of a key, with the columns of the key itself. All are None for an unknown key."""

    digest: str | None
    pepper: str | None
    expires_at: datetime | None
    name: str
    scopes: str  # separated by spaces
    key_expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


# An unknown key has one row, too, so that its answer takes as long as that to a wrong secret.
ONE = select(literal(1).label("one")).subquery()
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
    .select_from(ONE)
    .outerjoin(ApiKeySecret, ApiKeySecret.key_id == bindparam("key_id"))
    .outerjoin(ApiKey, ApiKey.id == ApiKeySecret.key_id)
)
NO_DIGEST = "0" * 64


class KeyValidator:
    """``note_use`` is called with the id and the last use of each key that is read from the database and valid."""

    def __init__(self, pepper: Pepper, note_use: NoteUse) -> None:
        self.pepper, self.note_use = pepper, note_use
        self.known = KnownCallers()

    def knows(self, key: str) -> bool:
        return self.pepper.digest(key) in self.known.by_digest

    def caller(self, key: str) -> Caller:
        """Whose key this is. Raises RefusedKey."""
        key_id = id_in(key)
        if key_id is None:
            raise RefusedKey("not in the format of a key")
        digest = self.pepper.digest(key)
        try:
            return self.known.get(digest, lambda: self.read(key_id, digest))
        except RefusedKey as reason:
            raise RefusedKey(f"key {key_id}: {reason}") from None

    def read(self, key_id: str, digest: str) -> KnownKey:
        """Read a key from the database. Raises RefusedKey."""
        until = end_of_cache()
        secrets = [Secret(*row) for row in fetch_all(SECRETS, {"key_id": key_id})]
        matching = [secret for secret in secrets if hmac.compare_digest(secret.digest or NO_DIGEST, digest)]
        if not matching:
            raise RefusedKey(self.why_none_matches(secrets))
        secret = matching[0]
        if secret.revoked_at is not None:
            raise RefusedKey("revoked")
        ends = [end for end in (secret.expires_at, secret.key_expires_at) if end is not None]
        if ends and min(ends) <= datetime.now(UTC):
            raise RefusedKey(EXPIRED)
        self.note_use(key_id, secret.last_used_at)
        caller = Caller(secret.name, key_id, frozenset(secret.scopes.split()))
        return KnownKey(caller, min(ends, default=None), until)

    def why_none_matches(self, secrets: Sequence[Secret]) -> str:
        if secrets[0].digest is None:
            return "unknown"
        if all(secret.pepper != self.pepper.fingerprint for secret in secrets):
            return "created with another INVENTORY_KEY_PEPPER"
        return "wrong secret"
