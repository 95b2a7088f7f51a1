"""What an operator meets when something is wrong with the start: one clear line, and no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from inventory import create_app
from inventory.config import ConfigError, load
from inventory.database.base import db
from inventory.database.engines import begin_migration
from tests.conftest import ENGINES
from tests.servers import ROOT, Gunicorn, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

UPGRADE = ["flask", "--app", "wsgi", "db", "upgrade"]
SEED = ["flask", "--app", "wsgi", "seed"]
SERVE = ["gunicorn", "wsgi:app"]

WRONG_SETTINGS = {
    ("INVENTORY_FOO", "1"): "INVENTORY_FOO: Unknown field.",
    ("INVENTORY_THREADS", "x"): "INVENTORY_THREADS: Not a whole number.",
    ("DATABASE_URL", "mysql://127.0.0.1/stock"): "DATABASE_URL: Not a sqlite:///… or postgresql://… URL.",
}


def run(command: list[str], settings: Mapping[str, str], folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment to its end; its output and its errors are one stream."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name != "DATABASE_URL" and not name.startswith("INVENTORY_")
    }
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=inherited | dict(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("command", "status"), [(UPGRADE, 2), (SERVE, 1)], ids=["flask", "gunicorn"])
@pytest.mark.parametrize(("setting", "problem"), WRONG_SETTINGS.items(), ids=[name for name, _ in WRONG_SETTINGS])
def test_a_wrong_setting_stops_the_start_with_one_line(
    command: list[str], status: int, setting: tuple[str, str], problem: str
) -> None:
    ended = run(command, dict([setting]))
    assert ended.stdout == f"inventory: cannot start, wrong setting: {problem}\n"
    assert ended.returncode == status


@pytest.mark.parametrize(
    "url",
    ["stock", "", "postgresql+psycopg2://127.0.0.1/stock", "sqlite+aiosqlite:///stock.db", "postgresql://127.0.0.1:x/"],
)
def test_a_database_url_of_another_kind_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL: Not a sqlite"):
        load(environ={"DATABASE_URL": url})


@pytest.mark.parametrize(("command", "status"), [(UPGRADE, 2), (SERVE, 1)], ids=["flask", "gunicorn"])
def test_a_folder_that_cannot_be_made_stops_the_start_with_one_line(
    command: list[str], status: int, tmp_path: Path
) -> None:
    for name in ("inventory", "migrations"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("wsgi.py", "gunicorn.conf.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "instance").touch()
    ended = run(command, {}, tmp_path)
    assert ended.stdout.startswith("inventory: cannot start, no folder for the SQLite file: ")
    assert ended.stdout.count("\n") == 1
    assert ended.returncode == status


@pytest.mark.parametrize("command", [UPGRADE, SEED], ids=["upgrade", "seed"])
def test_a_missing_server_is_said_in_one_line(command: list[str]) -> None:
    ended = run(command, {"DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/stock"})
    assert ended.stdout.startswith("Error: The database stock says: connection failed: ")
    assert ended.stdout.endswith("Connection refused\n")
    assert ended.stdout.count("\n") == 1
    assert ended.returncode == 1


@pytest.mark.parametrize("command", [UPGRADE, SEED], ids=["upgrade", "seed"])
def test_a_file_that_cannot_be_opened_is_said_in_one_line(command: list[str], tmp_path: Path) -> None:
    path = tmp_path / "missing" / "inventory.db"
    ended = run(command, {"DATABASE_URL": f"sqlite:///{path}"})
    assert ended.stdout == f"Error: The database {path} says: unable to open database file\n"
    assert ended.returncode == 1


def test_a_command_on_a_database_without_tables_tells_how_to_make_them(empty_database_url: str) -> None:
    ended = run(SEED, {"DATABASE_URL": empty_database_url})
    assert ended.stdout == "Error: The database is not migrated: run 'flask --app wsgi db upgrade'.\n"
    assert ended.stdout.count("\n") == 1
    assert ended.returncode == 1


def test_replicas_that_start_together_migrate_one_after_another(empty_database_url: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(lambda _: run(UPGRADE, {"DATABASE_URL": empty_database_url}), range(3)))
    assert [(replica.returncode, replica.stdout) for replica in ended] == [(0, "")] * 3


@pytest.mark.parametrize("engine_name", {"postgresql"} & set(ENGINES), indirect=True)
def test_a_migration_may_take_longer_than_a_request(database_url: str) -> None:
    app = create_app({"DATABASE_URL": database_url, "INVENTORY_STATEMENT_TIMEOUT_MS": 100})
    with app.app_context():
        with db.engine.begin() as connection:
            begin_migration(connection)
            connection.execute(select(func.pg_sleep(0.2)))
        db.engine.dispose()


def test_gunicorn_says_at_every_start_that_there_are_no_api_keys(server: Gunicorn) -> None:
    assert "API keys do not exist yet: every request is answered without one." in server.output()
