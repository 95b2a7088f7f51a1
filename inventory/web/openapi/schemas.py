"""Schemas in the OpenAPI document.

apispec describes how a schema is loaded. This module adds how generated clients treat defaults, that responses contain
all fields, and which texts and numbers are valid.
"""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.common import resolve_schema_instance
from apispec.ext.marshmallow.field_converter import FieldConverterMixin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import Schema

from inventory.fields import AnswerSchema, Choice, ModelSchema, Money, Text, reads_text
from inventory.web.openapi.glossary import FIELDS, FILTERS

if TYPE_CHECKING:
    from marshmallow.fields import Field

    from inventory.web.openapi.json_types import JsonObject

# Validators use binary floats, in which 0.07 is not a multiple of 0.0001: `multipleOf` would reject valid prices.
MONEY = "A multiple of 0.0001."
CONTROL = r"\x00-\x1F\x7F-\x9F"
CONTROL_BUT_LINES = r"\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F"


def schema_name(schema: Any) -> str:
    """The name of a schema in the OpenAPI document."""
    name: str = schema.__name__ if isinstance(schema, type) else type(schema).__name__
    return name


def pattern(field: Text) -> str:
    """Pattern of the allowed characters, with at least one non-space character if empty text is rejected.

    Uses only syntax that all regular expression dialects share. ``tests/web/test_openapi_schemas.py`` compares it with
    the code.
    """
    excluded = CONTROL_BUT_LINES if field.permitted else CONTROL
    if field.allow_none:
        return f"^[^{excluded}]*$"
    return rf"^[^{excluded}]*[^{excluded}\s][^{excluded}]*$"


def name2description(_converter: OpenAPIConverter, field: Field[Any], ret: JsonObject) -> JsonObject:
    """The description from the glossary for a field without one."""
    description = (FILTERS if reads_text(field) else FIELDS).get(str(field.name))
    if description is None or "description" in ret or not isinstance(field.parent, Schema):
        return {}
    return {"description": description}


def stated_default(converter: OpenAPIConverter, field: Field[Any]) -> JsonObject:
    """The default of a field. Null is omitted."""
    default: JsonObject = FieldConverterMixin.field2default(converter, field)
    return default if default.get("default") is not None else {}


def default2description(converter: OpenAPIConverter, field: Field[Any], ret: JsonObject) -> JsonObject:
    """Describe defaults of request bodies in words, because generated clients always send a `default`."""
    default = {} if reads_text(field) else stated_default(converter, field)
    if not default:
        return {}
    return {"description": f"{ret.get('description', '')} Defaults to `{json.dumps(default['default'])}`.".strip()}


def text2pattern(_converter: OpenAPIConverter, field: Field[Any], **_kwargs: object) -> JsonObject:
    return {"pattern": pattern(field)} if isinstance(field, Text) else {}


def number2format(_converter: OpenAPIConverter, field: Field[Any], ret: JsonObject) -> JsonObject:
    if "exclusiveMinimum" in ret:
        del ret["minimum"]
    if isinstance(field, Money):
        return {"format": "double", "description": f"{ret.get('description', '')} {MONEY}".strip()}
    return {"format": "int64"} if ret.get("type") == "integer" else {}


def choice2component(converter: OpenAPIConverter, field: Field[Any], ret: JsonObject) -> JsonObject:
    """Make an enum one component, so that generated clients have one type for it."""
    if not isinstance(field, Choice) or not (field.component or field.title):
        return {}
    enum = {"type": ret.pop("type"), "enum": [word for word in ret.pop("enum") if word is not None]}
    if field.title:
        return {"anyOf": [enum | {"title": field.title}, {"type": "null"}]}
    if field.component not in converter.spec.components.schemas:
        converter.spec.components.schema(field.component, enum)
    return {"$ref": f"#/components/schemas/{field.component}"}


class Converter(OpenAPIConverter):
    """apispec's converter with the functions above, which run before a field is made nullable."""

    def init_attribute_functions(self) -> None:
        super().init_attribute_functions()  # type: ignore[no-untyped-call]
        for function in (name2description, default2description, text2pattern, number2format, choice2component):
            self.attribute_functions.insert(-1, function.__get__(self))

    def field2default(self, field: Field[Any], **kwargs: Any) -> JsonObject:
        return stated_default(self, field) if reads_text(field) else {}

    def schema2jsonschema(self, schema: Any) -> JsonObject:
        instance = resolve_schema_instance(schema)
        if shapes := getattr(instance, "one_of", ()):
            return {"description": description_of(instance), "oneOf": [*map(self.resolve_nested_schema, shapes)]}
        described: JsonObject = super().schema2jsonschema(schema)  # type: ignore[no-untyped-call]
        if isinstance(instance, AnswerSchema | ModelSchema):
            optional: frozenset[str] = getattr(instance, "optional", frozenset())
            described["required"] = [name for name in described["properties"] if name not in optional]
            described.pop("additionalProperties", None)
        return {"description": description_of(instance)} | described | getattr(instance, "in_document", {})

    def _field2parameter(self, field: Field[Any], *, name: str, location: str) -> JsonObject:
        parameter: JsonObject = super()._field2parameter(field, name=name, location=location)
        parameter["schema"] = without_null(parameter["schema"])
        return parameter


def description_of(schema: Schema) -> str:
    """The first paragraph of the docstring."""
    paragraph = inspect.cleandoc(type(schema).__doc__ or "").split("\n\n")[0]
    return " ".join(paragraph.replace("``", "`").split())


def without_null(schema: JsonObject) -> JsonObject:
    """Remove null from a schema, because query strings have no null."""
    if "anyOf" in schema:
        return next(choice for choice in schema["anyOf"] if choice.get("type") != "null")
    if isinstance(schema.get("type"), list):
        (kind,) = (name for name in schema["type"] if name != "null")
        schema["type"] = kind
    if None in schema.get("enum", ()):
        schema["enum"] = [word for word in schema["enum"] if word is not None]
    return schema


class Plugin(MarshmallowPlugin):
    Converter = Converter
