"""Result types of products."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - part of public types
from typing import TYPE_CHECKING, Any, NamedTuple

from inventory.database.functions import json_number
from inventory.database.types import Money
from inventory.models.product import Product

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement


class ProductRow(NamedTuple):
    """A product as clients see it: without the folded forms of its texts, and with amounts as JSON shows them."""

    id: int
    sku: str
    name: str
    description: str | None
    price: float
    cost: float | None
    quantity_on_hand: int
    reorder_point: int
    location: str | None
    category_id: int
    is_active: bool
    version: int
    last_seq: int
    last_counted_at: datetime | None
    created_at: datetime
    updated_at: datetime


def column(name: str) -> ColumnElement[Any]:
    stored = Product.__table__.c[name]
    return json_number(stored).label(name) if isinstance(stored.type, Money) else stored


COLUMNS = tuple(column(name) for name in ProductRow._fields)
