"""Request and response schemas of categories."""

from __future__ import annotations

from marshmallow import fields
from marshmallow_sqlalchemy import auto_field

from inventory.fields import IGNORED, BaseSchema, Id, ModelSchema, Sort, Text, Timestamp, UpdateSchema
from inventory.models.category import Category
from inventory.products.schemas import ProductOut
from inventory.web.pagination import PageQuery


class CategoryIn(BaseSchema):
    """A category to create."""

    name = Text(required=True, max_length=100, metadata={"description": "Unique, case-insensitive."})
    description = Text(max_length=500, allow_none=True, load_default=None, multiline=True)


class CategoryOut(ModelSchema):
    """A category."""

    class Meta:
        model = Category

    id = auto_field()
    name = auto_field()
    description = auto_field()
    created_at = Timestamp()
    updated_at = Timestamp()


class CategoryDetail(CategoryOut):
    """A category with the number of its products and the first 100 of them, by id."""

    product_count = fields.Integer()
    products = fields.List(fields.Nested(ProductOut))


class CategoryUpdate(UpdateSchema, CategoryIn):
    """The fields of a category to change. Read-only fields are accepted and ignored."""

    id = Id(dump_only=True, metadata=IGNORED)
    created_at = Timestamp(dump_only=True, metadata=IGNORED)
    updated_at = Timestamp(dump_only=True, metadata=IGNORED)
    product_count = fields.Integer(dump_only=True, metadata=IGNORED)
    products = fields.List(fields.Nested(ProductOut), dump_only=True, metadata=IGNORED)


class CategoryQuery(PageQuery):
    sort = Sort("id", "name", "created_at", load_default=("id",))
