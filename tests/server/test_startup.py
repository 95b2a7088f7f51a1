"""Errors at start: one clear line, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from inventory import create_app
from inventory.config import load
from inventory.database.base import db
from inventory.database.engines import WRITE, begin_migration
from inventory.errors import ConfigError
from tests.conftest import ENGINES
from tests.servers import ROOT, Gunicorn, checkout, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

UPGRADE = ["flask", "--app", "wsgi", "db", "upgrade"]
SEED = ["flask", "--app", "wsgi", "seed"]
SERVE = ["gunicorn", "wsgi:app"]

INVALID_SETTINGS = {
    ("INVENTORY_FOO", "1"): "INVENTORY_FOO: Unknown setting.",
    ("INVENTORY_THREADS", "x"): "INVENTORY_THREADS: Not a valid integer.",
    ("DATABASE_URL", "mysql://127.0.0.1/stock"): "DATABASE_URL: Must be a sqlite:///… or postgresql://… URL.",
}

pytestmark = pytest.mark.slow


def run(command: list[str], settings: Mapping[str, str], folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment to its end, with stdout and stderr combined."""
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


@pytest.mark.parametrize("command", [UPGRADE, SERVE], ids=["flask", "gunicorn"])
@pytest.mark.parametrize(("setting", "problem"), INVALID_SETTINGS.items(), ids=[name for name, _ in INVALID_SETTINGS])
def test_invalid_setting_prints_one_line_and_exits_with_2(
    command: list[str], setting: tuple[str, str], problem: str
) -> None:
    ended = run(command, dict([setting]))
    assert ended.stdout == f"inventory: cannot start: invalid setting: {problem}\n"
    assert ended.returncode == 2


@pytest.mark.parametrize(
    "url",
    ["stock", "", "postgresql+psycopg2://127.0.0.1/stock", "sqlite+aiosqlite:///stock.db", "postgresql://127.0.0.1:x/"],
)
def test_unsupported_database_url_raises_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL: Must be a sqlite"):
        load(environ={"DATABASE_URL": url})


@pytest.mark.parametrize("command", [UPGRADE, SERVE], ids=["flask", "gunicorn"])
def test_uncreatable_directory_prints_one_line_and_exits_with_2(command: list[str], tmp_path: Path) -> None:
    (checkout(tmp_path) / "instance").touch()
    ended = run(command, {}, tmp_path)
    assert ended.stdout.startswith("inventory: cannot start: cannot create the directory of the SQLite file: ")
    assert ended.stdout.count("\n") == 1
    assert ended.returncode == 2


@pytest.mark.parametrize("command", [UPGRADE, SEED], ids=["upgrade", "seed"])
def test_command_without_server_prints_one_line(command: list[str]) -> None:
    ended = run(command, {"DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/stock"})
    assert ended.stdout.startswith("Error: Database stock: connection failed: ")
    assert ended.stdout.endswith("Connection refused\n")
    assert ended.stdout.count("\n") == 1
    assert ended.returncode == 1


def test_upgrade_in_missing_directory_prints_one_line(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "inventory.db"
    ended = run(UPGRADE, {"DATABASE_URL": f"sqlite:///{path}"})
    assert ended.stdout == f"Error: Cannot create the database {path}: No such file or directory.\n"
    assert ended.returncode == 1


@pytest.mark.parametrize("command", [["seed"], ["verify"], ["export", "products"], ["db", "current"]], ids=" ".join)
def test_command_on_missing_file_suggests_upgrade_and_creates_none(command: list[str], tmp_path: Path) -> None:
    path = tmp_path / "inventory.db"
    ended = run(["flask", "--app", "wsgi", *command], {"DATABASE_URL": f"sqlite:///{path}"})
    assert ended.stdout.startswith(
        "Error: The database file does not exist. To create a database, run 'flask --app wsgi db up"
    )
    assert ended.stdout.count("\n") == 1
    assert ended.returncode in {1, 2}
    assert list(tmp_path.iterdir()) == []


def test_command_on_unmigrated_database_suggests_upgrade(empty_database_url: str) -> None:
    ended = run(SEED, {"DATABASE_URL": empty_database_url})
    assert ended.stdout == "Error: The database is not migrated. Run 'flask --app wsgi db upgrade'.\n"
    assert ended.stdout.count("\n") == 1
    assert ended.returncode == 1


def test_concurrent_upgrades_all_succeed(empty_database_url: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(lambda _: run(UPGRADE, {"DATABASE_URL": empty_database_url}), range(3)))
    assert [(replica.returncode, replica.stdout) for replica in ended] == [(0, "")] * 3


@pytest.mark.parametrize("engine_name", {"postgresql"} & set(ENGINES), indirect=True)
def test_migration_is_exempt_from_the_statement_timeout(database_url: str) -> None:
    app = create_app({"DATABASE_URL": database_url, "INVENTORY_STATEMENT_TIMEOUT_MS": 1_000})
    with app.app_context():
        with db.engine.connect().execution_options(**WRITE) as connection, connection.begin():
            begin_migration(connection)
            connection.execute(select(func.pg_sleep(1.2)))
        db.engine.dispose()


def test_gunicorn_logs_missing_authentication_at_start(server: Gunicorn) -> None:
    assert "API keys are not implemented yet: requests are not authenticated." in server.output()
