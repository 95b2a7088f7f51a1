"""Stock as in typical tutorials: read, check, write. A control, in which the tests must detect overselling."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from inventory.config import sqlalchemy_url


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


class Product(Base):
    __tablename__ = "products"

    id: Mapped[int] = mapped_column(primary_key=True)
    quantity_on_hand: Mapped[int]


class Transaction(Base):
    __tablename__ = "transactions"

    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"))
    delta: Mapped[int]


def create_app(database_url: str) -> Flask:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = sqlalchemy_url(database_url)
    db.init_app(app)
    app.add_url_rule("/health/live", view_func=dict)
    app.add_url_rule("/transactions", view_func=create_transaction, methods=["POST"])
    return app


def create_transaction() -> Any:
    sale = request.get_json()
    product = db.get_or_404(Product, sale["product_id"])
    if product.quantity_on_hand < sale["quantity"]:
        return {"error": "insufficient_stock"}, 400
    product.quantity_on_hand -= sale["quantity"]
    db.session.add(Transaction(product_id=product.id, delta=-sale["quantity"]))
    db.session.commit()
    return {}, 201


def served() -> Flask:
    """The application factory for gunicorn."""
    return create_app(os.environ["DATABASE_URL"])
