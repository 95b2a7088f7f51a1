"""Column types with the same behaviour on both engines, and case folding."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, DateTime, Integer, Numeric, String, types
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect


class Money(types.TypeDecorator[Decimal]):
    """An exact amount with 4 decimals: NUMERIC(14, 4) on PostgreSQL, integer ten-thousandths on SQLite.

    SQLite has no exact decimal type, but integers compare, sort and sum exactly.
    """

    impl = Numeric(14, 4)
    cache_ok = True
    SCALE = 10_000

    @property
    def python_type(self) -> type[Decimal]:
        return Decimal

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[Any]:
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else Numeric(14, 4))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> object:
        if value is None or dialect.name != "sqlite":
            return value
        return int(value * self.SCALE)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        exact: Decimal | None = Decimal(value) / self.SCALE if dialect.name == "sqlite" and value is not None else value
        return exact


class UtcDateTime(types.TypeDecorator[datetime]):
    """A UTC time with microseconds. SQLite stores it as fixed-width text, which sorts by time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        return datetime

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite assigns ids only to a column declared as INTEGER.
BigId = BigInteger().with_variant(Integer(), "sqlite")


def folded(length: int) -> types.TypeEngine[str]:
    """Case-folded text, up to three times as long as the original, compared by code point on both engines."""
    return (
        String(3 * length)
        .with_variant(postgresql.VARCHAR(3 * length, collation="C"), "postgresql")
        .with_variant(sqlite.VARCHAR(3 * length), "sqlite")
    )


def fold(text: str) -> str:
    """Unicode case folding, for case-insensitive comparison (Unicode §3.13, D144)."""
    return text.casefold()
