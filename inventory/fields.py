"""Base schemas and fields shared by all domains.

Fields parse two notations. JSON requires real numbers and booleans. Query strings, CSV cells and settings are text, so
there digits and words are parsed. ``reads_text`` of the schema selects the notation.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from marshmallow import RAISE, Schema, ValidationError, fields, missing, pre_load, validate
from marshmallow_sqlalchemy import SQLAlchemySchema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What a schema has loaded, by field name. The schema guarantees the types of the values; mypy does not know them.
Values: TypeAlias = dict[str, Any]

MAX_ID = 2**63 - 1
MAX_QUANTITY = 10**9
MAX_STOCK = 10**12
MAX_VALUES = 100
MAX_MONEY = Decimal("9999999999.9999")
# Unicode's categories Cc and Cs.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


# Metadata of fields that UpdateSchema drops.
IGNORED = {"description": "Read-only: accepted and ignored."}


class BaseSchema(Schema):
    """Rejects unknown fields."""

    reads_text: ClassVar[bool] = False

    # Further JSON Schema keywords for the OpenAPI document.
    in_document: ClassVar[Mapping[str, object]] = {}

    class Meta:
        unknown = RAISE


class AnswerSchema(BaseSchema):
    """For responses that are not rows of a model. All fields are always present, except those in ``optional``."""

    optional: ClassVar[frozenset[str]] = frozenset()


class TextSchema(BaseSchema):
    """For input where all values are text: query strings, CSV cells, settings."""

    reads_text: ClassVar[bool] = True


class UpdateSchema(BaseSchema):
    """For partial updates: no field is required and none has a default.

    Read-only fields of the response, declared here as ``dump_only``, are accepted and ignored.
    """

    def on_bind_field(self, field_name: str, field_obj: fields.Field[object]) -> None:
        super().on_bind_field(field_name, field_obj)
        field_obj.required, field_obj.load_default = False, missing

    @pre_load
    def drop_read_only(self, data: object, **_kwargs: object) -> object:
        if not isinstance(data, dict):
            return data
        read_only = {name for name, field in self.fields.items() if field.dump_only}
        return {name: value for name, value in data.items() if name not in read_only}


class ModelSchema(SQLAlchemySchema[Any]):
    """For responses: the fields of a model's row."""

    def __init__(self, *, many: bool = False, **kwargs: Any) -> None:
        super().__init__(many=many, **kwargs)  # type: ignore[no-untyped-call]


def reads_text(field: fields.Field[Any]) -> bool:
    return getattr(field.root, "reads_text", False)


class Integer(fields.Integer):
    """An integer: ``5`` or ``5.0`` in JSON, plain digits in text.

    marshmallow's Integer also accepts ``"1_000"`` in JSON, and rejects ``5.0`` if strict.
    """

    default_error_messages = {"invalid": "Not a valid integer."}  # noqa: RUF012 - marshmallow's own form

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if (
            reads_text(self)
            and isinstance(value, str)
            and (digits := re.fullmatch(r"(-?)0*([0-9]{1,40})", value.strip()))
        ):
            return int(digits[1] + digits[2])
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self.make_error("invalid")


class Id(Integer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(1, MAX_ID), **kwargs)


class Money(fields.Decimal):
    """An exact amount with up to 4 decimals: a Decimal in Python, a number in JSON.

    JSON numbers are parsed as binary floats, which represent 15 significant digits exactly; the bounds allow 14. Text
    uses a decimal point and no thousands separators: ``13,75`` is rejected, not read as 1375.
    """

    default_error_messages = {  # noqa: RUF012 - marshmallow's own form
        "invalid": "Not a valid number.",
        "text": "Not a valid number: {kind}. Use a decimal point and up to 4 decimal places, such as 13.75.",
        "decimals": "Must have at most 4 decimal places.",
    }

    def _deserialize(
        self, value: object, attr: str | None, data: Mapping[str, object] | None, **kwargs: object
    ) -> Decimal:
        if reads_text(self) and isinstance(value, str):
            if not re.fullmatch(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", value.strip()):
                raise self.make_error("text", kind=kind_of(value))
            amount = Decimal(value.strip())
        elif isinstance(value, int | float) and not isinstance(value, bool):
            amount = Decimal(repr(value))
        else:
            raise self.make_error("invalid")
        # round() raises above 28 digits; such amounts are rejected by the bounds anyway.
        if abs(amount) <= MAX_MONEY and amount != round(amount, 4):
            raise self.make_error("decimals")
        return amount

    def _serialize(self, value: Decimal | None, attr: str | None, obj: object, **kwargs: object) -> float | None:  # type: ignore[override]
        return None if value is None else float(value)


def kind_of(cell: str) -> str:
    """Description of a CSV cell that is not a number. Messages do not repeat the cell itself."""
    if not cell.strip():
        return "empty"
    if re.fullmatch(r"\s*-?[0-9.]*,[0-9]+\s*", cell):
        return "contains a comma"
    return "text"


def not_negative(*, or_zero: bool = True) -> validate.Range:
    """Validator for money: positive, or zero where allowed, and at most MAX_MONEY."""
    return validate.Range(Decimal(0), MAX_MONEY, min_inclusive=or_zero)


class Flag(fields.Boolean):
    """true or false; in text also 1, 0, yes and no."""

    default_error_messages = {  # noqa: RUF012 - marshmallow's own form
        "invalid": "Must be true or false.",
        "text": "Must be true or false, or 1, 0, yes or no.",
    }
    WORDS: ClassVar[dict[str, bool]] = {
        "true": True,
        "1": True,
        "yes": True,
        "false": False,
        "0": False,
        "no": False,
    }

    def _deserialize(
        self, value: object, attr: str | None, data: Mapping[str, object] | None, **kwargs: object
    ) -> bool:
        if isinstance(value, bool):
            return value
        if reads_text(self) and isinstance(value, str) and value.strip().lower() in self.WORDS:
            return self.WORDS[value.strip().lower()]
        raise self.make_error("text" if reads_text(self) else "invalid")


class Text(fields.String):
    """Text, stripped and without control characters. Empty text becomes null where null is allowed.

    ``multiline`` allows line breaks and tabs. ``strip=False`` keeps leading and trailing spaces, for search terms.
    """

    default_error_messages = {  # noqa: RUF012 - marshmallow's own form
        "blank": "Must not be empty.",
        "control": "Contains a control character or an unpaired surrogate.",
    }

    def __init__(self, *, max_length: int, multiline: bool = False, strip: bool = True, **kwargs: Any) -> None:
        length = validate.Length(min=None if kwargs.get("allow_none") else 1, max=max_length)
        super().__init__(validate=length, **kwargs)
        self.permitted = "\n\r\t" if multiline else ""
        self.strip = strip

    def _deserialize(self, value: object, attr: str | None, data: Mapping[str, object] | None, **kwargs: object) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        text = text.strip() if self.strip else text
        if any(character not in self.permitted for character in CONTROL.findall(text)):
            raise self.make_error("control")
        if text:
            return text
        if self.allow_none:
            return None
        raise self.make_error("blank")

    def _validate(self, value: Any) -> None:
        if value is not None:
            super()._validate(value)


class Choice(fields.String):
    """One of a fixed set of strings.

    ``component`` is the name of the enum in the OpenAPI document and in generated clients. A subset of such an enum has
    only a ``title``: a value in two components would become two constants with the same name in Go.
    """

    def __init__(self, choices: Sequence[str], *, component: str = "", title: str = "", **kwargs: Any) -> None:
        self.component, self.title = component, title
        super().__init__(validate=validate.OneOf(choices, error="Must be one of: {choices}."), **kwargs)


class Timestamp(fields.DateTime):
    """A time in ISO 8601, serialized as UTC with offset. The default offset is UTC, the default time is midnight.

    ``end_of_day`` makes a date without time mean its last microsecond, for upper bounds. An unescaped ``+`` in a query
    string arrives as a space before the offset and is parsed as ``+``.
    """

    def __init__(self, *, end_of_day: bool = False, **kwargs: Any) -> None:
        super().__init__(format="iso", **kwargs)
        self.bare_date_time = time.max if end_of_day else time.min

    def _deserialize(
        self, value: object, attr: str | None, data: Mapping[str, object] | None, **kwargs: object
    ) -> datetime:
        if not isinstance(value, str):
            raise self.make_error("invalid", input="value", obj_type="datetime")
        text = re.sub(r"^(.{8,10}T.+) (\d\d:?\d\d)$", r"\1+\2", value.strip())
        # Python accepts any separator, and would parse thirteen digits (milliseconds) as a year before 1800.
        if not re.match(r"[0-9W-]{8,10}(?:[Tt ]|$)", text):
            raise self.make_error("invalid", input="value", obj_type="datetime")
        try:
            if re.fullmatch(r"\d{4}-\d\d-\d\d|\d{8}|\d{4}-?W\d\d-?\d", text):
                return datetime.combine(date.fromisoformat(text), self.bare_date_time, UTC)
            timestamp = datetime.fromisoformat(text)
            return timestamp.astimezone(UTC) if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            raise self.make_error("invalid", input="value", obj_type="datetime") from None


class Several(fields.List[object]):
    """A repeatable query parameter. Rows match if they have any of the values."""

    def __init__(self, field: fields.Field[Any], *, description: str) -> None:
        several = f"{description} Repeatable, up to {MAX_VALUES} times; matches any of the values."
        super().__init__(field, validate=validate.Length(max=MAX_VALUES), metadata={"description": several})


class Sort(fields.String):
    """A comma-separated list of columns, with ``-`` for descending order; a tuple in Python."""

    def __init__(self, *columns: str, **kwargs: Any) -> None:
        self.columns = columns
        names = "|".join(columns)
        kwargs.setdefault("metadata", {})
        kwargs["metadata"] |= {
            "pattern": f"^-?({names})(,-?({names}))*$",
            "description": f"Columns to sort by, comma-separated, `-` for descending: {', '.join(columns)}."
            " Ties are broken by `id`.",
        }
        super().__init__(**kwargs)

    def _deserialize(self, value: object, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        terms = tuple(super()._deserialize(value, attr, data, **kwargs).split(","))
        names = [term.removeprefix("-") for term in terms]
        if not set(names) <= set(self.columns):
            raise ValidationError(f"Unknown column. Sort by: {', '.join(self.columns)}.")
        if len(set(names)) < len(names):
            raise ValidationError("Duplicate column.")
        return terms

    def _serialize(self, value: Any, attr: str | None, obj: object, **kwargs: object) -> Any:
        """The request notation, used for the default in the OpenAPI document."""
        return ",".join(value)
