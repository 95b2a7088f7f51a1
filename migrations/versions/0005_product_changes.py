"""Changes of the catalogue, in the order in which they were written

Revision ID: 0005
Revises: 0004

Triggers on products write the rows, so that no change of the catalogue is missed. They fire for catalogue columns only,
which stock movements do not change.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

big_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

COLUMNS = ("sku", "name", "description", "price", "cost", "reorder_point", "location", "category_id", "is_active")
OLD_VALUES, NEW_VALUES = (", ".join(f"{row}.{name}" for name in COLUMNS) for row in ("OLD", "NEW"))
ANY_UPDATE = f"UPDATE OF {', '.join(COLUMNS)}"

SUPERSEDED = """
    OLD.is_latest AND NOT NEW.is_latest AND NEW.id = OLD.id AND NEW.product_id = OLD.product_id
    AND NEW.sku = OLD.sku AND NEW.xid = OLD.xid AND NEW.created_at = OLD.created_at
"""
PROTECTIONS = {
    "product_changes_refuse_update": ("UPDATE", f"NOT ({SUPERSEDED})"),
    "product_changes_refuse_delete": ("DELETE", "OLD.is_latest"),
}
PROTECTED = "product_changes keeps each product''s latest row; only superseded rows may be deleted"

# On SQLite the time comes from a built-in function, available in all programs, with milliseconds only.
SQLITE_POSITION = "0, strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'"
# The same as write_position in inventory/database/functions.py, which explains it.
POSTGRESQL_POSITION = """
    greatest(pg_current_xact_id()::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1),
    clock_timestamp()
"""
SQLITE_LATEST, POSTGRESQL_LATEST = "is_latest = 1", "is_latest"


def note_change(product_id: str, sku: str, latest: str, position: str) -> str:
    return f"""
        UPDATE product_changes SET is_latest = false WHERE product_id = {product_id} AND {latest};
        INSERT INTO product_changes (product_id, sku, is_latest, xid, created_at)
        VALUES ({product_id}, {sku}, true, {position});
    """


def sqlite_note(row: str) -> str:
    return f"BEGIN {note_change(f'{row}.id', f'{row}.sku', SQLITE_LATEST, SQLITE_POSITION)} END"


# SQLite supports IS DISTINCT FROM only since 3.39.
SQLITE_TRIGGERS = {
    "products_note_insert": f"AFTER INSERT ON products {sqlite_note('NEW')}",
    "products_note_delete": f"AFTER DELETE ON products {sqlite_note('OLD')}",
    "products_note_update": f"""
        AFTER {ANY_UPDATE} ON products WHEN ({NEW_VALUES}) IS NOT ({OLD_VALUES}) {sqlite_note("NEW")}
    """,
} | {
    name: f"AFTER {event} ON product_changes WHEN {condition} BEGIN SELECT RAISE(ABORT, '{PROTECTED}'); END"
    for name, (event, condition) in PROTECTIONS.items()
}

NOTE_CHANGE = f"""
    CREATE FUNCTION note_product_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        {note_change("coalesce(NEW.id, OLD.id)", "coalesce(NEW.sku, OLD.sku)", POSTGRESQL_LATEST, POSTGRESQL_POSITION)}
        RETURN NULL;
    END $$
"""
NOTE, REFUSE = "EXECUTE FUNCTION note_product_change()", f"EXECUTE FUNCTION refuse_change('{PROTECTED}')"
POSTGRESQL_TRIGGERS = {
    "products_note_change": f"AFTER INSERT OR DELETE ON products FOR EACH ROW {NOTE}",
    "products_note_update": f"""
        AFTER {ANY_UPDATE} ON products FOR EACH ROW WHEN (({NEW_VALUES}) IS DISTINCT FROM ({OLD_VALUES})) {NOTE}
    """,
    "product_changes_refuse_truncate": f"BEFORE TRUNCATE ON product_changes FOR EACH STATEMENT {REFUSE}",
} | {
    name: f"AFTER {event} ON product_changes FOR EACH ROW WHEN ({condition}) {REFUSE}"
    for name, (event, condition) in PROTECTIONS.items()
}


def upgrade() -> None:
    op.create_table(
        "product_changes",
        sa.Column("id", big_id, primary_key=True),
        sa.Column("product_id", big_id, nullable=False),
        sa.Column("sku", sa.String(50), nullable=False),
        sa.Column("is_latest", sa.Boolean(), nullable=False),
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_product_changes"),
        sqlite_autoincrement=True,
    )
    for name, columns, unique in (
        ("uq_product_changes_product_id", ["product_id"], True),
        ("ix_product_changes_xid_id", ["xid", "id"], False),
    ):
        op.create_index(
            name,
            "product_changes",
            columns,
            unique=unique,
            sqlite_where=sa.text(SQLITE_LATEST),
            postgresql_where=sa.text(POSTGRESQL_LATEST),
        )
    # Creating the triggers locks products, so that no change is missed before the rows are copied.
    if op.get_context().dialect.name == "sqlite":
        create_triggers(SQLITE_TRIGGERS)
        copy_products(SQLITE_POSITION)
    else:
        op.execute(NOTE_CHANGE)
        create_triggers(POSTGRESQL_TRIGGERS)
        copy_products("0, clock_timestamp()")


def create_triggers(triggers: dict[str, str]) -> None:
    for name, definition in triggers.items():
        op.execute(f"CREATE TRIGGER {name} {definition}")


def copy_products(position: str) -> None:
    """Write one row per product, so that the feed starts with the whole catalogue."""
    op.execute(f"""
        INSERT INTO product_changes (product_id, sku, is_latest, xid, created_at)
        SELECT id, sku, true, {position} FROM products ORDER BY id
    """)


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        for name in sorted(SQLITE_TRIGGERS.keys() - PROTECTIONS.keys()):
            op.execute(f"DROP TRIGGER {name}")
        op.drop_table("product_changes")
    else:
        op.drop_table("product_changes")
        # CASCADE drops the triggers on products.
        op.execute("DROP FUNCTION note_product_change() CASCADE")
