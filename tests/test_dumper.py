"""The dumper returns the same bytes as ``schema.dump``, for every schema of a response."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import fields
from sqlalchemy import literal, select

from inventory.database.base import fetch_all
from inventory.database.functions import json_number
from inventory.database.types import Money as MoneyType
from inventory.dumper import dumper
from inventory.fields import MAX_ID, MAX_MONEY, AnswerSchema, ModelSchema, Money, Timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from marshmallow import Schema

# Any JSON text; PostgreSQL and orjson reject unpaired surrogates.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
AMOUNTS = st.decimals(0, MAX_MONEY, places=4)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def schemas(base: type[Schema]) -> Iterator[type[Schema]]:
    for schema in base.__subclasses__():
        # Those of error details only document them.
        if schema.__module__.startswith("inventory.") and ".openapi" not in schema.__module__:
            yield schema
            yield from schemas(schema)


# All applications import them.
SCHEMAS = sorted({*schemas(AnswerSchema), *schemas(ModelSchema)}, key=lambda schema: schema.__qualname__)


def values(field: fields.Field[Any]) -> st.SearchStrategy[Any]:
    """Values of a field, as rows have them."""
    if isinstance(field, fields.List):
        return st.lists(values(field.inner), max_size=3)
    if isinstance(field, fields.Nested):
        return rows(field.schema)
    strategies: dict[type, st.SearchStrategy[Any]] = {
        Money: AMOUNTS | AMOUNTS.map(float),
        Timestamp: TIMES | TIMES.map(lambda time: time.replace(microsecond=0)),
        fields.Boolean: st.booleans(),
        fields.Integer: st.integers(-MAX_ID, MAX_ID),
        fields.String: TEXTS,
    }
    found = next(strategy for kind, strategy in strategies.items() if isinstance(field, kind))
    return st.none() | found


def rows(schema: Schema) -> st.SearchStrategy[Any]:
    """Objects with all attributes, and dicts that may lack some."""
    by_name = {name: values(field) for name, field in schema.dump_fields.items()}
    complete = st.fixed_dictionaries(by_name)
    return complete.map(lambda row: SimpleNamespace(**row)) | complete | st.fixed_dictionaries({}, optional=by_name)


def test_all_response_schemas_are_compared() -> None:
    names = {schema.__name__ for schema in SCHEMAS}
    assert {"ProductOut", "ProductDetail", "ProductChange", "TransactionOut", "FeedOut", "BatchOut"} < names
    assert {"CategoryOut", "CategoryDetail", "StockOut", "HealthOut", "ImportOut"} < names


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
@given(data=st.data())
def test_dumper_returns_the_bytes_of_schema_dump(schema: type[Schema], data: st.DataObject) -> None:
    row = data.draw(rows(schema()))
    assert orjson.dumps(dumper(schema())(row)) == orjson.dumps(schema().dump(row))
    assert orjson.dumps(dumper(schema(many=True))([row, row])) == orjson.dumps(schema(many=True).dump([row, row]))


def test_dumper_uses_the_serialization_of_other_fields() -> None:
    class Shelf(AnswerSchema):
        share = fields.Float()
        labels = fields.List(fields.String())

    row = {"share": Decimal("0.5"), "labels": ("a", "b")}
    assert dumper(Shelf())(SimpleNamespace(**row)) == Shelf().dump(row) == {"share": 0.5, "labels": ["a", "b"]}


EDGES = [Decimal("0.0001"), Decimal("0.1"), Decimal("1.15"), Decimal("9007199254.7409"), MAX_MONEY]


def test_amounts_are_read_as_the_numbers_that_json_shows(app: Flask) -> None:
    @given(st.lists(AMOUNTS, min_size=1, max_size=50).map(lambda amounts: [*amounts, *EDGES]))
    def compare(amounts: list[Decimal]) -> None:
        columns = (json_number(literal(amount, MoneyType())).label(f"c{n}") for n, amount in enumerate(amounts))
        (row,) = fetch_all(select(*columns))
        assert list(row) == [float(amount) for amount in amounts]

    with app.app_context():
        compare()
