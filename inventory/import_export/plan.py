"""Compares rows of a product file with the catalogue: the change that each row makes, or its problems."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from inventory.database.types import fold
from inventory.errors import InvalidFields, StaleQuantity
from inventory.import_export.catalogue import read_catalogue
from inventory.import_export.problems import Problem
from inventory.products.service import check_price_covers_cost
from inventory.transactions import service as ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from inventory.import_export.catalogue import Catalogue, ProductState
    from inventory.import_export.reader import ParsedRow
    from inventory.import_export.schemas import ProductCells

    Check = Callable[[ProductCells, ProductState | None], object]

REQUIRED_FOR_NEW = ("name", "price", "category")
# Stored as they are in the file. The stock changes through the ledger.
PLAIN_COLUMNS = {"sku", "name", "description", "price", "cost", "reorder_point", "location", "is_active"}
# Among the columns of a change: the folded name of its category.
CATEGORY = "category"


class Change(NamedTuple):
    """What a row changes: columns of its product, its category, and units of its stock.

    ``product_id`` is None for a new product. ``version`` and ``quantity_on_hand`` are those with which the row was
    compared. ``columns`` are the names of the columns that change, and ``content`` is what the statements in apply.py
    read: a JSON array of ``product_id`` and the values of these columns. ``new_category`` is the name of a category
    that has to be created.
    """

    number: int
    product_id: int | None
    version: int
    quantity_on_hand: int
    columns: str
    content: str
    new_category: str | None
    units: int


class Comparison(NamedTuple):
    changes: list[Change]
    problems: list[Problem]


def compare(rows: Sequence[ParsedRow], mode: str) -> Comparison:
    """The changes that the rows make, and the problems of invalid rows. A row that changes nothing has neither."""
    catalogue = read_catalogue(rows)
    changes: list[Change] = []
    problems: list[Problem] = []
    for row in rows:
        product = catalogue.product(row)
        found = list(problems_of(row, product, mode))
        problems += found
        if not found and (change := change_of(row, product, catalogue)):
            changes.append(change)
    return Comparison(changes, problems)


def problems_of(row: ParsedRow, product: ProductState | None, mode: str) -> Iterator[Problem]:
    """Problems that the checks find. Each check raises InvalidFields, and its fields are columns of the file."""
    for check in CHECKS[mode]:
        try:
            check(row.cells, product)
        except InvalidFields as error:
            for column, messages in error.fields.items():
                yield from (Problem(row.number, column, message) for message in messages)


def check_is_new(_cells: ProductCells, product: ProductState | None) -> None:
    if product is not None:
        raise InvalidFields({"sku": ["A product with this SKU already exists."]})


def check_required(cells: ProductCells, product: ProductState | None) -> None:
    missing = [column for column in REQUIRED_FOR_NEW if column not in cells]
    if product is None and missing:
        raise InvalidFields({column: ["Required for new products."] for column in missing})


def check_price(cells: ProductCells, product: ProductState | None) -> None:
    price = cells.get("price", product.price if product else None)
    cost = cells.get("cost", product.cost if product else None)
    if price is not None:
        check_price_covers_cost(price, cost, field="price" if "price" in cells else "cost")


def units_of(cells: ProductCells, product: ProductState | None) -> int:
    """Units by which a row changes the stock.

    For a known product, a quantity that equals the expected one is not a count: sales since the export are kept. Any
    other quantity is a count, rejected if the stock has changed since.
    """
    wanted, expected = cells.get("quantity_on_hand"), cells.get("expected_quantity")
    if wanted is None or (product is not None and wanted == expected):
        return 0
    if product is None:
        return ledger.difference(wanted, 0, field="quantity_on_hand")
    check_expected(expected, product.quantity_on_hand)
    return ledger.difference(wanted, product.quantity_on_hand, field="quantity_on_hand")


def check_expected(expected: int | None, available: int) -> None:
    try:
        ledger.check_expectation(expected, available)
    except StaleQuantity:
        message = (
            f"The stock has changed: expected_quantity is {expected}, the stock is {available}. "
            "Export again and repeat the change, or keep the exported value."
        )
        raise InvalidFields({"quantity_on_hand": [message]}) from None


UPSERT_CHECKS = (check_required, check_price, units_of)
CHECKS: dict[str, tuple[Check, ...]] = {"upsert": UPSERT_CHECKS, "create": (check_is_new, *UPSERT_CHECKS)}


def change_of(row: ParsedRow, product: ProductState | None, catalogue: Catalogue) -> Change | None:
    """What a valid row changes; None if it matches the catalogue."""
    columns, units = changed_columns(row, product), units_of(row.cells, product)
    category, category_id = catalogue.category(row)
    if category is not None and (product is None or product.category_id != category_id):
        columns[CATEGORY] = category
    if not (columns or units):
        return None
    product_id, version, quantity_on_hand = product[:3] if product else (None, 0, 0)
    content = orjson.dumps([product_id, *columns.values()], default=catalogue.stored_amount).decode()
    new_category = row.cells.get("category") if category_id is None else None
    return Change(row.number, product_id, version, quantity_on_hand, ",".join(columns), content, new_category, units)


def changed_columns(row: ParsedRow, product: ProductState | None) -> dict[str, object]:
    """The columns whose cells differ from what is stored; for a new product all of them."""
    columns = {name: cell for name, cell in row.cells.items() if name in PLAIN_COLUMNS and differs(row, product, name)}
    if product is not None and product.sku_folded != fold(row.cells["sku"]):
        columns.pop("sku", None)  # found by its SKU as written in the file, whose white space it keeps
    if "sku" in columns:
        columns["sku_folded"] = fold(row.cells["sku"])
    if "name" in columns:
        columns["name_folded"] = fold(row.cells["name"])
    return columns


def differs(row: ParsedRow, product: ProductState | None, name: str) -> bool:
    """Whether a cell differs from what is stored, both as it is written in the file and with white space normalized."""
    if product is None:
        return True
    stored, cell = getattr(product, name), row.cells.get(name)
    return bool(stored != cell and stored != row.written.get(name, cell))
