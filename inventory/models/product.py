"""Products: the catalogue's facts, and the stock that the ledger's single writer keeps."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations
from decimal import Decimal  # noqa: TC003

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    func,
    literal_column,
    text,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column, validates

from inventory.database.base import Base, BigId, Money, UtcDateTime, fold, folded

MAX_STOCK = 10**12


class Product(Base):
    """``quantity_on_hand``, ``last_seq`` and ``updated_at`` change with every movement, so no index names them.

    PostgreSQL can then update the row in place (heap-only tuples), whatever the other indexes are.
    """

    __tablename__ = "products"
    __table_args__ = (
        CheckConstraint("length(sku) BETWEEN 1 AND 50", name="sku_length"),
        CheckConstraint("length(name) BETWEEN 1 AND 200", name="name_length"),
        CheckConstraint("length(description) <= 1000", name="description_length"),
        CheckConstraint("length(location) <= 50", name="location_length"),
        CheckConstraint("price > 0", name="price_positive"),
        CheckConstraint("cost >= 0", name="cost_not_negative"),
        CheckConstraint("price >= cost", name="price_not_below_cost"),
        CheckConstraint(f"quantity_on_hand BETWEEN 0 AND {MAX_STOCK}", name="quantity_on_hand_bounds"),
        CheckConstraint("reorder_point >= 0", name="reorder_point_not_negative"),
        Index("ix_products_category_id_id", "category_id", "id"),
        Index("ix_products_name_folded_id", "name_folded", "id"),
        Index("ix_products_price_id", "price", "id"),
        Index("ix_products_created_at_id", "created_at", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    sku: Mapped[str] = mapped_column(String(50))
    sku_folded: Mapped[str] = mapped_column(folded(50), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    name_folded: Mapped[str] = mapped_column(folded(200))
    description: Mapped[str | None] = mapped_column(String(1000))
    price: Mapped[Decimal] = mapped_column(Money)
    cost: Mapped[Decimal | None] = mapped_column(Money)
    quantity_on_hand: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    reorder_point: Mapped[int] = mapped_column(BigInteger, default=10, server_default=text("10"))
    location: Mapped[str | None] = mapped_column(String(50))
    category_id: Mapped[int] = mapped_column(BigId, ForeignKey("categories.id", ondelete="RESTRICT"))
    is_active: Mapped[bool] = mapped_column(default=True, server_default=true())
    version: Mapped[int] = mapped_column(BigInteger, default=1, server_default=text("1"))
    last_seq: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    last_counted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(
        UtcDateTime,
        default=func.clock_timestamp(),
        onupdate=func.greatest(literal_column("updated_at"), func.clock_timestamp()),
    )

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy's own form

    @validates("sku")
    def fold_sku(self, _key: str, sku: str) -> str:
        self.sku_folded = fold(sku)
        return sku

    @validates("name")
    def fold_name(self, _key: str, name: str) -> str:
        self.name_folded = fold(name)
        return name
