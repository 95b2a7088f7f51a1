"""Categories, which group products."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations

from sqlalchemy import BigInteger, CheckConstraint, String, func, text
from sqlalchemy.orm import Mapped, mapped_column, validates

from inventory.database.base import Base
from inventory.database.types import BigId, UtcDateTime, fold, folded


class Category(Base):
    __tablename__ = "categories"
    __table_args__ = (
        CheckConstraint("length(name) BETWEEN 1 AND 100", name="name_length"),
        CheckConstraint("length(description) <= 500", name="description_length"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    name_folded: Mapped[str] = mapped_column(folded(100), unique=True)
    description: Mapped[str | None] = mapped_column(String(500))
    version: Mapped[int] = mapped_column(BigInteger, default=1, server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(
        UtcDateTime, default=func.clock_timestamp(), onupdate=func.clock_timestamp()
    )

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy's own form

    @validates("name")
    def fold_name(self, _key: str, name: str) -> str:
        self.name_folded = fold(name)
        return name
