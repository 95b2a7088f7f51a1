"""What comes in as a category and what goes out."""

from __future__ import annotations

from marshmallow import fields
from marshmallow_sqlalchemy import auto_field

from inventory.fields import BaseSchema, ModelSchema, Sort, Text, Timestamp
from inventory.models.category import Category
from inventory.products.schemas import ProductOut
from inventory.web.api import PageQuery


class CategoryIn(BaseSchema):
    """A category to create; in an update, the fields that are to change."""

    name = Text(required=True, max_length=100, metadata={"description": "Unique without regard to case."})
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


class CategoryQuery(PageQuery):
    sort = Sort("id", "name", "created_at", load_default=("id",))
