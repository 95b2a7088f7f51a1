"""Find products with low stock, and parts of names and SKUs, by index

Revision ID: 0008
Revises: 0007

``is_low`` is a generated column, so that the index changes only when a product becomes low or recovers. An index on the
quantity itself would change with every movement, and PostgreSQL could not use heap-only tuple updates.

The trigram index needs the extension pg_trgm. The owner of a database may create it without being superuser. Where it
is missing or may not be created, searches read the whole catalogue, with the same results.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# SQLite cannot add a stored column to a table, and needs none for an index.
STORED = {"sqlite": None, "postgresql": True}
# As in inventory/products/service.py.
SEARCHED = r"name_folded || E'\n' || sku_folded"
INDEX_TRIGRAMS = f"""
    DO $$ BEGIN
        CREATE EXTENSION IF NOT EXISTS pg_trgm;
        CREATE INDEX ix_products_search_trigrams ON products USING gin (({SEARCHED}) gin_trgm_ops);
    EXCEPTION WHEN OTHERS THEN  -- missing, not allowed, or in another schema
        RAISE NOTICE USING MESSAGE = 'searches will read the whole catalogue: ' || SQLERRM;
    END $$
"""


def upgrade() -> None:
    low = sa.Computed("quantity_on_hand <= reorder_point", persisted=STORED[op.get_context().dialect.name])
    op.add_column("products", sa.Column("is_low", sa.Boolean(), low))
    op.create_index(
        "ix_products_low_stock",
        "products",
        ["id"],
        sqlite_where=sa.text("is_active = 1 AND is_low = 1"),
        postgresql_where=sa.text("is_active AND is_low"),
    )
    if op.get_context().dialect.name == "postgresql":
        op.execute(INDEX_TRIGRAMS)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP INDEX IF EXISTS ix_products_search_trigrams")
    op.drop_index("ix_products_low_stock", "products")
    op.drop_column("products", "is_low")
