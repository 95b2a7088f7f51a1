"""The state of the catalogue that rows of a product file are compared with."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select

from inventory.categories import service as categories
from inventory.database.base import db, fetch_all
from inventory.database.types import Money, fold
from inventory.transactions.statements import PRODUCTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Dialect

    from inventory.import_export.reader import ParsedRow


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


MONEY = Money()
STATE = select(*(PRODUCTS.c[name] for name in ProductState._fields))


class Catalogue(NamedTuple):
    """Products by folded SKU and ids of categories by folded name, of those that some rows name."""

    products: Mapping[str, ProductState]
    category_ids: Mapping[str, int]
    dialect: Dialect

    def product(self, row: ParsedRow) -> ProductState | None:
        return next((self.products[key] for key in sku_keys(row) if key in self.products), None)

    def category(self, row: ParsedRow) -> tuple[str | None, int | None]:
        """The folded name of the row's category, and its id if it exists. The name is None if the file has none."""
        wanted = category_keys(row)
        name = next((key for key in wanted if key in self.category_ids), wanted[-1] if wanted else None)
        return name, self.category_ids.get(name) if name else None

    def stored_amount(self, amount: Decimal) -> object:
        """An amount as the database stores it, and exact in JSON."""
        stored = MONEY.process_bind_param(amount, self.dialect)
        return str(stored) if isinstance(stored, Decimal) else stored


def read_catalogue(rows: Sequence[ParsedRow]) -> Catalogue:
    """The products and categories that the rows refer to, read with two statements."""
    skus = {key for row in rows for key in sku_keys(row)}
    found = fetch_all(STATE.where(PRODUCTS.c.sku_folded.in_(skus)))
    products = {product.sku_folded: product for product in map(ProductState._make, found)}
    category_ids = categories.ids_of({key for row in rows for key in category_keys(row)})
    return Catalogue(products, category_ids, db.engine.dialect)


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
