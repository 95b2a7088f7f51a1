"""Request and response schemas of products."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from marshmallow import ValidationError, fields, validate
from marshmallow_sqlalchemy import auto_field

from inventory.fields import (
    IGNORED,
    MAX_ID,
    MAX_QUANTITY,
    MAX_STOCK,
    AnswerSchema,
    BaseSchema,
    Flag,
    Id,
    Integer,
    ModelSchema,
    Money,
    Several,
    Sort,
    Text,
    TextSchema,
    Timestamp,
    UpdateSchema,
    not_negative,
)
from inventory.models.product import Product
from inventory.transactions.schemas import TransactionOut, expected_quantity, notes, reference
from inventory.web.pagination import PageQuery


class ProductIn(BaseSchema):
    """A product to create."""

    sku = Text(required=True, max_length=50, metadata={"description": "Unique, case-insensitive."})
    name = Text(required=True, max_length=200)
    description = Text(max_length=1000, allow_none=True, load_default=None, multiline=True)
    price = Money(required=True, validate=not_negative(or_zero=False), metadata={"exclusiveMinimum": 0})
    cost = Money(
        allow_none=True,
        load_default=None,
        validate=not_negative(),
        metadata={"description": "Unit cost. Must not exceed `price`."},
    )
    quantity_on_hand = Integer(
        load_default=0,
        validate=validate.Range(0, MAX_STOCK),
        metadata={
            "description": "Recorded in the ledger: as an `opening` row on creation, as a `count` row on update."
        },
    )
    reorder_point = Integer(load_default=10, validate=validate.Range(0, MAX_QUANTITY))
    location = Text(max_length=50, allow_none=True, load_default=None)
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
    version = auto_field(metadata={"description": "Incremented when a catalogue field changes."})
    last_counted_at = Timestamp(allow_none=True, metadata={"description": "Time of the last physical count."})
    created_at = Timestamp()
    updated_at = Timestamp(metadata={"description": "Time of the last change to a field or to the stock."})


class ProductDetail(ProductOut):
    """A product with its latest 50 movements, newest first."""

    transactions = fields.List(fields.Nested(TransactionOut))


class DeletedProduct(AnswerSchema):
    """The tombstone of a deleted product."""

    id = Integer()
    sku = fields.String()
    deleted = fields.Boolean(metadata={"description": "Always `true`."})


class ProductChange(ProductOut):
    """The current state of a product, or the tombstone of a deleted one."""

    one_of = (DeletedProduct, ProductOut)

    deleted = fields.Boolean()


class SeenAt(Timestamp):
    """A time that is sent back as it was read. An invalid value is older than any product; null means no time."""

    def deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return None if value is None else super().deserialize(value, *args, **kwargs)
        except ValidationError:
            return datetime.min.replace(tzinfo=UTC)


class ProductUpdate(UpdateSchema, ProductIn):
    """The fields of a product to change. Read-only fields are accepted and ignored."""

    version = Integer(
        validate=validate.Range(1, MAX_ID),
        metadata={"description": "Precondition: update only if this is the current version; otherwise 412."},
    )
    updated_at = SeenAt(
        metadata={
            "description": "The `updated_at` that was read together with `quantity_on_hand`. It applies to that field"
            " only. If `quantity_on_hand` equals the stock at that time, the stock is not changed, even if units were"
            " sold since. Any other quantity except the current stock is a count. It is refused with 409"
            " `stale_quantity` if the stock has changed since, and with 422 if this is not a time at which the product"
            " was read."
        }
    )
    id = Id(dump_only=True, metadata=IGNORED)
    last_counted_at = Timestamp(dump_only=True, allow_none=True, metadata=IGNORED)
    created_at = Timestamp(dump_only=True, metadata=IGNORED)
    transactions = fields.List(fields.Nested(TransactionOut), dump_only=True, metadata=IGNORED)


class CountIn(BaseSchema):
    """The result of a physical count."""

    counted_quantity = Integer(required=True, validate=validate.Range(0, MAX_STOCK))
    expected_quantity = expected_quantity()
    reference = reference()
    notes = notes()


class StockQuery(TextSchema):
    as_of = Timestamp(load_default=None, metadata={"description": "Point in time. Defaults to now."})


class StockOut(AnswerSchema):
    """A product's stock at a point in time."""

    product_id = Integer()
    sku = fields.String()
    as_of = Timestamp()
    quantity_on_hand = Integer()


class ProductFilters(TextSchema):
    id = Several(Id(), description="Product id.")
    sku = Several(Text(max_length=50), description="Exact SKU, case-insensitive.")
    category_id = Id()
    is_active = Flag()
    search = Text(max_length=200, allow_none=True, strip=False)
    low_stock = Flag(metadata={"description": "Whether the stock is at or below the reorder point."})
    min_price = Money(validate=not_negative())
    max_price = Money(validate=not_negative())
    min_quantity = Integer(validate=validate.Range(0, MAX_STOCK))
    max_quantity = Integer(validate=validate.Range(0, MAX_STOCK))
    updated_since = Timestamp(
        metadata={
            "description": "Inclusive lower bound of `updated_at`. Do not use it to synchronize: `updated_at` is set "
            "before the change is committed, so a later request can miss rows, and deleted products are not listed. "
            "Use `/products/feed` instead."
        }
    )


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
