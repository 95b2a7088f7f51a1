"""Serializes results for JSON like ``schema.dump``, but with the work that is the same for every row done once.

marshmallow looks up each attribute of each row anew and calls several functions for it. A dumper is made from the same
schema and reads all attributes of a row at once. Times stay as they are, because orjson writes them in ISO 8601 as the
schema would. tests/test_dumper.py compares the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from marshmallow import fields

from inventory.fields import Money, Timestamp

if TYPE_CHECKING:
    from marshmallow import Schema

Convert = Callable[[Any], object]
Dump = Callable[[Any], object]

# Their values are JSON values already, or times.
PLAIN = (fields.String, fields.Integer, fields.Boolean, Timestamp)


def dumper(schema: Schema) -> Dump:
    """A function that returns what ``schema.dump`` returns, with times that orjson can write.

    It takes an object with an attribute for each field of the schema, or a dict, which may lack some; with
    ``many`` an iterable of them. Times must be in UTC. Fields must not have a ``data_key`` or an ``attribute``.
    """
    names = tuple(schema.dump_fields)
    attributes = attrgetter(*names)
    converters = {name: convert for name, field in schema.dump_fields.items() if (convert := converter(field, name))}

    def dump(result: Any) -> object:
        if isinstance(result, dict):
            shown = {name: result[name] for name in names if name in result}
        elif len(names) == 1:
            shown = {names[0]: attributes(result)}
        else:
            shown = dict(zip(names, attributes(result), strict=True))
        for name, convert in converters.items():
            if shown.get(name) is not None:
                shown[name] = convert(shown[name])
        return shown

    return partial(dump_all, dump) if schema.many else dump


def dump_all(dump: Dump, results: Any) -> list[object]:
    return list(map(dump, results))


def converter(field: fields.Field[Any], name: str) -> Convert | None:
    """What a value other than None has to pass through; None if it stays as it is."""
    if isinstance(field, Money):
        return float
    if isinstance(field, fields.Nested):
        return dumper(field.schema)
    if isinstance(field, fields.List):
        convert = converter(field.inner, name)
        return list if convert is None else partial(dump_all, convert)
    if isinstance(field, PLAIN):
        return None
    return partial(field._serialize, attr=name, obj=None)  # noqa: SLF001 - marshmallow's own hook for subclasses
