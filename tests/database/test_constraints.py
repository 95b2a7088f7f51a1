"""Rules that the database enforces for every client."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import CheckConstraint, delete, insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from inventory.database.base import Base, db
from inventory.database.sqlite import driver as sqlite3
from inventory.models.category import Category
from inventory.models.product import Product
from inventory.models.transaction import Batch
from tests.builders import nothing_changes, product, transaction
from tests.conftest import on_sqlite

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient
    from sqlalchemy import Table

TIMESTAMP = datetime(2024, 2, 29, tzinfo=UTC)
REJECTED = {
    "UPDATE": "UPDATE {table} SET {column} = 'other'",
    "UPDATE without a change": "UPDATE {table} SET {column} = {column}",
    "DELETE": "DELETE FROM {table}",
    "upsert": "INSERT INTO {table} SELECT * FROM {table} WHERE true ON CONFLICT ({key}) DO UPDATE SET {column} = 'o'",
}
REJECTED_BY_ENGINE = {
    "sqlite": {"REPLACE": "REPLACE INTO {table} SELECT * FROM {table}"},
    "postgresql": {
        "TRUNCATE": "TRUNCATE {table} CASCADE",
        "TRUNCATE of referenced tables": "TRUNCATE products, batches CASCADE",
    },
}


# The key and a text column of each append-only table.
LEDGER = {"transactions": ("id", "client"), "batches": ("id", "client"), "answers": ("transaction_id", "body")}


@pytest.mark.parametrize("table", LEDGER)
def test_ledger_rows_reject_update_and_delete(app: Flask, client: FlaskClient, engine_name: str, table: str) -> None:
    key, column = LEDGER[table]
    bolt = product(client, quantity_on_hand=5)["id"]
    client.put(f"/products/{bolt}", json={"quantity_on_hand": 4}, headers={"Idempotency-Key": "k"})
    with app.app_context():
        db.session.add(Batch(id="b", kind="batch"))
        db.session.commit()
    for statement in (REJECTED | REJECTED_BY_ENGINE[engine_name]).values():
        with nothing_changes(app), app.app_context():
            with pytest.raises(DBAPIError, match="ledger rows are never updated or deleted"):
                db.session.execute(text(statement.format(table=table, key=key, column=column)))
            db.session.rollback()


# For each key, changes to the copy of a row that leave only that key in conflict.
COLLISIONS = {
    "id": "seq = 99, reverses_id = NULL, idempotency_key = NULL, fingerprint = NULL, client = NULL",
    "product and seq": "id = 99, reverses_id = NULL, idempotency_key = NULL, fingerprint = NULL, client = NULL",
    "reversed transaction": "id = 99, seq = 99, idempotency_key = NULL, fingerprint = NULL, client = NULL",
    "idempotency key": "id = 99, seq = 99, reverses_id = NULL",
}


@on_sqlite
@pytest.mark.parametrize("key", COLLISIONS)
@pytest.mark.parametrize("verb", ["REPLACE", "INSERT OR REPLACE"])
def test_replace_of_ledger_row_fails_on_plain_connection(
    app: Flask, client: FlaskClient, database_url: str, verb: str, key: str
) -> None:
    sale = transaction(client, product(client, quantity_on_hand=5)["id"], "sale", 1)["id"]
    undone = client.post(f"/transactions/{sale}/reversal", headers={"Idempotency-Key": "k"})
    with nothing_changes(app), closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as plain:
        plain.execute(f"CREATE TEMP TABLE copy AS SELECT * FROM transactions WHERE id = {undone.get_json()['id']}")
        plain.execute(f"UPDATE copy SET notes = 'forged', {COLLISIONS[key]}")
        with pytest.raises(sqlite3.IntegrityError):
            plain.execute(f"{verb} INTO transactions SELECT * FROM copy")


@on_sqlite
def test_replace_of_stored_response_fails_on_plain_connection(
    app: Flask, client: FlaskClient, database_url: str
) -> None:
    bolt = product(client, quantity_on_hand=5)["id"]
    client.put(f"/products/{bolt}", json={"quantity_on_hand": 4}, headers={"Idempotency-Key": "k"})
    file = database_url.removeprefix("sqlite:///")
    with nothing_changes(app), closing(sqlite3.connect(file)) as plain, pytest.raises(sqlite3.IntegrityError):
        plain.execute("REPLACE INTO answers SELECT transaction_id, 'forged' FROM answers")


VALID: dict[str, dict[str, Any]] = {
    "categories": {"name": "Tools", "name_folded": "tools", "created_at": TIMESTAMP, "updated_at": TIMESTAMP},
    "products": {
        "sku": "BOLT",
        "sku_folded": "bolt",
        "name": "Bolt",
        "name_folded": "bolt",
        "price": Decimal(10),
        "cost": Decimal(8),
        "category_id": 1,
        "created_at": TIMESTAMP,
        "updated_at": TIMESTAMP,
    },
    "batches": {"id": "b", "kind": "batch", "created_at": TIMESTAMP},
    "transactions": {
        "product_id": 1,
        "sku": "BOLT",
        "transaction_type": "adjustment",
        "quantity": 5,
        "delta": 5,
        "balance_after": 5,
        "seq": 1,
        "reason": "other",
        "xid": 0,
        "created_at": TIMESTAMP,
    },
}
# Changes to a valid row after which it violates no unique constraint.
UNIQUE_FIELDS: dict[str, dict[str, Any]] = {
    "categories": {"name_folded": "new"},
    "products": {"sku_folded": "new"},
    "batches": {"id": "new"},
    "transactions": {"seq": 2},
}
# For every CHECK constraint, columns that violate only it.
VIOLATIONS: dict[str, list[dict[str, Any]]] = {
    "ck_categories_name_length": [{"name": ""}, {"name": "x" * 101}],
    "ck_categories_description_length": [{"description": "x" * 501}],
    "ck_products_sku_length": [{"sku": ""}, {"sku": "x" * 51}],
    "ck_products_name_length": [{"name": ""}, {"name": "x" * 201}],
    "ck_products_description_length": [{"description": "x" * 1001}],
    "ck_products_location_length": [{"location": "x" * 51}],
    "ck_products_price_positive": [{"price": Decimal(0), "cost": None}, {"price": Decimal(-1), "cost": None}],
    "ck_products_cost_not_negative": [{"cost": Decimal("-0.0001")}],
    "ck_products_price_not_below_cost": [{"cost": Decimal("10.0001")}],
    "ck_products_quantity_on_hand_bounds": [{"quantity_on_hand": -1}, {"quantity_on_hand": 10**12 + 1}],
    "ck_products_reorder_point_not_negative": [{"reorder_point": -1}],
    "ck_batches_kind_known": [{"kind": "other"}],
    "ck_batches_key_has_fingerprint": [{"idempotency_key": "k"}, {"fingerprint": "f"}],
    "ck_batches_import_has_counts": [{"kind": "import"}, {"rows": 1}],
    "ck_transactions_key_has_fingerprint": [{"idempotency_key": "k"}, {"fingerprint": "f"}],
    "ck_transactions_only_reversals_reverse": [{"reverses_id": 1}],
    "ck_transactions_crossed_known": [{"crossed": "other"}],
    "ck_transactions_transaction_type_known": [{"transaction_type": "gift"}],
    "ck_transactions_reason_known": [{"reason": "theft"}],
    "ck_transactions_adjustment_has_reason": [{"reason": None}],
    "ck_transactions_quantity_positive": [
        {"transaction_type": "sale", "quantity": -5},
        {"transaction_type": "purchase", "quantity": -5, "delta": -5},
    ],
    "ck_transactions_zero_only_for_count": [{"quantity": 0, "delta": 0}],
    "ck_transactions_delta_follows_type": [{"delta": 4}, {"delta": -5}, {"transaction_type": "sale", "reason": None}],
    "ck_transactions_balance_after_bounds": [{"balance_after": -1}, {"balance_after": 10**12 + 1}],
    "ck_transactions_seq_positive": [{"seq": 0}, {"seq": -1}],
    "ck_transactions_reference_length": [{"reference": "x" * 101}],
    "ck_transactions_notes_length": [{"notes": "x" * 501}],
}
FORBIDDEN: dict[str, tuple[str, dict[str, Any]]] = {
    "product in an unknown category": ("products", {"category_id": 99, "sku_folded": "new"}),
    "transaction of an unknown product": ("transactions", {"product_id": 99}),
    "reversal of an unknown transaction": ("transactions", {"seq": 2, "reverses_id": 99, "reason": "reversal"}),
    "duplicate category name": ("categories", {}),
    "duplicate SKU": ("products", {}),
    "duplicate seq": ("transactions", {}),
}


def tables() -> dict[str, Table]:
    return {name: Base.metadata.tables[name] for name in VALID}


def constraint_and_table() -> dict[str, str]:
    return {
        str(constraint.name): name
        for name, table in tables().items()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
    }


@pytest.fixture
def valid_rows(app: Flask) -> None:
    with app.app_context():
        for name, table in tables().items():
            db.session.execute(insert(table).values(VALID[name]))
        db.session.commit()


def test_every_check_constraint_has_a_test_case() -> None:
    assert VIOLATIONS.keys() == constraint_and_table().keys()


@pytest.mark.usefixtures("valid_rows")
def test_check_constraints_reject_invalid_rows(app: Flask, engine_name: str) -> None:
    for constraint, violations in VIOLATIONS.items():
        name = constraint_and_table()[constraint]
        for violation in violations:
            row = VALID[name] | UNIQUE_FIELDS[name] | violation
            with app.app_context():
                with pytest.raises(DBAPIError) as raised:
                    db.session.execute(insert(tables()[name]).values(row))
                db.session.rollback()
            words = str(raised.value.orig)
            # PostgreSQL rejects a text that is too long before it checks any constraint.
            too_long = engine_name == "postgresql" and "value too long" in words
            assert too_long or constraint in re.split(r'["\s]', words), words


@pytest.mark.usefixtures("valid_rows")
@pytest.mark.parametrize("forbidden", FORBIDDEN)
def test_foreign_and_unique_keys_reject_invalid_rows(app: Flask, forbidden: str) -> None:
    name, violation = FORBIDDEN[forbidden]
    with app.app_context(), pytest.raises(IntegrityError, match=r"(?i)foreign key|unique"):
        db.session.execute(insert(tables()[name]).values(VALID[name] | violation))


@pytest.mark.usefixtures("valid_rows")
@pytest.mark.parametrize("model", [Category, Product])
def test_delete_of_referenced_rows_is_rejected(app: Flask, model: type[Base]) -> None:
    with nothing_changes(app), app.app_context(), pytest.raises(IntegrityError):
        db.session.execute(delete(model))
