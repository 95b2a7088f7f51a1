"""Result types of products."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - part of public types
from decimal import Decimal  # noqa: TC003
from typing import NamedTuple

from inventory.models.product import Product


class ProductRow(NamedTuple):
    """A product as it is stored, without the folded forms of its texts."""

    id: int
    sku: str
    name: str
    description: str | None
    price: Decimal
    cost: Decimal | None
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


COLUMNS = tuple(Product.__table__.c[name] for name in ProductRow._fields)
