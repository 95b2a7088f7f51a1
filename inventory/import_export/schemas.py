"""Query parameters of exports and imports, and one row of a product file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from marshmallow import fields, validate

from inventory.fields import (
    MAX_QUANTITY,
    MAX_STOCK,
    AnswerSchema,
    Choice,
    Flag,
    Integer,
    Money,
    Text,
    TextSchema,
    not_negative,
)
from inventory.import_export.cells import one_line
from inventory.products.schemas import ProductFilters
from inventory.transactions.schemas import TransactionFilters

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

FORMATS = ("csv", "jsonl")
MODES = ("upsert", "create")


class ProductExportQuery(ProductFilters):
    format = Choice(FORMATS, component="ExportFormat", load_default="csv")


class TransactionExportQuery(TransactionFilters):
    format = Choice(FORMATS, component="ExportFormat", load_default="csv")


class ImportQuery(TextSchema):
    mode = Choice(
        MODES,
        component="ImportMode",
        load_default="upsert",
        metadata={"description": "`upsert` creates and updates products; `create` rejects existing SKUs."},
    )
    dry_run = Flag(
        load_default=False, metadata={"description": "Validate the file and return the counts, but change nothing."}
    )


class OneLine(Text):
    """A cell of one line, in which spreadsheets and other systems leave line breaks and double spaces."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        text = one_line(value) if isinstance(value, str) else value
        return super()._deserialize(text, attr, data, **kwargs)


class FileRow(TextSchema):
    """A row of a product file, in the order in which exports write the columns."""

    sku = OneLine(required=True, max_length=50)
    name = OneLine(max_length=200)
    description = Text(max_length=1000, allow_none=True, multiline=True)
    price = Money(validate=not_negative(or_zero=False))
    cost = Money(allow_none=True, validate=not_negative())
    quantity_on_hand = Integer(validate=validate.Range(0, MAX_STOCK))
    reorder_point = Integer(validate=validate.Range(0, MAX_QUANTITY))
    location = OneLine(max_length=50, allow_none=True)
    category = OneLine(max_length=100)
    is_active = Flag()
    expected_quantity = Integer(allow_none=True, validate=validate.Range(0, MAX_STOCK))


class ProductCells(TypedDict, total=False):
    """What FileRow loads. A column that the file does not have is absent; None is an empty cell."""

    sku: str
    name: str
    description: str | None
    price: Decimal
    cost: Decimal | None
    quantity_on_hand: int
    reorder_point: int
    location: str | None
    category: str
    is_active: bool
    expected_quantity: int | None


COLUMNS: dict[str, fields.Field[Any]] = FileRow._declared_fields  # noqa: SLF001
PRODUCT_COLUMNS = tuple(COLUMNS)
MONEY_COLUMNS = tuple(name for name, field in COLUMNS.items() if isinstance(field, Money))


class ImportOut(AnswerSchema):
    """The result of an import, or of its dry run."""

    rows = fields.Integer(metadata={"description": "Data rows in the file."})
    created = fields.Integer()
    updated = fields.Integer()
    unchanged = fields.Integer()
    stock_transactions = fields.Integer(metadata={"description": "Ledger rows written."})
    dry_run = fields.Boolean()
