"""flask backup and flask restore: files, errors, and no data loss."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from inventory import create_app
from inventory.cli import backups
from inventory.database import sqlite
from inventory.database.base import db, engine_of
from inventory.database.sqlite_file import with_suffix
from tests.builders import assert_ledger_is_consistent, product, transaction
from tests.conftest import on_sqlite
from tests.server.test_startup import run as run_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result
    from flask import Flask
    from flask.testing import FlaskClient

    from tests.environments import Environment

pytestmark = [on_sqlite, pytest.mark.usefixtures("engine_name")]
FLASK = ["flask", "--app", "wsgi"]


@pytest.fixture
def environment(own_environment: Environment) -> Environment:
    return own_environment


@pytest.fixture
def database(database_url: str) -> Path:
    return Path(database_url.removeprefix("sqlite:///"))


def run(app: Flask, *arguments: str | Path) -> Result:
    """Run a command in this process. Its own connections are closed first, since they would hold locks."""
    engine_of(app).dispose()
    return app.test_cli_runner().invoke(args=[str(argument) for argument in arguments])


def done(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def refused(result: Result) -> str:
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert "Traceback" not in result.stderr
    return result.stderr


def rows(path: Path) -> int:
    with closing(sqlite.connect(path, mode="ro")) as connection:
        count: int = connection.execute("SELECT COUNT(*) FROM transactions").fetchone()[0]
        return count


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def copy(app: Flask, client: FlaskClient, tmp_path: Path) -> Path:
    """A backup of a database with one product and two rows; the database has a third row."""
    bolt = product(client, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 1)
    path = tmp_path / "copy.db"
    done(run(app, "backup", path, "--json"))
    transaction(client, bolt, "sale", 2)
    return path


@pytest.fixture
def link(database: Path, tmp_path: Path) -> Path:
    """A link to the database in another directory."""
    (tmp_path / "links").mkdir()
    path = tmp_path / "links" / "stock.db"
    path.symlink_to(database)
    return path


# flask backup


def test_backup_prints_the_path_as_given(app: Flask, tmp_path: Path) -> None:
    (tmp_path / "Backups").mkdir()
    result = run(app, "backup", tmp_path / "Backups" / "Monday.db")
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"file: {tmp_path / 'Backups' / 'Monday.db'}, " in result.stdout


def test_backup_contains_all_committed_transactions(app: Flask, client: FlaskClient, tmp_path: Path) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    transaction(client, bolt, "sale", 1)
    report = done(run(app, "backup", tmp_path / "copy.db", "--json"))
    other = create_app({"DATABASE_URL": f"sqlite:///{tmp_path / 'copy.db'}"})
    assert other.test_client().get(f"/products/{bolt}").get_json()["quantity_on_hand"] == 9
    assert_ledger_is_consistent(other)
    engine_of(other).dispose()
    assert (report["products"], report["transactions"]) == (1, 2)
    assert report.keys() == {"file", "bytes", "products", "transactions", "revision", "seconds"}
    assert report["bytes"] == (tmp_path / "copy.db").stat().st_size


def test_backup_is_a_single_file_with_mode_0600(app: Flask, copy: Path, database: Path) -> None:
    engine_of(app).dispose()
    assert names(copy.parent) == {copy.name, database.name}
    assert mode(copy) == 0o600


def test_backup_requires_force_to_overwrite(app: Flask, copy: Path) -> None:
    before = copy.read_bytes()
    assert "already exists" in refused(run(app, "backup", copy))
    assert copy.read_bytes() == before
    assert done(run(app, "backup", copy, "--force", "--json"))["transactions"] == 3


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_backup_refuses_to_overwrite_its_own_database(app: Flask, database: Path, suffix: str) -> None:
    before = database.read_bytes()
    target = with_suffix(database, suffix)
    assert "is a file of the database itself" in refused(run(app, "backup", target, "--force"))
    assert database.read_bytes() == before


def test_backup_through_a_link_refuses_the_files_of_the_database(
    client: FlaskClient, database: Path, link: Path
) -> None:
    product(client)  # this process keeps its connection, and the -wal
    log = with_suffix(database, "-wal").read_bytes()
    linked = create_app({"DATABASE_URL": f"sqlite:///{link}"}).test_cli_runner()
    refusal = linked.invoke(args=["backup", f"{database}-wal", "--force"])
    assert "is a file of the database itself" in refused(refusal)
    assert with_suffix(database, "-wal").read_bytes() == log


def test_restore_through_a_link_replaces_the_file_and_keeps_the_link(
    app: Flask, copy: Path, database: Path, link: Path
) -> None:
    engine_of(app).dispose()
    linked = create_app({"DATABASE_URL": f"sqlite:///{link}"})
    report = done(run(linked, "restore", copy, "--json"))
    assert (link.is_symlink(), rows(database), rows(Path(report["replaced"]))) == (True, 2, 3)
    assert Path(report["replaced"]).parent == database.parent


def test_backup_refused_beside_the_wal_of_another_file(app: Flask, copy: Path) -> None:
    log = copy.with_name(f"{copy.name}-wal")
    log.write_text("pages of another copy")
    assert "belongs to another database" in refused(run(app, "backup", copy, "--force"))


@pytest.mark.usefixtures("copy")
def test_backup_of_inconsistent_ledger_fails_and_leaves_no_file(app: Flask, tmp_path: Path) -> None:
    with app.app_context():
        db.session.execute(text("PRAGMA ignore_check_constraints = ON"))
        for (name,) in db.session.execute(text("SELECT name FROM sqlite_schema WHERE type = 'trigger'")).all():
            db.session.execute(text(f"DROP TRIGGER {name}"))
        db.session.execute(text("UPDATE products SET quantity_on_hand = 99"))
        db.session.commit()
    before = names(tmp_path)
    assert "quantity_on_hand is 99" in refused(run(app, "backup", tmp_path / "other.db"))
    assert names(tmp_path) <= before


def test_backup_of_missing_database_fails_and_creates_none(tmp_path: Path) -> None:
    app = create_app({"DATABASE_URL": f"sqlite:///{tmp_path / 'none.db'}"})
    assert "The database file does not exist" in refused(run(app, "backup", tmp_path / "copy.db"))
    assert names(tmp_path) == set()


def test_backup_to_missing_directory_fails(app: Flask, tmp_path: Path) -> None:
    assert "Cannot write in" in refused(run(app, "backup", tmp_path / "missing" / "copy.db"))


def test_backup_of_in_memory_database_is_a_usage_error(tmp_path: Path) -> None:
    result = run(create_app({"DATABASE_URL": "sqlite://"}), "backup", tmp_path / "copy.db")
    assert (result.exit_code, result.stderr) == (2, "Error: An in-memory database cannot be copied.\n")


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_backup_and_restore_on_postgresql_point_to_pg_dump(copy: Path, command: str) -> None:
    result = run(create_app({"DATABASE_URL": "postgresql://127.0.0.1:1/stock"}), command, copy)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: This command is for SQLite. For PostgreSQL use pg_dump and pg_restore")


# flask restore


def test_restore_replaces_the_database_and_keeps_the_old_file(app: Flask, copy: Path, database: Path) -> None:
    report = done(run(app, "restore", copy, "--json"))
    aside = database.with_name(report["replaced"].rpartition("/")[2])
    assert (rows(database), rows(aside)) == (2, 3)
    assert (report["transactions"], report["needs_upgrade"]) == (2, False)
    assert mode(database) == 0o600
    again = create_app({"DATABASE_URL": app.config["DATABASE_URL"]})
    assert_ledger_is_consistent(again)
    engine_of(again).dispose()


def test_restore_creates_a_missing_database(app: Flask, copy: Path, database: Path) -> None:
    engine_of(app).dispose()
    database.unlink()
    other = create_app({"DATABASE_URL": app.config["DATABASE_URL"]})
    assert done(run(other, "restore", copy, "--json"))["replaced"] is None
    assert rows(database) == 2


def test_restore_includes_the_wal_of_the_backup(app: Flask, copy: Path, database: Path) -> None:
    shutil.copy(database, copy)
    shutil.copy(f"{database}-wal", f"{copy}-wal")
    assert done(run(app, "restore", copy, "--json"))["transactions"] == 3


def leave_wal(app: Flask, database: Path, folder: Path) -> None:
    """Leave the database as a killed service does: with changes that are only in its -wal."""
    with engine_of(app).connect() as connection:
        assert connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0] == 0
        connection.exec_driver_sql("UPDATE categories SET description = 'only in the wal'")
        connection.commit()
        shutil.copy(database, folder / "killed.db")
        shutil.copy(f"{database}-wal", folder / "killed.db-wal")
    engine_of(app).dispose()
    (folder / "killed.db").replace(database)
    (folder / "killed.db-wal").replace(f"{database}-wal")


def description(path: Path) -> str:
    with closing(sqlite.connect(path, mode="rw")) as connection:
        found: str = connection.execute("SELECT description FROM categories").fetchone()[0]
        return found


def test_restore_keeps_wal_content_with_the_old_file(app: Flask, copy: Path, database: Path, tmp_path: Path) -> None:
    leave_wal(app, database, tmp_path)
    report = done(run(create_app({"DATABASE_URL": app.config["DATABASE_URL"]}), "restore", copy, "--json"))
    assert description(tmp_path / report["replaced"]) == "only in the wal"
    assert description(database) != "only in the wal"


@pytest.mark.slow
@pytest.mark.parametrize("steps", range(5))
def test_interrupted_restore_loses_no_data_and_can_be_repeated(
    app: Flask, copy: Path, database: Path, tmp_path: Path, steps: int
) -> None:
    """After every step the path has a complete database, or none, and then the old one is complete beside it."""
    leave_wal(app, database, tmp_path)
    new, aside = tmp_path / "new.db", tmp_path / "aside.db"
    shutil.copy(copy, new)
    list(islice(backups.replace_steps(new, database, aside), steps))
    if database.exists():
        assert (description(database) == "only in the wal") == (steps < 4)
    else:
        assert run_alone([*FLASK, "verify"], {"DATABASE_URL": f"sqlite:///{database}"}).returncode == 2
    if not database.exists() or steps == 4:
        assert description(aside) == "only in the wal"
    other = create_app({"DATABASE_URL": app.config["DATABASE_URL"]})
    assert done(run(other, "restore", copy, "--json"))["transactions"] == 2
    assert_ledger_is_consistent(other)
    engine_of(other).dispose()


def test_restore_that_fails_midway_names_the_old_file(
    app: Flask, copy: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def rename_only_the_old_file(path: Path, target: Path) -> Path:
        if path != database:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_only_the_old_file)
    failed = run(app, "restore", copy)
    (old,) = database.parent.glob("*.replaced-*Z")
    assert failed.exit_code == 1
    assert failed.stderr == (
        f"Error: Cannot complete the restore: Input/output error. The old database is now {old}. Run the restore again,"
        " or rename that file and its -wal back.\n"
    )
    assert (rows(old), database.exists()) == (3, False)
    monkeypatch.undo()
    assert done(run(create_app({"DATABASE_URL": app.config["DATABASE_URL"]}), "restore", copy, "--json"))
    assert rows(database) == 2


@pytest.mark.slow
def test_restore_refused_while_another_process_uses_the_database(
    client: FlaskClient, copy: Path, database: Path
) -> None:
    client.get("/products")  # this process keeps its connection
    ended = run_alone([*FLASK, "restore", str(copy)], {"DATABASE_URL": f"sqlite:///{database}"})
    assert ended.stdout == f"Error: {database} is in use. Stop the service and all flask commands first.\n"
    assert ended.returncode == 1
    assert rows(database) == 3


def garbled(copy: Path) -> None:
    copy.write_text("no pages of a database " * 1_000)


def truncated(copy: Path) -> None:
    os.truncate(copy, copy.stat().st_size // 2)


def edited(statement: str) -> Callable[[Path], None]:
    def edit(copy: Path) -> None:
        with closing(sqlite.connect(copy, mode="rw")) as connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute(statement)

    return edit


INVALID: dict[str, tuple[Callable[[Path], None], str]] = {
    "not a database": (garbled, "file is not a database"),
    "truncated": (truncated, "malformed"),
    "stock that differs from the ledger": (edited("UPDATE products SET quantity_on_hand = 4"), "quantity_on_hand is 4"),
    "dangling foreign key": (edited("DELETE FROM categories"), "refers to a missing row"),
    "newer revision": (edited("UPDATE alembic_version SET version_num = '9999'"), "Update the service first"),
    "database of another program": (edited("DROP TABLE alembic_version"), "not a database of this service"),
}


@pytest.mark.parametrize("case", INVALID)
def test_restore_of_invalid_file_fails_and_changes_nothing(app: Flask, copy: Path, database: Path, case: str) -> None:
    spoil, problem = INVALID[case]
    spoil(copy)
    engine_of(app).dispose()
    before, present = database.read_bytes(), names(database.parent)
    assert problem in refused(run(app, "restore", copy))
    assert database.read_bytes() == before
    assert names(database.parent) == present


def test_restore_of_older_revision_reports_needs_upgrade(app: Flask, copy: Path) -> None:
    edited("UPDATE alembic_version SET version_num = '0001'")(copy)
    result = run(app, "restore", copy, "--json")
    assert done(result)["needs_upgrade"] is True
    assert "flask --app wsgi db upgrade" in result.stderr


def test_restore_from_the_database_itself_fails(app: Flask, database: Path) -> None:
    assert "is the database itself" in refused(run(app, "restore", database))


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    before = path.read_bytes()
    yield
    assert path.read_bytes() == before


def test_restore_does_not_modify_the_backup(app: Flask, copy: Path) -> None:
    with unchanged(copy):
        done(run(app, "restore", copy, "--json"))
