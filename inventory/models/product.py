"""Products: catalogue data, and the stock, which only the ledger changes."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations
from decimal import Decimal  # noqa: TC003

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    Index,
    String,
    func,
    literal_column,
    text,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column, validates

from inventory.database.base import Base
from inventory.database.types import BigId, Money, UtcDateTime, fold, folded
from inventory.fields import MAX_STOCK


class Product(Base):
    """``quantity_on_hand``, ``last_seq`` and ``updated_at`` change with every movement, so no index includes them.

    PostgreSQL can then use heap-only tuple updates. The index of low stock depends on ``is_low``, which seldom changes.
    Where the extension pg_trgm is available, the migrations also index the trigrams of the folded texts.
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
        Index(
            "ix_products_low_stock",
            "id",
            sqlite_where=text("is_active = 1 AND is_low = 1"),
            postgresql_where=text("is_active AND is_low"),
        ),
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
    is_low: Mapped[bool | None] = mapped_column(
        Computed("quantity_on_hand <= reorder_point", persisted=True), deferred=True
    )
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

    __mapper_args__ = {"version_id_col": version, "eager_defaults": False}  # noqa: RUF012 - SQLAlchemy's own form

    @validates("sku")
    def fold_sku(self, _key: str, sku: str) -> str:
        self.sku_folded = fold(sku)
        return sku

    @validates("name")
    def fold_name(self, _key: str, name: str) -> str:
        self.name_folded = fold(name)
        return name


def index_of_latest(name: str, *columns: str, unique: bool = False) -> Index:
    """A partial index of the latest row of each product. The predicate matches the queries of each engine."""
    return Index(name, *columns, unique=unique, sqlite_where=text("is_latest = 1"), postgresql_where=text("is_latest"))


class ProductChange(Base):
    """A change of the catalogue: a product was created, updated or deleted. Triggers in the migrations write the rows.

    There is no foreign key, because the row of a deletion outlives its product. ``xid`` is the position in the order of
    writing, as in the ledger. Superseded rows are kept because cursors refer to them.
    """

    __tablename__ = "product_changes"
    __table_args__ = (
        index_of_latest("uq_product_changes_product_id", "product_id", unique=True),
        index_of_latest("ix_product_changes_xid_id", "xid", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    product_id: Mapped[int] = mapped_column(BigId)
    sku: Mapped[str] = mapped_column(String(50))
    is_latest: Mapped[bool]
    xid: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
