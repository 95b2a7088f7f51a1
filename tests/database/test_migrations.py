from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flask_migrate
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Index, PrimaryKeyConstraint, UniqueConstraint, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from inventory import create_app
from inventory.database import revisions
from inventory.database.base import Base, db
from inventory.database.engines import WRITE
from inventory.database.revisions import MIGRATIONS
from inventory.errors import ConfigError
from tests.builders import assert_ledger_is_consistent, body, error_of, listed, nothing_changes, product, transaction
from tests.conftest import on_postgresql
from tests.pollers import Poller

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from flask import Flask

REVISIONS = [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()][::-1]
WITHOUT_EFFECT = {("0003", "postgresql")}  # it concerns only SQLite
Structure = list[tuple[str, str, Any]]  # kind, name, and the lines of the definition
STRUCTURE = {
    "sqlite": "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'",
    "postgresql": """
        SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid)
            FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT 'function', proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')  -- of an extension
        UNION ALL SELECT 'column', table_name || '.' || column_name,
            concat_ws(' ', data_type, character_maximum_length, is_nullable, column_default, collation_name)
            FROM information_schema.columns WHERE table_schema = 'public'
    """,
}


@pytest.fixture
def fresh(empty_database_url: str) -> Iterator[Flask]:
    """The application on a database without tables."""
    app = create_app({"DATABASE_URL": empty_database_url})
    yield app
    with app.app_context():
        db.engine.dispose()


def upgrade(app: Flask, revision: str = "head", **options: Any) -> None:
    with app.app_context():
        flask_migrate.upgrade(revision=revision, **options)


def downgrade(app: Flask, revision: str = "-1") -> None:
    with app.app_context():
        flask_migrate.downgrade(revision=revision)


def structure(app: Flask) -> Structure:
    """Everything that migrations create, as described by the database."""
    with app.app_context(), db.engine.connect() as connection:
        found = connection.execute(text(STRUCTURE[connection.dialect.name]))
        return sorted(
            (kind, name, tuple(line.strip() for line in words.splitlines()))
            for kind, name, words in found
            if "alembic_version" not in name
        )


def is_optional(name: str | None) -> bool:
    """Whether it depends on the extension pg_trgm, so that only migrations know whether it can be created."""
    return name is not None and name.endswith("_trigrams")


def stock_up(app: Flask) -> None:
    """A product with some history."""
    client = app.test_client()
    bolt = product(client, cost=1.25, quantity_on_hand=10)
    transaction(client, bolt["id"], "sale", 3, reference="INV-1")


def test_downgrade_and_upgrade_keep_ledger_data_and_schema(fresh: Flask) -> None:
    upgrade(fresh)
    before = structure(fresh)
    stock_up(fresh)
    with nothing_changes(fresh, but="product_changes"):  # which starts anew
        downgrade(fresh, REVISIONS[0])
        assert structure(fresh) != before
        upgrade(fresh)
    assert structure(fresh) == before
    assert_ledger_is_consistent(fresh)


@pytest.mark.slow
def test_each_downgrade_reverts_its_upgrade(fresh: Flask, engine_name: str) -> None:
    stages = {}
    for revision in REVISIONS:
        stages[revision] = structure(fresh)
        upgrade(fresh, revision)
    for revision in reversed(REVISIONS):
        changed = structure(fresh) != stages[revision]
        assert changed or (revision, engine_name) in WITHOUT_EFFECT
        downgrade(fresh)
        assert structure(fresh) == stages[revision]


def test_upgrade_adds_existing_products_to_the_feed(fresh: Flask) -> None:
    upgrade(fresh)
    stock_up(fresh)
    downgrade(fresh, "0004")
    upgrade(fresh)
    client = fresh.test_client()
    poller = Poller(client, "/products/feed")
    poller.poll_until(1)
    assert poller.seen == listed(client.get("/products"))


def test_downgrade_to_base_and_upgrade_recreate_the_schema(fresh: Flask) -> None:
    upgrade(fresh)
    everything = structure(fresh)
    downgrade(fresh, "base")
    assert structure(fresh) == []
    upgrade(fresh)
    assert structure(fresh) == everything
    stock_up(fresh)
    assert_ledger_is_consistent(fresh)


def test_upgrade_at_head_changes_nothing(fresh: Flask) -> None:
    upgrade(fresh)
    stock_up(fresh)
    before = structure(fresh)
    with nothing_changes(fresh):
        upgrade(fresh)
    assert structure(fresh) == before


def test_downgrade_refused_with_ledger_rows(fresh: Flask) -> None:
    upgrade(fresh)
    before = structure(fresh)
    stock_up(fresh)
    with nothing_changes(fresh), pytest.raises(SystemExit, match="The ledger has rows"):
        downgrade(fresh, "base")
    assert structure(fresh) == before


def test_downgrade_refused_with_stored_responses(fresh: Flask) -> None:
    upgrade(fresh)
    client = fresh.test_client()
    bolt = product(client)["id"]
    client.put(f"/products/{bolt}", json={"quantity_on_hand": 4}, headers={"Idempotency-Key": "k"})
    with nothing_changes(fresh), pytest.raises(SystemExit, match="stored responses to requests with a key"):
        downgrade(fresh, "0005")


def test_failed_migration_is_rolled_back(fresh: Flask) -> None:
    upgrade(fresh, REVISIONS[0])
    with fresh.app_context(), db.engine.begin() as connection:
        connection.execute(text("CREATE INDEX ix_transactions_created_at_id ON transactions (id)"))
    before = structure(fresh)
    with pytest.raises(DBAPIError):
        upgrade(fresh)
    assert structure(fresh) == before


def test_offline_sql_creates_the_same_schema(fresh: Flask, app: Flask, capsys: pytest.CaptureFixture[str]) -> None:
    upgrade(fresh, sql=True)
    script = capsys.readouterr().out
    assert structure(fresh) == []
    with fresh.app_context(), db.engine.connect().execution_options(**WRITE) as connection, connection.begin():
        for statement in script.split(";\n\n"):
            if statement.strip() not in {"", "BEGIN", "COMMIT"}:
                connection.execute(text(statement.strip().replace(":", r"\:")))
    assert structure(fresh) == structure(app)


def test_models_match_the_migrated_tables(app: Flask) -> None:
    with app.app_context(), db.engine.connect() as connection:
        options = {"compare_type": True, "include_name": lambda name, _kind, _parents: not is_optional(name)}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_models_create_the_same_tables_as_migrations(fresh: Flask, app: Flask) -> None:
    """Also compares what Alembic ignores: CHECK constraints, defaults, collations, names."""
    with fresh.app_context(), db.engine.begin() as connection:
        for table in Base.metadata.sorted_tables:
            connection.execute(CreateTable(table))
            for index in table.indexes:
                connection.execute(CreateIndex(index))

    def tables_and_indexes(app: Flask) -> Structure:
        return [
            (kind, name, sorted(parts_of(lines)))
            for kind, name, lines in structure(app)
            if kind not in {"trigger", "function"} and not is_optional(name)
        ]

    assert tables_and_indexes(fresh) == tables_and_indexes(app)


def parts_of(lines: Sequence[str]) -> Iterator[str]:
    """Columns and constraints. SQLite adds a column to the last line, and can add only virtual ones."""
    for line in lines:
        for part in line.split(", is_low") if ", is_low" in line else [line]:
            name = "is_low" if part.startswith(" BOOLEAN GENERATED") else ""
            yield f"{name}{part}".rstrip(", ").removesuffix(" STORED")


def test_every_foreign_key_has_an_index() -> None:
    tables = Base.metadata.sorted_tables
    first_columns = {
        (table.name, next(iter(part.columns)).name)
        for table in tables
        for part in [*table.indexes, *table.constraints]
        if isinstance(part, Index | UniqueConstraint | PrimaryKeyConstraint)
    }
    keys = {(key.parent.table.name, key.parent.name) for table in tables for key in table.foreign_keys}
    assert keys <= first_columns


def test_revisions_of_the_release_are_those_of_alembic() -> None:
    assert revisions.known() == tuple(REVISIONS[::-1])


def test_release_without_migrations_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "MIGRATIONS", tmp_path)
    revisions.known.cache_clear()
    with pytest.raises(ConfigError, match="no migrations"):
        create_app({"DATABASE_URL": "sqlite://"})


def test_application_has_the_commands_of_flask_migrate(app: Flask) -> None:
    assert app.test_cli_runner().invoke(args=["db", "current"]).exit_code == 0


def test_health_reports_the_database_revision(fresh: Flask) -> None:
    client = fresh.test_client()
    for before, revision in zip([None, *REVISIONS], REVISIONS, strict=False):
        answer = client.get("/health")
        assert error_of(answer) == (503, "database_unavailable")
        assert body(answer)["details"] == {"revision": before, "head": REVISIONS[-1]}
        upgrade(fresh, revision)
    answer = client.get("/health")
    assert (answer.status_code, body(answer)["revision"]) == (200, REVISIONS[-1])


@on_postgresql
def test_upgrade_without_usable_trigrams_leaves_the_index_out(fresh: Flask) -> None:
    """The extension is in a schema that the role does not search, as some providers install it."""
    with fresh.app_context(), db.engine.connect() as connection:
        connection.execute(text("CREATE SCHEMA extensions"))
        connection.execute(text("CREATE EXTENSION pg_trgm SCHEMA extensions"))
    upgrade(fresh)
    assert not any(name.endswith("_trigrams") for _kind, name, _lines in structure(fresh))
    stock_up(fresh)
    client = fresh.test_client()
    (bolt,) = listed(client.get("/products"))
    assert listed(client.get("/products", query_string={"search": bolt["name"][1:4]})) == [bolt]


@on_postgresql
def test_service_on_an_earlier_schema_reports_the_missing_migration(fresh: Flask) -> None:
    upgrade(fresh)
    stock_up(fresh)
    downgrade(fresh, "0006")
    sale = {"product_id": 1, "transaction_type": "sale", "quantity": 1}
    assert error_of(fresh.test_client().post("/transactions", json=sale)) == (503, "database_unavailable")
