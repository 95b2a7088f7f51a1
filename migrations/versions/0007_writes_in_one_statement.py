"""Functions for writes in one statement: the feed's position, and one use of an idempotency key

Revision ID: 0007
Revises: 0006

A row's position in the feed must not be lower than that of the row before it, for whose transaction it may have waited.
The snapshot of a statement that waited is older than that. A volatile PL/pgSQL function takes a new one.

A request writes its key without looking for it first, so the database has to refuse a key that the other table has.
Each table has its own unique constraint; these triggers compare the two, and report a violation of the constraint of
the other table.

On PostgreSQL the advisory lock makes concurrent requests with one key wait for each other, and the query after it sees
what the first one committed. Rows without a key do not call the function.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

OTHER = {"transactions": "batches", "batches": "transactions"}
TAKEN = """
    EXISTS (SELECT 1 FROM {other} WHERE idempotency_key = NEW.idempotency_key AND client = NEW.client)
"""


def sqlite_trigger(table: str, other: str) -> str:
    return f"""
        CREATE TRIGGER {table}_refuse_key BEFORE INSERT ON {table}
        WHEN NEW.idempotency_key IS NOT NULL AND {TAKEN.format(other=other)}
        BEGIN SELECT RAISE(ABORT, 'UNIQUE constraint failed: {other}.idempotency_key, {other}.client'); END
    """


def postgresql_triggers(table: str, other: str) -> list[str]:
    function = f"""
        CREATE FUNCTION {table}_refuse_key() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtextextended(NEW.client || '/' || NEW.idempotency_key, 0));
            IF {TAKEN.format(other=other)} THEN
                RAISE unique_violation USING
                    MESSAGE = 'the idempotency key is already used',
                    CONSTRAINT = 'uq_{other}_idempotency_key_client';
            END IF;
            RETURN NEW;
        END $$
    """
    trigger = f"""
        CREATE TRIGGER {table}_refuse_key BEFORE INSERT ON {table}
        FOR EACH ROW WHEN (NEW.idempotency_key IS NOT NULL) EXECUTE FUNCTION {table}_refuse_key()
    """
    return [function, trigger]


WRITE_POSITION = """
    CREATE FUNCTION write_position() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        RETURN greatest(
            pg_current_xact_id()::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1
        );
    END $$
"""


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        # In the order in which requests lock them, so that the migrations do not deadlock with requests.
        op.execute("LOCK TABLE products, batches, transactions IN ACCESS EXCLUSIVE MODE")
        op.execute(WRITE_POSITION)
    for table, other in OTHER.items():
        if op.get_context().dialect.name == "sqlite":
            op.execute(sqlite_trigger(table, other))
        else:
            for statement in postgresql_triggers(table, other):
                op.execute(statement)


def downgrade() -> None:
    for table in OTHER:
        if op.get_context().dialect.name == "sqlite":
            op.execute(f"DROP TRIGGER {table}_refuse_key")
        else:
            op.execute(f"DROP FUNCTION {table}_refuse_key CASCADE")
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION write_position")
