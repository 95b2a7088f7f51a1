"""API keys and their secrets."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from inventory.database.base import Base
from inventory.database.types import BigId, UtcDateTime, folded

LIVE = text("revoked_at IS NULL")


class ApiKey(Base):
    """A key is never deleted, because ledger rows have its name and idempotency keys belong to its id.

    ``id`` is the public prefix of its secrets. ``scopes`` are separated by spaces.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("length(name) BETWEEN 1 AND 100", name="name_length"),
        # A name can be used again when its key is revoked.
        Index("uq_api_keys_name_folded", "name_folded", unique=True, postgresql_where=LIVE, sqlite_where=LIVE),
    )

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    name_folded: Mapped[str] = mapped_column(folded(100))
    scopes: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=func.clock_timestamp())
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ApiKeySecret(Base):
    """The HMAC of a secret, with the fingerprint of the pepper that it was made with. A rotation adds one."""

    __tablename__ = "api_key_secrets"
    __table_args__ = (UniqueConstraint("digest"), Index("ix_api_key_secrets_key_id", "key_id"))

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    key_id: Mapped[str] = mapped_column(String(16), ForeignKey("api_keys.id", ondelete="RESTRICT"))
    digest: Mapped[str] = mapped_column(String(64))
    pepper: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=func.clock_timestamp())
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
