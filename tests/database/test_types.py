"""The column types for money and timestamps, on real databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, update

from inventory.database.base import db
from inventory.models.category import Category
from inventory.models.product import Product
from tests.builders import category, product

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

TIMESTAMP = datetime(2024, 2, 29, 12, 30, 15, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "amount", ["0", "0.0001", "0.1", "0.3", "13.75", "1234567890.1234", "9999999999.9998", "9999999999.9999"]
)
def test_money_round_trips_exactly(app: Flask, client: FlaskClient, amount: str) -> None:
    product(client, price=9999999999.9999)
    with app.app_context():
        db.session.execute(update(Product).values(cost=Decimal(amount)))
        db.session.commit()
        stored = db.session.scalars(select(Product.cost)).one()
        assert stored == Decimal(amount)
        assert db.session.scalars(select(Product.cost).where(Product.cost == Decimal(amount))).all() == [stored]


def test_money_accepts_null(app: Flask, client: FlaskClient) -> None:
    product(client, cost=None)
    with app.app_context():
        assert db.session.scalars(select(Product.cost)).all() == [None]


@pytest.mark.parametrize(
    "timestamp",
    [
        TIMESTAMP,
        TIMESTAMP.replace(microsecond=0),
        TIMESTAMP.replace(microsecond=999999),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        TIMESTAMP.astimezone(timezone(timedelta(hours=5, minutes=30))),
        TIMESTAMP.astimezone(timezone(-timedelta(hours=11))),
    ],
    ids=str,
)
def test_timestamps_round_trip_exactly_in_utc(app: Flask, client: FlaskClient, timestamp: datetime) -> None:
    category(client)
    with app.app_context():
        db.session.execute(update(Category).values(created_at=timestamp))
        db.session.commit()
        stored = db.session.scalars(select(Category.created_at)).one()
        assert (stored, stored.utcoffset()) == (timestamp, timedelta(0))
        assert db.session.scalars(select(Category.created_at).where(Category.created_at == timestamp)).all() == [stored]


def test_timestamps_sort_chronologically(app: Flask) -> None:
    tick = timedelta(microseconds=1)
    timestamps = [
        TIMESTAMP - timedelta(days=700_000),
        TIMESTAMP.replace(microsecond=0),
        TIMESTAMP,
        TIMESTAMP + tick,
        TIMESTAMP + timedelta(days=1),
    ]
    with app.app_context():
        for number, timestamp in enumerate(timestamps[::-1]):
            db.session.add(Category(name=str(number), created_at=timestamp))
        db.session.commit()
        assert db.session.scalars(select(Category.created_at).order_by(Category.created_at)).all() == timestamps
