"""Stored responses

Revision ID: 0006
Revises: 0005

Protected like the ledger, with triggers as in 0001 and 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

big_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
REFUSE = "SELECT RAISE(ABORT, 'ledger rows are never updated or deleted')"
TRIGGERS = {
    "sqlite": [
        f"CREATE TRIGGER answers_refuse_update BEFORE UPDATE ON answers BEGIN {REFUSE}; END",
        f"CREATE TRIGGER answers_refuse_delete BEFORE DELETE ON answers BEGIN {REFUSE}; END",
        f"""
        CREATE TRIGGER answers_refuse_replace BEFORE INSERT ON answers
        BEGIN {REFUSE} WHERE EXISTS (SELECT 1 FROM answers WHERE transaction_id = NEW.transaction_id); END
        """,
    ],
    "postgresql": [
        """
        CREATE TRIGGER answers_refuse_change BEFORE UPDATE OR DELETE ON answers
        FOR EACH ROW EXECUTE FUNCTION ledger_refuse_change()
        """,
        """
        CREATE TRIGGER answers_refuse_truncate BEFORE TRUNCATE ON answers
        FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()
        """,
    ],
}


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("transaction_id", big_id, autoincrement=False, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("transaction_id", name="pk_answers"),
        sa.ForeignKeyConstraint(
            ["transaction_id"],
            ["transactions.id"],
            name="fk_answers_transaction_id_transactions",
            ondelete="RESTRICT",
        ),
    )
    for statement in TRIGGERS[op.get_context().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    """Drop the table, unless it has rows, which retries with a key need."""
    if not op.get_context().as_sql and op.get_bind().scalar(sa.text("SELECT count(*) FROM answers")):
        raise SystemExit("The table has stored responses to requests with a key, and the downgrade would delete them.")
    op.drop_table("answers")
