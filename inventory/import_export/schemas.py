"""Query parameters of exports and imports, and one row of a product file."""

from __future__ import annotations

from marshmallow import fields, validate

from inventory.fields import (
    MAX_QUANTITY,
    BaseSchema,
    Choice,
    Flag,
    Integer,
    Money,
    Text,
    TextSchema,
    not_below,
)
from inventory.models.product import MAX_STOCK
from inventory.products.schemas import ProductFilters
from inventory.transactions.schemas import TransactionFilters

FORMATS = ("csv", "jsonl")
MODES = ("upsert", "create")


class ProductExportQuery(ProductFilters):
    format = Choice(FORMATS, load_default="csv")


class TransactionExportQuery(TransactionFilters):
    format = Choice(FORMATS, load_default="csv")


class ImportQuery(TextSchema):
    mode = Choice(MODES, load_default="upsert", metadata={"description": "`create` refuses SKUs that exist already."})
    dry_run = Flag(load_default=False, metadata={"description": "Check everything and count, but change nothing."})


class ProductRow(TextSchema):
    """A row of a product file, in the order in which exports write the columns."""

    sku = Text(required=True, max_length=50)
    name = Text(max_length=200)
    description = Text(max_length=1000, allow_none=True, multiline=True)
    price = Money(validate=not_below(0, exclusive=True))
    cost = Money(allow_none=True, validate=not_below(0))
    quantity_on_hand = Integer(validate=validate.Range(0, MAX_STOCK))
    reorder_point = Integer(validate=validate.Range(0, MAX_QUANTITY))
    location = Text(max_length=50, allow_none=True)
    category = Text(max_length=100)
    is_active = Flag()


PRODUCT_COLUMNS = tuple(ProductRow._declared_fields)  # noqa: SLF001


class ImportOut(BaseSchema):
    """What an import did, or with ``dry_run`` would do."""

    rows = fields.Integer(metadata={"description": "Rows of data in the file."})
    created = fields.Integer()
    updated = fields.Integer()
    unchanged = fields.Integer()
    stock_transactions = fields.Integer(metadata={"description": "Rows added to the ledger."})
    dry_run = fields.Boolean()
