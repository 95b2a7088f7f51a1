"""Reject REPLACE of ledger rows

Revision ID: 0003
Revises: 0002

SQLite's REPLACE deletes conflicting rows. It fires DELETE triggers only on connections with recursive_triggers, as in
the service. These triggers reject REPLACE from all other programs, too.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UNIQUE_KEYS = {
    "transactions": [("id",), ("product_id", "seq"), ("reverses_id",), ("idempotency_key", "client")],
    "batches": [("id",), ("idempotency_key", "client")],
}


def refusal(table: str, columns: tuple[str, ...]) -> str:
    """A trigger statement with the message of the constraint that REPLACE would bypass."""
    in_the_way = " AND ".join(f"{column} = NEW.{column}" for column in columns)
    words = f"UNIQUE constraint failed: {', '.join(f'{table}.{column}' for column in columns)}"
    if columns == ("id",):
        words = "ledger rows are never updated or deleted"
    return f"SELECT RAISE(ABORT, '{words}') WHERE EXISTS (SELECT 1 FROM {table} WHERE {in_the_way});"


def upgrade() -> None:
    if op.get_context().dialect.name != "sqlite":
        return
    for table, keys in UNIQUE_KEYS.items():
        refusals = " ".join(refusal(table, columns) for columns in keys)
        op.execute(f"CREATE TRIGGER {table}_refuse_replace BEFORE INSERT ON {table} BEGIN {refusals} END")


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        for table in UNIQUE_KEYS:
            op.execute(f"DROP TRIGGER {table}_refuse_replace")
