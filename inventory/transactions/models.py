"""The ledger: one row for every movement of stock, written once and never changed."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from inventory.db import Base, BigId, UtcDateTime
from inventory.products.models import MAX_STOCK

TYPES = ("purchase", "sale", "adjustment")
REASONS = ("opening", "count", "damage", "loss", "return", "reversal", "import", "other")


def one_of(column: str, words: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(word) for word in words)})"


def sparse_index(column: str) -> Index:
    """An index of only those rows that have a value in ``column``, newest last."""
    present = text(f"{column} IS NOT NULL")
    name = f"ix_transactions_{column}_created_at_id"
    return Index(name, column, "created_at", "id", postgresql_where=present, sqlite_where=present)


class Transaction(Base):
    """Triggers in the migrations refuse UPDATE and DELETE on this table, on both engines."""

    __tablename__ = "transactions"
    __table_args__ = (
        UniqueConstraint("product_id", "seq"),
        UniqueConstraint("reverses_id"),
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
        sparse_index("reason"),
        sparse_index("reference"),
        sparse_index("batch_id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    product_id: Mapped[int] = mapped_column(BigId, ForeignKey("products.id", ondelete="RESTRICT"))
    transaction_type: Mapped[str] = mapped_column(String(10))
    quantity: Mapped[int] = mapped_column(BigInteger)
    delta: Mapped[int] = mapped_column(BigInteger)
    balance_after: Mapped[int] = mapped_column(BigInteger)
    seq: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str | None] = mapped_column(String(10))
    reference: Mapped[str | None] = mapped_column(String(100))
    notes: Mapped[str | None] = mapped_column(String(500))
    reverses_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("transactions.id", ondelete="RESTRICT"))
    batch_id: Mapped[str | None] = mapped_column(String(36))
    actor: Mapped[str | None] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
