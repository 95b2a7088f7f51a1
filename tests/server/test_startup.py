"""Errors at start: one clear line, and no traceback."""

from __future__ import annotations

import os
import signal
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
from inventory.server.startup import warnings
from tests.conftest import ENGINES, on_postgresql
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


def test_gunicorn_warns_that_requests_are_not_authenticated(server: Gunicorn) -> None:
    assert "INVENTORY_AUTH is off: requests are not authenticated." in server.output()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_without_keys_other_addresses_than_loopback_are_refused(address: str, database_url: str) -> None:
    ended = run([*SERVE, "-b", "127.0.0.1:0", "-b", address], {"DATABASE_URL": database_url, "INVENTORY_AUTH": "off"})
    assert "INVENTORY_AUTH=off is refused on" in ended.stdout
    assert "Booting worker" not in ended.stdout
    assert ended.returncode == 2


def test_without_keys_unix_socket_is_served(database_url: str, tmp_path: Path) -> None:
    socket_path = tmp_path / "socket"
    with Gunicorn(database_url, addresses=[f"unix:{socket_path}"]):
        assert socket_path.is_socket()


def test_keys_without_pepper_print_one_line_and_exit_with_2(database_url: str) -> None:
    ended = run(SERVE, {"DATABASE_URL": database_url})
    assert ended.stdout.startswith("inventory: INVENTORY_KEY_PEPPER is required for API keys.")
    assert ended.stdout.count("\n") == 1
    assert ended.returncode == 2


def test_other_servers_require_the_pepper_too(database_url: str) -> None:
    ended = run(["wsgi"], {"DATABASE_URL": database_url})
    assert ended.stdout.startswith("inventory: INVENTORY_KEY_PEPPER is required for API keys.")
    assert ended.returncode == 2


def test_commands_without_keys_need_no_pepper(empty_database_url: str) -> None:
    assert run(UPGRADE, {"DATABASE_URL": empty_database_url}).returncode == 0


def test_reload_to_an_exposed_service_without_keys_ends_it(database_url: str, tmp_path: Path) -> None:
    """The settings of a running master change only with its configuration file."""
    folder = checkout(tmp_path)
    with Gunicorn(
        database_url,
        folder=folder,
        addresses=["0.0.0.0:0"],
        INVENTORY_AUTH="keys",
        INVENTORY_KEY_PEPPER="a pepper for tests, which is long enough",
    ) as server:
        configuration = folder / "gunicorn.conf.py"
        configuration.write_text('import os\nos.environ["INVENTORY_AUTH"] = "off"\n' + configuration.read_text())
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(60) == 2
        assert "INVENTORY_AUTH=off is refused on 0.0.0.0" in server.output()


def start_warning(database_url: str) -> str:
    app = create_app({"DATABASE_URL": database_url, "INVENTORY_AUTH": "keys", "INVENTORY_KEY_PEPPER": "x" * 32})
    (warning,) = warnings(app)
    with app.app_context():
        db.engine.dispose()
    return warning


def test_start_warns_of_an_unmigrated_database(empty_database_url: str) -> None:
    assert start_warning(empty_database_url) == (
        "The database cannot be used. The database is not migrated. Run 'flask --app wsgi db upgrade'."
    )


@on_postgresql
def test_start_warns_of_a_database_that_does_not_exist(empty_database_url: str) -> None:
    warning = start_warning(f"{empty_database_url}_missing")
    assert warning.endswith('failed: FATAL:  database "…" does not exist')


def test_start_warns_of_an_unreachable_database() -> None:
    warning = start_warning(f"postgresql://127.0.0.1:{free_port()}/stock")
    assert warning.startswith("The database cannot be used. OperationalError: connection failed")
