"""Base schemas and the fields that every domain shares.

A field reads two notations of the same value. In JSON a number is a number and a flag is true or false, and
nothing else will do. In a query string, a CSV cell or a setting everything is text, so there digits are read.
Which of the two holds is said by the schema: ``reads_text``.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from marshmallow import RAISE, Schema, ValidationError, fields, validate
from marshmallow_sqlalchemy import SQLAlchemySchema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_ID = 2**63 - 1
MAX_QUANTITY = 10**9
MAX_MONEY = Decimal("9999999999.9999")


class BaseSchema(Schema):
    """Refuses unknown fields; keeps the order in which fields are written."""

    reads_text: ClassVar[bool] = False

    class Meta:
        unknown = RAISE


class TextSchema(BaseSchema):
    """For places where every value arrives as text: query strings, CSV cells, settings."""

    reads_text: ClassVar[bool] = True


class ModelSchema(SQLAlchemySchema[Any]):
    """For what goes out: the fields of a model's row, each written out."""

    def __init__(self, *, many: bool = False, **kwargs: Any) -> None:
        super().__init__(many=many, **kwargs)  # type: ignore[no-untyped-call]


def reads_text(field: fields.Field[Any]) -> bool:
    return getattr(field.root, "reads_text", False)


class Integer(fields.Integer):
    """A whole number: ``5`` or ``5.0`` in JSON, plain digits in text.

    marshmallow's own also takes ``"1_000"`` in JSON and refuses ``5.0`` when strict.
    """

    default_error_messages = {"invalid": "Not a whole number."}  # noqa: RUF012 - marshmallow's own form

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if reads_text(self) and isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,40}", value.strip()):
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self.make_error("invalid")


class Id(Integer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(1, MAX_ID), **kwargs)


class Money(fields.Decimal):
    """An exact amount with up to 4 decimals, as a Decimal inside and a JSON number outside.

    JSON numbers pass through a binary float, which keeps 15 significant digits exactly; the bounds stay within
    14. Text takes a point as the decimal mark and no thousands separators: ``13,75`` is refused, never 1375.
    """

    default_error_messages = {  # noqa: RUF012 - marshmallow's own form
        "invalid": "Not a number.",
        "text": "Not a number: {kind}. Write it with a point and up to 4 decimals, such as 13.75.",
        "decimals": "More than 4 decimals.",
    }

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Decimal:
        if reads_text(self) and isinstance(value, str):
            if not re.fullmatch(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", value.strip()):
                raise self.make_error("text", kind=kind_of(value))
            amount = Decimal(value.strip())
        elif isinstance(value, int | float) and not isinstance(value, bool):
            amount = Decimal(repr(value))
        else:
            raise self.make_error("invalid")
        # Rounding is an error above 28 digits, and what is past the bounds is refused by them anyway.
        if abs(amount) <= MAX_MONEY and amount != round(amount, 4):
            raise self.make_error("decimals")
        return amount

    def _serialize(self, value: Decimal | None, attr: str | None, obj: Any, **kwargs: Any) -> float | None:  # type: ignore[override]
        return None if value is None else float(value)


def kind_of(cell: str) -> str:
    """What a CSV cell that is no number seems to hold, in words; the cell itself is never repeated."""
    if not cell.strip():
        return "an empty cell"
    if re.fullmatch(r"\s*-?[0-9.]*,[0-9]+\s*", cell):
        return "a number with a comma"
    return "text"


def not_below(minimum: int, *, exclusive: bool = False) -> validate.Range:
    """Validator for money: at least (or, exclusive, more than) ``minimum`` and at most MAX_MONEY."""
    return validate.Range(Decimal(minimum), MAX_MONEY, min_inclusive=not exclusive)


class Flag(fields.Boolean):
    """true or false; in text also 1, 0, yes and no."""

    WORDS: ClassVar[dict[str, bool]] = {
        "true": True,
        "1": True,
        "yes": True,
        "false": False,
        "0": False,
        "no": False,
    }

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if isinstance(value, bool):
            return value
        if reads_text(self) and isinstance(value, str) and value.strip().lower() in self.WORDS:
            return self.WORDS[value.strip().lower()]
        raise self.make_error("invalid", input="value")


class Text(fields.String):
    """Text without blanks at its ends and without control characters; a blank one is null where null is allowed.

    ``multiline`` lets line breaks and tabs through; ``strip=False`` keeps the blanks, for search texts.
    """

    default_error_messages = {  # noqa: RUF012 - marshmallow's own form
        "blank": "May not be empty.",
        "control": "Holds a control character or half of a surrogate pair.",
    }

    def __init__(self, *, max_length: int, multiline: bool = False, strip: bool = True, **kwargs: Any) -> None:
        length = validate.Length(min=None if kwargs.get("allow_none") else 1, max=max_length)
        super().__init__(validate=length, **kwargs)
        self.permitted = "\n\r\t" if multiline else ""
        self.strip = strip

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        text = text.strip() if self.strip else text
        if any(
            unicodedata.category(character) in {"Cc", "Cs"} and character not in self.permitted for character in text
        ):
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
    """One of a few words."""

    def __init__(self, choices: Sequence[str], **kwargs: Any) -> None:
        super().__init__(validate=validate.OneOf(choices, error="Must be one of: {choices}."), **kwargs)


class Timestamp(fields.DateTime):
    """A moment: ISO 8601 in, UTC with offset out. Without an offset UTC is meant, without a time midnight.

    ``end_of_day`` makes a bare date mean its last microsecond, for upper bounds. A query string's ``+`` that
    was sent unescaped arrives as a blank before the offset, and is read as the ``+`` it was.
    """

    def __init__(self, *, end_of_day: bool = False, **kwargs: Any) -> None:
        super().__init__(format="iso", **kwargs)
        self.bare_date_time = time.max if end_of_day else time.min

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> datetime:
        if not isinstance(value, str):
            raise self.make_error("invalid", input="value", obj_type="datetime")
        text = re.sub(r"^(.{8,10}T.+) (\d\d:?\d\d)$", r"\1+\2", value.strip())
        # Python takes any character for the T, and so thirteen digits, which are milliseconds, for a year before 1800.
        if not re.match(r"[0-9W-]{8,10}(?:[Tt ]|$)", text):
            raise self.make_error("invalid", input="value", obj_type="datetime")
        try:
            if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
                return datetime.combine(date.fromisoformat(text), self.bare_date_time, UTC)
            moment = datetime.fromisoformat(text)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            raise self.make_error("invalid", input="value", obj_type="datetime") from None


class Sort(fields.String):
    """A comma-separated list of columns, each with ``-`` before it for descending; a tuple inside."""

    def __init__(self, *columns: str, **kwargs: Any) -> None:
        self.columns = columns
        names = "|".join(columns)
        kwargs.setdefault("metadata", {})
        kwargs["metadata"] |= {
            "pattern": f"^-?({names})(,-?({names}))*$",
            "description": f"Columns to sort by, `-` for descending: {', '.join(columns)}. Ties are broken by id.",
        }
        super().__init__(**kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        terms = tuple(super()._deserialize(value, attr, data, **kwargs).split(","))
        names = [term.removeprefix("-") for term in terms]
        if not set(names) <= set(self.columns):
            raise ValidationError(f"Can be sorted by: {', '.join(self.columns)}.")
        if len(set(names)) < len(names):
            raise ValidationError("Names a column twice.")
        return terms

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        """The notation of a request, in which OpenAPI states the default."""
        return ",".join(value)
