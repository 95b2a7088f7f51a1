"""Result types of categories."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from inventory.models.category import Category

if TYPE_CHECKING:
    from datetime import datetime


class CategoryRow(NamedTuple):
    """A category as it is stored, without the folded form of its name."""

    id: int
    name: str
    description: str | None
    version: int
    created_at: datetime
    updated_at: datetime


COLUMNS = tuple(Category.__table__.c[name] for name in CategoryRow._fields)
