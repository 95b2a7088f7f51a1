"""What comes in as a movement of stock, and what goes out as a row of the ledger."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields, post_load, pre_load, validate, validates_schema
from marshmallow_sqlalchemy import auto_field

from inventory.fields import (
    MAX_QUANTITY,
    BaseSchema,
    Choice,
    Flag,
    Id,
    Integer,
    ModelSchema,
    Sort,
    Text,
    TextSchema,
    Timestamp,
)
from inventory.models.product import MAX_STOCK
from inventory.models.transaction import CROSSINGS, REASONS, TYPES, Transaction
from inventory.web.api import PageQuery

MAX_LINES = 1_000


def expected_quantity() -> Integer:
    return Integer(
        validate=validate.Range(0, MAX_STOCK),
        metadata={"description": "Record only if this is the stock now; otherwise 409 `stale_quantity`."},
    )


def reference() -> Text:
    return Text(
        max_length=100, allow_none=True, load_default=None, metadata={"description": "The caller's document number."}
    )


def notes() -> Text:
    return Text(max_length=500, allow_none=True, load_default=None, multiline=True)


class TransactionIn(BaseSchema):
    """A movement to record, for the product with this ``product_id`` or this ``sku``."""

    product_id = Id()
    sku = Text(max_length=50)
    transaction_type = Choice(TYPES, required=True)
    quantity = Integer(
        required=True,
        validate=validate.Range(-MAX_QUANTITY, MAX_QUANTITY),
        metadata={"description": "Units: positive for a purchase or a sale, any but 0 for an adjustment."},
    )
    reason = Choice(
        REASONS,
        allow_none=True,
        load_default=None,
        metadata={"description": "For adjustments only; `other` if not given."},
    )
    reference = reference()
    notes = notes()
    expected_quantity = expected_quantity()

    @validates_schema(skip_on_field_errors=False)
    def check_product_is_named_once(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if "product_id" in data and "sku" in data:
            raise ValidationError("Give product_id or sku, not both.", "sku")

    @validates_schema(skip_on_field_errors=False, pass_original=True)
    def check_product_is_named(self, _data: dict[str, Any], original: Any, **_kwargs: Any) -> None:
        if isinstance(original, dict) and not {"product_id", "sku"} & set(original):
            raise ValidationError("Missing: give product_id or sku.", "product_id")

    @validates_schema(skip_on_field_errors=False)
    def check_quantity_suits_type(self, data: dict[str, Any], **_kwargs: Any) -> None:
        kind, quantity = data.get("transaction_type"), data.get("quantity")
        if quantity is None or kind not in TYPES:
            return
        if kind == "adjustment" and quantity == 0:
            raise ValidationError("An adjustment changes stock: any whole number but 0.", "quantity")
        if kind != "adjustment" and quantity < 1:
            raise ValidationError(f"A {kind} counts units: 1 or more.", "quantity")

    @validates_schema(skip_on_field_errors=False)
    def check_reason_suits_type(self, data: dict[str, Any], **_kwargs: Any) -> None:
        if data.get("transaction_type") in {"purchase", "sale"} and data.get("reason") is not None:
            raise ValidationError("Only an adjustment has a reason.", "reason")

    @post_load
    def default_reason(self, data: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        if data["transaction_type"] == "adjustment" and data.get("reason") is None:
            data["reason"] = "other"
        return data


class TransactionOut(ModelSchema):
    """A row of the ledger."""

    class Meta:
        model = Transaction

    id = auto_field(allow_none=True, metadata={"description": "null in a dry run."})
    product_id = auto_field()
    sku = auto_field(metadata={"description": "The product's SKU at the time."})
    transaction_type = auto_field()
    quantity = auto_field()
    delta = auto_field(metadata={"description": "Signed effect on the stock."})
    balance_after = auto_field(metadata={"description": "Stock after this row."})
    seq = auto_field(metadata={"description": "1, 2, 3 … for each product, without a gap."})
    reason = auto_field()
    reference = auto_field()
    notes = auto_field()
    reverses_id = auto_field()
    batch_id = auto_field()
    actor = auto_field()
    created_at = Timestamp()


class BatchIn(BaseSchema):
    """Movements to record together; a bare array of lines is taken as well."""

    lines = fields.List(fields.Nested(TransactionIn), required=True, validate=validate.Length(1, MAX_LINES))

    @pre_load
    def accept_bare_array(self, data: Any, **_kwargs: Any) -> Any:
        body = {"lines": data} if isinstance(data, list) else data
        # Counted before any of them is read: looking at a million lines takes a minute.
        if isinstance(body, dict) and isinstance(body.get("lines"), list) and len(body["lines"]) > MAX_LINES:
            raise ValidationError(f"More than {MAX_LINES} lines.", "lines")
        return body


class BatchOut(BaseSchema):
    """What was recorded together, in the order in which it was applied."""

    batch_id = fields.String(allow_none=True)
    transactions = fields.List(fields.Nested(TransactionOut))


class ReversalIn(BaseSchema):
    """What to write on the contra row; nothing need be sent."""

    body_optional = True

    reference = reference()
    notes = notes()


class DryRunQuery(TextSchema):
    dry_run = Flag(
        load_default=False,
        metadata={"description": "Check everything and answer 200 with what would have been, but record nothing."},
    )


class FeedQuery(TextSchema):
    after = fields.String(
        load_default=None,
        validate=validate.Length(max=4000),
        metadata={"description": "The `cursor` of the last row seen, or none to begin with the first row ever."},
    )
    limit = Integer(
        load_default=100, validate=validate.Range(1, 1000), metadata={"description": "How many rows to return at most."}
    )


class FeedOut(TransactionOut):
    """A row of the ledger as the feed shows it."""

    crossed = fields.String(
        allow_none=True,
        metadata={
            "enum": [*CROSSINGS, None],
            "description": "Whether the row took the stock down to the reorder point, to nothing, or back above it.",
        },
    )
    cursor = fields.String(metadata={"description": "Where to go on after this row."})


class TransactionFilters(TextSchema):
    product_id = Id()
    sku = Text(max_length=50)
    transaction_type = Choice(TYPES)
    reason = Choice(REASONS)
    reference = Text(max_length=100)
    batch_id = Text(max_length=36)
    created_from = Timestamp(metadata={"description": "The first moment included; a bare date begins at midnight UTC."})
    created_to = Timestamp(end_of_day=True, metadata={"description": "The last moment included; a bare date is whole."})


class TransactionQuery(TransactionFilters, PageQuery):
    sort = Sort("id", "created_at", load_default=("-created_at", "-id"))


class HistoryQuery(PageQuery):
    sort = Sort("id", "created_at", load_default=("-created_at", "-id"))
