"""Column types with the same behaviour on both engines, and case folding."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import BigInteger, DateTime, Integer, Numeric, String, types
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Dialect

T = TypeVar("T")


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

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Decimal | None] | None:
        return optional(self.from_ten_thousandths) if dialect.name == "sqlite" else None

    def from_ten_thousandths(self, value: int) -> Decimal:
        return Decimal(value) / self.SCALE


class UtcDateTime(types.TypeDecorator[datetime]):
    """A UTC time with microseconds. SQLite stores it as fixed-width text, which sorts by time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        return datetime

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None] | None:
        """PostgreSQL returns times in the time zone of the connection, which postgresql.py sets to UTC."""
        return optional(utc_from_text) if dialect.name == "sqlite" else None


def utc_from_text(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")


def optional(convert: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda value: None if value is None else convert(value)


class JsonNumber(types.UserDefinedType[float]):
    """A binary float, which both drivers return as it is."""

    cache_ok = True

    @property
    def python_type(self) -> type[float]:
        return float


class Folded(types.TypeDecorator[str]):
    """A parameter that is compared with case-folded text."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else fold(value)


class Containing(types.TypeDecorator[str]):
    """A parameter of LIKE … ESCAPE '/' that matches case-folded text containing it. ``%`` and ``_`` are literal."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else "%" + re.sub("([%_/])", r"/\1", fold(value)) + "%"


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
