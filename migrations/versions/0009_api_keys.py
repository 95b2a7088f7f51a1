"""API keys

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

big_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
utc_time = sa.DateTime(timezone=True)
# As long as the folded name can be, compared by code point on both engines.
folded_name = sa.String(300).with_variant(sa.String(300, collation="C"), "postgresql")
LIVE = sa.text("revoked_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("name_folded", folded_name, nullable=False),
        sa.Column("scopes", sa.String(100), nullable=False),
        sa.Column("created_at", utc_time, nullable=False),
        sa.Column("expires_at", utc_time),
        sa.Column("revoked_at", utc_time),
        sa.Column("last_used_at", utc_time),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 100", name=op.f("ck_api_keys_name_length")),
    )
    op.create_index(
        "uq_api_keys_name_folded", "api_keys", ["name_folded"], unique=True, postgresql_where=LIVE, sqlite_where=LIVE
    )
    op.create_table(
        "api_key_secrets",
        sa.Column("id", big_id, nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("pepper", sa.String(16), nullable=False),
        sa.Column("created_at", utc_time, nullable=False),
        sa.Column("expires_at", utc_time),
        sa.PrimaryKeyConstraint("id", name="pk_api_key_secrets"),
        sa.UniqueConstraint("digest", name="uq_api_key_secrets_digest"),
        sa.ForeignKeyConstraint(
            ["key_id"], ["api_keys.id"], name="fk_api_key_secrets_key_id_api_keys", ondelete="RESTRICT"
        ),
    )
    op.create_index("ix_api_key_secrets_key_id", "api_key_secrets", ["key_id"])


def downgrade() -> None:
    op.drop_table("api_key_secrets")
    op.drop_table("api_keys")
