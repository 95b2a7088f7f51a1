"""Request and response schemas of transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from flask import current_app
from marshmallow import ValidationError, fields, post_load, pre_load, validate, validates_schema
from marshmallow_sqlalchemy import auto_field

from inventory.fields import (
    MAX_QUANTITY,
    MAX_STOCK,
    AnswerSchema,
    BaseSchema,
    Choice,
    Flag,
    Id,
    Integer,
    ModelSchema,
    Several,
    Sort,
    Text,
    TextSchema,
    Timestamp,
)
from inventory.models.transaction import CLIENT_REASONS, CROSSINGS, REASONS, TYPES, Transaction
from inventory.web.pagination import PageQuery

if TYPE_CHECKING:
    from inventory.fields import Values

MAX_LINES = 1_000


def expected_quantity() -> Integer:
    return Integer(
        validate=validate.Range(0, MAX_STOCK),
        metadata={
            "description": "Precondition: the movement is recorded only if the stock equals this value; otherwise 409"
            " `stale_quantity`."
        },
    )


def reference() -> Text:
    return Text(max_length=100, allow_none=True, load_default=None)


def notes() -> Text:
    return Text(max_length=500, allow_none=True, load_default=None, multiline=True)


class TransactionIn(BaseSchema):
    """A movement to record. Identify the product by ``product_id`` or by ``sku``, not both."""

    # Client generators ignore these keywords and generate one class with both fields.
    in_document: ClassVar = {
        "if": {"required": ["product_id"]},
        "then": {"not": {"required": ["sku"]}},
        "else": {"required": ["sku"]},
    }

    product_id = Id()
    sku = Text(max_length=50)
    transaction_type = Choice(TYPES, component="TransactionType", required=True)
    quantity = Integer(
        required=True,
        validate=validate.Range(-MAX_QUANTITY, MAX_QUANTITY),
        metadata={"description": "Units. Positive for purchases and sales, non-zero for adjustments."},
    )
    reason = Choice(
        CLIENT_REASONS,
        title="AdjustmentReason",
        allow_none=True,
        load_default=None,
        metadata={"description": "For adjustments only. Defaults to `other`."},
    )
    reference = reference()
    notes = notes()
    expected_quantity = expected_quantity()

    @validates_schema(skip_on_field_errors=False)
    def check_product_is_named_once(self, data: dict[str, object], **_kwargs: object) -> None:
        if "product_id" in data and "sku" in data:
            raise ValidationError("Send either product_id or sku, not both.", "sku")

    @validates_schema(skip_on_field_errors=False, pass_original=True)
    def check_product_is_named(self, _data: dict[str, object], original: object, **_kwargs: object) -> None:
        if isinstance(original, dict) and not {"product_id", "sku"} & set(original):
            raise ValidationError("Missing: send product_id or sku.", "product_id")

    @validates_schema(skip_on_field_errors=False)
    def check_quantity_suits_type(self, data: Values, **_kwargs: object) -> None:
        kind, quantity = data.get("transaction_type"), data.get("quantity")
        if quantity is None or kind not in TYPES:
            return
        if kind == "adjustment" and quantity == 0:
            raise ValidationError("Must not be 0.", "quantity")
        if kind != "adjustment" and quantity < 1:
            raise ValidationError(f"Must be at least 1 for a {kind}.", "quantity")

    @validates_schema(skip_on_field_errors=False)
    def check_reason_suits_type(self, data: dict[str, object], **_kwargs: object) -> None:
        if data.get("transaction_type") in {"purchase", "sale"} and data.get("reason") is not None:
            raise ValidationError("Allowed for adjustments only.", "reason")

    @post_load
    def default_reason(self, data: dict[str, object], **_kwargs: object) -> dict[str, object]:
        if data["transaction_type"] == "adjustment" and data.get("reason") is None:
            data["reason"] = "other"
        return data


class TransactionOut(ModelSchema):
    """A row of the ledger."""

    class Meta:
        model = Transaction

    id = auto_field(allow_none=True, metadata={"description": "Null in a dry run."})
    product_id = auto_field()
    sku = auto_field(metadata={"description": "SKU of the product when the row was written."})
    transaction_type = Choice(TYPES, component="TransactionType")
    quantity = auto_field()
    delta = auto_field(metadata={"description": "Signed change of the stock."})
    balance_after = auto_field(metadata={"description": "Stock after this row."})
    seq = auto_field(metadata={"description": "Sequence number within the product: 1, 2, 3, … without gaps."})
    reason = Choice(REASONS, component="Reason", allow_none=True)
    reference = auto_field()
    notes = auto_field()
    reverses_id = auto_field()
    batch_id = auto_field()
    actor = auto_field()
    created_at = Timestamp()


class BatchIn(BaseSchema):
    """Movements to record together. A bare array of lines is accepted too."""

    lines = fields.List(fields.Nested(TransactionIn), required=True, validate=validate.Length(1, MAX_LINES))

    @pre_load
    def accept_bare_array(self, data: object, **_kwargs: object) -> object:
        body = {"lines": data} if isinstance(data, list) else data
        # Check the length first: validating a million lines takes a minute.
        most = current_app.config["INVENTORY_MAX_BATCH_LINES"]
        if isinstance(body, dict) and isinstance(body.get("lines"), list) and len(body["lines"]) > most:
            raise ValidationError(f"At most {most} lines are allowed.", "lines")
        return body


class BatchOut(AnswerSchema):
    """The rows of a batch, in the order in which they were applied."""

    batch_id = fields.String(allow_none=True)
    transactions = fields.List(fields.Nested(TransactionOut))


class ReversalIn(BaseSchema):
    """Reference and notes of the contra row, both optional."""

    body_optional = True

    reference = reference()
    notes = notes()


class FeedOut(TransactionOut):
    """A row of the ledger in the feed."""

    crossed = Choice(
        CROSSINGS,
        component="Crossing",
        allow_none=True,
        metadata={
            "description": "Threshold crossed by the row: `low` if the stock fell to the reorder point, `out` if it "
            "fell to zero, `recovered` if it rose above the reorder point.",
        },
    )
    cursor = fields.String(metadata={"description": "Position after this row."})


class OpeningQuery(TextSchema):
    include_opening = Flag(
        load_default=False,
        metadata={"description": "Include the opening balance as the first row."},
    )


class TransactionFilters(TextSchema):
    id = Several(Id(), description="Ledger row id.")
    product_id = Id()
    sku = Several(Text(max_length=50), description="Exact current SKU of the product, case-insensitive.")
    transaction_type = Choice(TYPES, component="TransactionType")
    reason = Choice(REASONS, component="Reason")
    reference = Text(max_length=100)
    batch_id = Text(max_length=36)
    created_from = Timestamp(metadata={"description": "Inclusive lower bound. A date without time means midnight UTC."})
    created_to = Timestamp(
        end_of_day=True, metadata={"description": "Inclusive upper bound. A date without time includes that day."}
    )


class TransactionQuery(TransactionFilters, PageQuery):
    sort = Sort("id", "created_at", load_default=("-created_at", "-id"))


class HistoryQuery(OpeningQuery, PageQuery):
    sort = Sort("id", "created_at", load_default=("-created_at", "-id"))
