"""What comes in as a product and what goes out."""

from __future__ import annotations

from marshmallow import fields, validate
from marshmallow_sqlalchemy import auto_field

from inventory.fields import (
    MAX_QUANTITY,
    BaseSchema,
    Flag,
    Id,
    Integer,
    ModelSchema,
    Money,
    Sort,
    Text,
    TextSchema,
    Timestamp,
    not_below,
)
from inventory.models.product import MAX_STOCK, Product
from inventory.transactions.schemas import TransactionOut, expected_quantity, notes, reference
from inventory.web.api import PageQuery


class ProductIn(BaseSchema):
    """A product to create; in an update, the fields that are to change."""

    sku = Text(required=True, max_length=50, metadata={"description": "Unique without regard to case."})
    name = Text(required=True, max_length=200)
    description = Text(max_length=1000, allow_none=True, load_default=None, multiline=True)
    price = Money(required=True, validate=not_below(0, exclusive=True), metadata={"exclusiveMinimum": 0})
    cost = Money(
        allow_none=True,
        load_default=None,
        validate=not_below(0),
        metadata={"description": "What a unit costs; never above `price`."},
    )
    quantity_on_hand = Integer(
        load_default=0,
        validate=validate.Range(0, MAX_STOCK),
        metadata={"description": "Becomes an `opening` row of the ledger at creation, a `count` row in an update."},
    )
    reorder_point = Integer(load_default=10, validate=validate.Range(0, MAX_QUANTITY))
    location = Text(max_length=50, allow_none=True, load_default=None, metadata={"description": "Shelf or bin."})
    category_id = Id(required=True)
    is_active = Flag(load_default=True)


class ProductOut(ModelSchema):
    """A product."""

    class Meta:
        model = Product

    id = auto_field()
    sku = auto_field()
    name = auto_field()
    description = auto_field()
    price = Money()
    cost = Money(allow_none=True)
    quantity_on_hand = auto_field()
    reorder_point = auto_field()
    location = auto_field()
    category_id = auto_field()
    is_active = auto_field()
    version = auto_field(metadata={"description": "Counts the changes of the catalogue fields."})
    last_counted_at = Timestamp(allow_none=True, metadata={"description": "The last physical count."})
    created_at = Timestamp()
    updated_at = Timestamp(metadata={"description": "The last change of a field or of the stock."})


class ProductDetail(ProductOut):
    """A product with its latest 50 movements, newest first."""

    transactions = fields.List(fields.Nested(TransactionOut))


class CountIn(BaseSchema):
    """What a physical count found."""

    counted_quantity = Integer(required=True, validate=validate.Range(0, MAX_STOCK))
    expected_quantity = expected_quantity()
    reference = reference()
    notes = notes()


class StockQuery(TextSchema):
    as_of = Timestamp(load_default=None, metadata={"description": "The moment; now if not given."})


class StockOut(BaseSchema):
    """A product's stock at a moment."""

    product_id = Integer()
    sku = fields.String()
    as_of = Timestamp()
    quantity_on_hand = Integer()


class ProductFilters(TextSchema):
    category_id = Id()
    is_active = Flag()
    search = Text(
        max_length=200,
        allow_none=True,
        strip=False,
        metadata={"description": "Stands anywhere in the name or the SKU, without regard to case."},
    )
    sku = Text(max_length=50, metadata={"description": "The whole SKU, without regard to case."})
    low_stock = Flag(metadata={"description": "Whether the stock is at or below the reorder point."})
    min_price = Money(validate=not_below(0))
    max_price = Money(validate=not_below(0))
    min_quantity = Integer(validate=validate.Range(0, MAX_STOCK))
    max_quantity = Integer(validate=validate.Range(0, MAX_STOCK))
    updated_since = Timestamp(metadata={"description": "The first moment included."})


class ProductQuery(ProductFilters, PageQuery):
    sort = Sort(
        "id",
        "sku",
        "name",
        "price",
        "quantity_on_hand",
        "reorder_point",
        "created_at",
        "updated_at",
        load_default=("id",),
    )


class LowStockQuery(PageQuery):
    category_id = Id()
    search = Text(max_length=200, allow_none=True, strip=False)
