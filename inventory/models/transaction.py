"""The ledger: one row per stock movement and one per batch, written once and never changed."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from inventory.database.base import Base
from inventory.database.types import BigId, UtcDateTime
from inventory.fields import MAX_STOCK

TYPES = ("purchase", "sale", "adjustment")
REASONS = ("opening", "count", "damage", "loss", "return", "reversal", "import", "other")
# The service sets the others itself.
CLIENT_REASONS = ("damage", "loss", "return", "other")
BATCH_KINDS = ("batch", "reversal", "import")
CROSSINGS = ("low", "out", "recovered")


def one_of(column: str, words: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(word) for word in words)})"


def sparse_index(*columns: str, unique: bool = False) -> Index:
    """A partial index of the rows with a value in its first column; most rows have none."""
    present = text(f"{columns[0]} IS NOT NULL")
    name = f"{'uq' if unique else 'ix'}_transactions_{'_'.join(columns)}"
    return Index(name, *columns, unique=unique, postgresql_where=present, sqlite_where=present)


class Batch(Base):
    """Movements recorded by one request: a batch, the reversal of a batch, or an import with its counts."""

    __tablename__ = "batches"
    __table_args__ = (
        UniqueConstraint("idempotency_key", "client"),
        CheckConstraint(one_of("kind", BATCH_KINDS), name="kind_known"),
        CheckConstraint("(idempotency_key IS NULL) = (fingerprint IS NULL)", name="key_has_fingerprint"),
        CheckConstraint("(kind = 'import') = (rows IS NOT NULL)", name="import_has_counts"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    client: Mapped[str] = mapped_column(String(100), default="", server_default="")
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    rows: Mapped[int | None] = mapped_column(BigInteger)
    created: Mapped[int | None] = mapped_column(BigInteger)
    updated: Mapped[int | None] = mapped_column(BigInteger)
    unchanged: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=func.clock_timestamp())


class Transaction(Base):
    """Triggers in the migrations reject UPDATE and DELETE on this table and on batches, on both engines.

    ``sku`` and ``crossed`` refer to the SKU and the reorder point at the time of the movement. ``xid`` is the position
    in the order of writing: a PostgreSQL transaction ID, which tells the feed what is committed; 0 on SQLite.
    """

    __tablename__ = "transactions"
    __table_args__ = (
        UniqueConstraint("product_id", "seq"),
        sparse_index("reverses_id", unique=True),
        sparse_index("idempotency_key", "client", unique=True),
        CheckConstraint("(idempotency_key IS NULL) = (fingerprint IS NULL)", name="key_has_fingerprint"),
        CheckConstraint("reverses_id IS NULL OR reason = 'reversal'", name="only_reversals_reverse"),
        CheckConstraint(one_of("crossed", CROSSINGS), name="crossed_known"),
        CheckConstraint(one_of("transaction_type", TYPES), name="transaction_type_known"),
        CheckConstraint(one_of("reason", REASONS), name="reason_known"),
        CheckConstraint("transaction_type <> 'adjustment' OR reason IS NOT NULL", name="adjustment_has_reason"),
        CheckConstraint("transaction_type = 'adjustment' OR quantity > 0", name="quantity_positive"),
        CheckConstraint("quantity <> 0 OR reason = 'count'", name="zero_only_for_count"),
        CheckConstraint(
            "delta = CASE transaction_type WHEN 'sale' THEN -quantity ELSE quantity END",
            name="delta_follows_type",
        ),
        CheckConstraint(f"balance_after BETWEEN 0 AND {MAX_STOCK}", name="balance_after_bounds"),
        CheckConstraint("seq >= 1", name="seq_positive"),
        CheckConstraint("length(reference) <= 100", name="reference_length"),
        CheckConstraint("length(notes) <= 500", name="notes_length"),
        Index("ix_transactions_product_id_created_at_id", "product_id", "created_at", "id"),
        Index("ix_transactions_created_at_id", "created_at", "id"),
        Index("ix_transactions_xid_id", "xid", "id"),
        sparse_index("reason", "created_at", "id"),
        sparse_index("reference", "created_at", "id"),
        sparse_index("batch_id", "created_at", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    product_id: Mapped[int] = mapped_column(BigId, ForeignKey("products.id", ondelete="RESTRICT"))
    sku: Mapped[str] = mapped_column(String(50))
    transaction_type: Mapped[str] = mapped_column(String(10))
    quantity: Mapped[int] = mapped_column(BigInteger)
    delta: Mapped[int] = mapped_column(BigInteger)
    balance_after: Mapped[int] = mapped_column(BigInteger)
    seq: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str | None] = mapped_column(String(10))
    reference: Mapped[str | None] = mapped_column(String(100))
    notes: Mapped[str | None] = mapped_column(String(500))
    reverses_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("transactions.id", ondelete="RESTRICT"))
    # Deferred, because the batch of an import is written last, with its counts.
    batch_id: Mapped[str | None] = mapped_column(
        String(36), ForeignKey("batches.id", ondelete="RESTRICT", deferrable=True, initially="DEFERRED")
    )
    crossed: Mapped[str | None] = mapped_column(String(9))
    client: Mapped[str] = mapped_column(String(100), default="", server_default="")
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    xid: Mapped[int] = mapped_column(BigInteger)
    actor: Mapped[str | None] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class StoredResponse(Base):
    """A stored response that cannot be rebuilt from the ledger. Protected from changes like the ledger."""

    __tablename__ = "answers"

    transaction_id: Mapped[int] = mapped_column(
        BigId, ForeignKey("transactions.id", ondelete="RESTRICT"), primary_key=True, autoincrement=False
    )
    body: Mapped[str] = mapped_column(Text)
