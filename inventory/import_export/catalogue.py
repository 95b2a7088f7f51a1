"""The state of the catalogue that rows of a product file are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sqlalchemy import select

from inventory.categories import service as categories
from inventory.database.base import db
from inventory.database.types import fold
from inventory.transactions.service import PRODUCTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from inventory.import_export.reader import ParsedRow

T = TypeVar("T")


class ProductState(NamedTuple):
    """A stored product, as far as a row of a file can change it or a change depends on it."""

    id: int
    version: int
    quantity_on_hand: int
    category_id: int
    sku_folded: str
    sku: str
    name: str
    description: str | None
    price: Decimal
    cost: Decimal | None
    reorder_point: int
    location: str | None
    is_active: bool


STATE = select(*(PRODUCTS.c[name] for name in ProductState._fields))


class Catalogue(NamedTuple):
    """Products by folded SKU and ids of categories by folded name, of those that some rows name."""

    products: Mapping[str, ProductState]
    category_ids: Mapping[str, int]

    def product(self, row: ParsedRow) -> ProductState | None:
        return first_match(self.products, sku_keys(row))

    def category_id(self, row: ParsedRow) -> int | None:
        return first_match(self.category_ids, category_keys(row))


def read_catalogue(rows: Sequence[ParsedRow]) -> Catalogue:
    """The products and categories that the rows refer to, read with two statements."""
    skus = {key for row in rows for key in sku_keys(row)}
    found = db.session.execute(STATE.where(PRODUCTS.c.sku_folded.in_(skus)))
    products = {product.sku_folded: product for product in map(ProductState._make, found)}
    return Catalogue(products, categories.ids_of({key for row in rows for key in category_keys(row)}))


def sku_keys(row: ParsedRow) -> tuple[str, ...]:
    return keys(row.cells["sku"], row.written.get("sku"))


def category_keys(row: ParsedRow) -> tuple[str, ...]:
    return keys(row.cells["category"], row.written.get("category")) if "category" in row.cells else ()


def keys(cell: str, written: str | None) -> tuple[str, ...]:
    """The folded texts to look up for a cell, best first.

    The API stores white space as it was sent. So the text as it is written in the file comes first: an export must
    find its own products and categories again.
    """
    return (fold(cell),) if written is None else (fold(written), fold(cell))


def first_match(found: Mapping[str, T], wanted: Sequence[str]) -> T | None:
    return next((found[key] for key in wanted if key in found), None)
