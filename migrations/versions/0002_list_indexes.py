"""Indexes for every list and filter

Revision ID: 0002
Revises: 0001

No index includes a column that a movement changes (quantity_on_hand, last_seq, updated_at), so that PostgreSQL can use
heap-only tuple updates.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INDEXES = [
    ("products", "category_id", "id"),
    ("products", "name_folded", "id"),
    ("products", "price", "id"),
    ("products", "created_at", "id"),
    ("transactions", "product_id", "created_at", "id"),
    ("transactions", "created_at", "id"),
    ("transactions", "xid", "id"),
]
# Partial indexes, because most rows have no value in these columns.
SPARSE_INDEXES = [
    ("transactions", "reason", "created_at", "id"),
    ("transactions", "reference", "created_at", "id"),
    ("transactions", "batch_id", "created_at", "id"),
]


def name(table: str, columns: tuple[str, ...]) -> str:
    return f"ix_{table}_{'_'.join(columns)}"


def upgrade() -> None:
    for table, *columns in INDEXES:
        op.create_index(name(table, tuple(columns)), table, columns)
    for table, *columns in SPARSE_INDEXES:
        present = sa.text(f"{columns[0]} IS NOT NULL")
        op.create_index(name(table, tuple(columns)), table, columns, postgresql_where=present, sqlite_where=present)


def downgrade() -> None:
    for table, *columns in [*INDEXES, *SPARSE_INDEXES]:
        op.drop_index(name(table, tuple(columns)), table_name=table)
