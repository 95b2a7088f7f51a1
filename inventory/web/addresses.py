"""URLs: ids and SKUs in the path, query parameters, and OPTIONS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flask
from werkzeug.routing import BaseConverter, IntegerConverter

from inventory.fields import MAX_ID, Several
from inventory.web.problems import validation_failed

if TYPE_CHECKING:
    from flask import Flask
    from marshmallow import Schema
    from werkzeug.wrappers import Response

# Attribute of a view with the schema of its query parameters.
QUERY = "query_schema"


class IdConverter(IntegerConverter):
    """An id in a path. Larger numbers than BIGINT become the largest BIGINT, which no row has."""

    regex = "[0-9]+"  # the base class accepts digits of all scripts

    def to_python(self, value: str) -> int:
        return min(int(value.lstrip("0")[:40] or 0), MAX_ID)


class SkuConverter(BaseConverter):
    """A SKU in a path: the rest of the path, including slashes, stripped. NUL is not allowed."""

    part_isolating = False
    regex = r"[^\0]+"

    def to_python(self, value: str) -> str:
        return value.strip()


def may_repeat(schema: type[Schema] | None, name: str) -> bool:
    return schema is not None and isinstance(schema._declared_fields.get(name), Several)  # noqa: SLF001


def refuse_stray_parameters() -> None:
    """Reject repeated query parameters, and all parameters of views without a query schema.

    The schema of the view validates all others.
    """
    if flask.request.routing_exception is not None:
        return
    view = flask.current_app.view_functions.get(flask.request.endpoint or "")
    schema: type[Schema] | None = getattr(view, QUERY, None)
    repeated = [name for name, values in flask.request.args.lists() if len(values) > 1]
    problems = {name: ["Duplicate parameter."] for name in repeated if not may_repeat(schema, name)}
    if view is not None and schema is None:
        problems = {name: ["Unknown field."] for name in flask.request.args}
    if problems:
        raise validation_failed({"query": problems})


def answer_options() -> Response | None:
    """Answer OPTIONS in JSON, with the methods of all rules for this URL."""
    address = flask.request.url_rule
    if flask.request.method != "OPTIONS" or address is None:
        return None
    rules = flask.current_app.url_map.iter_rules()
    allowed = sorted({method for rule in rules if rule.rule == address.rule for method in rule.methods or ()})
    response = flask.jsonify({"allow": allowed})
    response.headers["Allow"] = ", ".join(allowed)
    return response


def init_app(app: Flask) -> None:
    app.url_map.converters |= {"id": IdConverter, "sku": SkuConverter}
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # it would redirect to the host named by the client
    app.before_request(refuse_stray_parameters)
    app.before_request(answer_options)
