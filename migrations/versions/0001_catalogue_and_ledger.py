"""Catalogue and ledger

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

big_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
money = sa.Numeric(14, 4).with_variant(sa.BigInteger(), "sqlite")
utc_time = sa.DateTime(timezone=True)


def folded(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(3 * length).with_variant(sa.String(3 * length, collation="C"), "postgresql")


# Ledger rows are never changed. TRUNCATE fires no row trigger, so PostgreSQL also has a statement trigger.
LEDGER_TABLES = ("transactions", "batches")
SQLITE_TRIGGERS = [
    f"""
    CREATE TRIGGER {table}_refuse_{event.lower()} BEFORE {event} ON {table}
    BEGIN SELECT RAISE(ABORT, 'ledger rows are never updated or deleted'); END
    """
    for table in LEDGER_TABLES
    for event in ("UPDATE", "DELETE")
]
POSTGRESQL_TRIGGERS = [
    """
    CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'ledger rows are never updated or deleted' USING ERRCODE = 'restrict_violation';
    END $$
    """,
    *(
        f"""
        CREATE TRIGGER {table}_refuse_{name} BEFORE {event} ON {table}
        FOR EACH {level} EXECUTE FUNCTION ledger_refuse_change()
        """
        for table in LEDGER_TABLES
        for name, event, level in (("change", "UPDATE OR DELETE", "ROW"), ("truncate", "TRUNCATE", "STATEMENT"))
    ),
]


def upgrade() -> None:
    op.create_table(
        "categories",
        sa.Column("id", big_id, primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("name_folded", folded(100), nullable=False),
        sa.Column("description", sa.String(500)),
        sa.Column("version", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.Column("created_at", utc_time, nullable=False),
        sa.Column("updated_at", utc_time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_categories"),
        sa.UniqueConstraint("name_folded", name="uq_categories_name_folded"),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 100", name="name_length"),
        sa.CheckConstraint("length(description) <= 500", name="description_length"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "products",
        sa.Column("id", big_id, primary_key=True),
        sa.Column("sku", sa.String(50), nullable=False),
        sa.Column("sku_folded", folded(50), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("name_folded", folded(200), nullable=False),
        sa.Column("description", sa.String(1000)),
        sa.Column("price", money, nullable=False),
        sa.Column("cost", money),
        sa.Column("quantity_on_hand", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("reorder_point", sa.BigInteger(), nullable=False, server_default=sa.text("10")),
        sa.Column("location", sa.String(50)),
        sa.Column("category_id", big_id, nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("version", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.Column("last_seq", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("last_counted_at", utc_time),
        sa.Column("created_at", utc_time, nullable=False),
        sa.Column("updated_at", utc_time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_products"),
        sa.UniqueConstraint("sku_folded", name="uq_products_sku_folded"),
        sa.ForeignKeyConstraint(
            ["category_id"], ["categories.id"], name="fk_products_category_id_categories", ondelete="RESTRICT"
        ),
        sa.CheckConstraint("length(sku) BETWEEN 1 AND 50", name="sku_length"),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 200", name="name_length"),
        sa.CheckConstraint("length(description) <= 1000", name="description_length"),
        sa.CheckConstraint("length(location) <= 50", name="location_length"),
        sa.CheckConstraint("price > 0", name="price_positive"),
        sa.CheckConstraint("cost >= 0", name="cost_not_negative"),
        sa.CheckConstraint("price >= cost", name="price_not_below_cost"),
        sa.CheckConstraint("quantity_on_hand BETWEEN 0 AND 1000000000000", name="quantity_on_hand_bounds"),
        sa.CheckConstraint("reorder_point >= 0", name="reorder_point_not_negative"),
        sqlite_autoincrement=True,
        # Reserves space on each page for heap-only tuple updates.
        postgresql_with={"fillfactor": 80},
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("client", sa.String(100), nullable=False, server_default=""),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("rows", sa.BigInteger()),
        sa.Column("created", sa.BigInteger()),
        sa.Column("updated", sa.BigInteger()),
        sa.Column("unchanged", sa.BigInteger()),
        sa.Column("created_at", utc_time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
        sa.UniqueConstraint("idempotency_key", "client", name="uq_batches_idempotency_key_client"),
        sa.CheckConstraint("kind IN ('batch', 'reversal', 'import')", name="kind_known"),
        sa.CheckConstraint("(idempotency_key IS NULL) = (fingerprint IS NULL)", name="key_has_fingerprint"),
        sa.CheckConstraint("(kind = 'import') = (rows IS NOT NULL)", name="import_has_counts"),
    )
    op.create_table(
        "transactions",
        sa.Column("id", big_id, primary_key=True),
        sa.Column("product_id", big_id, nullable=False),
        sa.Column("sku", sa.String(50), nullable=False),
        sa.Column("transaction_type", sa.String(10), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("delta", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(10)),
        sa.Column("reference", sa.String(100)),
        sa.Column("notes", sa.String(500)),
        sa.Column("reverses_id", big_id),
        sa.Column("batch_id", sa.String(36)),
        sa.Column("crossed", sa.String(9)),
        sa.Column("client", sa.String(100), nullable=False, server_default=""),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(100)),
        sa.Column("created_at", utc_time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_transactions"),
        sa.UniqueConstraint("product_id", "seq", name="uq_transactions_product_id_seq"),
        sa.ForeignKeyConstraint(
            ["product_id"], ["products.id"], name="fk_transactions_product_id_products", ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["reverses_id"],
            ["transactions.id"],
            name="fk_transactions_reverses_id_transactions",
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["batches.id"],
            name="fk_transactions_batch_id_batches",
            ondelete="RESTRICT",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.CheckConstraint("(idempotency_key IS NULL) = (fingerprint IS NULL)", name="key_has_fingerprint"),
        sa.CheckConstraint("reverses_id IS NULL OR reason = 'reversal'", name="only_reversals_reverse"),
        sa.CheckConstraint("crossed IN ('low', 'out', 'recovered')", name="crossed_known"),
        sa.CheckConstraint(
            "transaction_type IN ('purchase', 'sale', 'adjustment')",
            name="transaction_type_known",
        ),
        sa.CheckConstraint(
            "reason IN ('opening', 'count', 'damage', 'loss', 'return', 'reversal', 'import', 'other')",
            name="reason_known",
        ),
        sa.CheckConstraint(
            "transaction_type <> 'adjustment' OR reason IS NOT NULL",
            name="adjustment_has_reason",
        ),
        sa.CheckConstraint("transaction_type = 'adjustment' OR quantity > 0", name="quantity_positive"),
        sa.CheckConstraint("quantity <> 0 OR reason = 'count'", name="zero_only_for_count"),
        sa.CheckConstraint(
            "delta = CASE transaction_type WHEN 'sale' THEN -quantity ELSE quantity END",
            name="delta_follows_type",
        ),
        sa.CheckConstraint("balance_after BETWEEN 0 AND 1000000000000", name="balance_after_bounds"),
        sa.CheckConstraint("seq >= 1", name="seq_positive"),
        sa.CheckConstraint("length(reference) <= 100", name="reference_length"),
        sa.CheckConstraint("length(notes) <= 500", name="notes_length"),
        sqlite_autoincrement=True,
    )
    # Partial indexes, because most rows reverse nothing and have no key.
    for columns in (("reverses_id",), ("idempotency_key", "client")):
        present = sa.text(f"{columns[0]} IS NOT NULL")
        op.create_index(
            f"uq_transactions_{'_'.join(columns)}",
            "transactions",
            columns,
            unique=True,
            postgresql_where=present,
            sqlite_where=present,
        )
    for statement in SQLITE_TRIGGERS if op.get_context().dialect.name == "sqlite" else POSTGRESQL_TRIGGERS:
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables, unless the ledger has rows."""
    if not op.get_context().as_sql and op.get_bind().scalar(sa.text("SELECT count(*) FROM transactions")):
        raise SystemExit(
            "The ledger has rows, and the downgrade would delete them. Export them and drop the database manually."
        )
    op.drop_table("transactions")
    op.drop_table("batches")
    op.drop_table("products")
    op.drop_table("categories")
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION ledger_refuse_change()")
