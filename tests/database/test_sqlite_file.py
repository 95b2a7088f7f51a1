"""The SQLite database file: permissions, creation only by migrations, detection of displaced and corrupt files."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url, text

from inventory import create_app
from inventory.database.base import db, engine_of
from inventory.database.sqlite_file import WatchedFile, existing, path_of, with_suffix
from tests.builders import body, category, error_of, nothing_changes, product, transaction
from tests.commands import flask
from tests.conftest import on_sqlite
from tests.server.test_startup import SERVE, UPGRADE, run
from tests.servers import Gunicorn
from tests.statements import watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from flask.testing import FlaskClient

    from tests.environments import Environment

pytestmark = [on_sqlite, pytest.mark.usefixtures("engine_name")]
UNAVAILABLE = (503, "database_unavailable")


@pytest.fixture
def environment(own_environment: Environment) -> Environment:
    return own_environment


@pytest.fixture
def database(database_url: str) -> Path:
    return Path(database_url.removeprefix("sqlite:///"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Creation


@pytest.mark.slow
def test_new_database_and_wal_have_mode_0600(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'inventory.db'}"
    assert run(UPGRADE, {"DATABASE_URL": url}).returncode == 0
    app = create_app({"DATABASE_URL": url})
    category(app.test_client())
    assert {name: mode(tmp_path / name) for name in names(tmp_path)} == dict.fromkeys(
        ["inventory.db", "inventory.db-wal", "inventory.db-shm"], 0o600
    )
    engine_of(app).dispose()


def test_request_does_not_create_a_database(tmp_path: Path) -> None:
    client = create_app({"DATABASE_URL": f"sqlite:///{tmp_path / 'inventory.db'}"}).test_client()
    for answer in (client.post("/categories", json={"name": "Tools"}), client.get("/health")):
        assert error_of(answer) == UNAVAILABLE
        assert "flask --app wsgi db upgrade" in body(answer)["message"]
    assert names(tmp_path) == set()


@pytest.mark.slow
def test_migration_refused_beside_an_orphaned_wal(tmp_path: Path) -> None:
    """SQLite would delete the WAL and the transactions in it."""
    (tmp_path / "inventory.db-wal").write_text("pages")
    ended = run(UPGRADE, {"DATABASE_URL": f"sqlite:///{tmp_path / 'inventory.db'}"})
    assert ended.returncode == 1
    assert "put the file and its -wal back" in ended.stdout
    assert names(tmp_path) == {"inventory.db-wal"}


@pytest.mark.slow
def test_migration_refused_after_an_interrupted_restore(tmp_path: Path) -> None:
    """An empty database would hide that the old one is still there."""
    replaced = tmp_path / "inventory.db.replaced-20261121T204150.519586Z"
    replaced.touch()
    ended = run(UPGRADE, {"DATABASE_URL": f"sqlite:///{tmp_path / 'inventory.db'}"})
    assert ended.returncode == 1
    assert f"a restore has renamed it to {replaced}. Run the restore again" in ended.stdout
    assert names(tmp_path) == {replaced.name}


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////data/a b.db",
        "sqlite:///file:/data/a%20b.db?uri=true",
        "sqlite:///file:///data/a%20b.db?mode=rw&uri=true",
        "sqlite:///file://localhost/data/a%20b.db?uri=true",
    ],
)
def test_file_of_an_sqlite_url(url: str) -> None:
    assert path_of(make_url(url)) == Path("/data/a b.db")


@pytest.mark.parametrize(
    ("name", "is_uri", "uri"),
    [
        ("/data/a b?.db", False, "file:/data/a%20b%3F.db?mode=rw"),
        ("file:/data/a.db", True, "file:/data/a.db?mode=rw"),
        ("file:/data/a.db?mode=rwc", True, "file:/data/a.db?mode=rw"),
        ("file:/data/a.db?mode=ro&nolock=1", True, "file:/data/a.db?mode=ro&nolock=1"),
    ],
)
def test_existing_builds_a_uri_that_creates_no_file(name: str, is_uri: bool, uri: str) -> None:
    assert existing(name, is_uri=is_uri) == uri


@pytest.mark.slow
def test_file_name_with_uri_characters_works(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/50%25 & more#1.db"
    assert run(UPGRADE, {"DATABASE_URL": url}).returncode == 0
    assert len(names(tmp_path)) == 1
    app = create_app({"DATABASE_URL": url})
    assert app.test_client().get("/health").status_code == 200
    engine_of(app).dispose()


# Displacement


def move(path: Path) -> Callable[[], object]:
    aside = path.rename(with_suffix(path, ".aside"))
    return lambda: aside.rename(path)


def replace(path: Path) -> Callable[[], object]:
    aside = path.rename(with_suffix(path, ".aside"))
    shutil.copy(aside, path)
    return lambda: aside.replace(path)


def displace_wal(path: Path) -> Callable[[], object]:
    """The content is kept under another name."""
    return move(with_suffix(path, "-wal"))


DISPLACED = pytest.mark.parametrize("displace", [move, replace, displace_wal])


@DISPLACED
def test_requests_return_503_while_the_file_is_displaced(
    app: Flask, client: FlaskClient, database: Path, displace: Callable[[Path], Callable[[], object]]
) -> None:
    bolt = product(client, quantity_on_hand=10)["id"]
    with nothing_changes(app):
        put_back = displace(database)
        sale = {"product_id": bolt, "transaction_type": "sale", "quantity": 1}
        answers = [client.post("/transactions", json=sale), client.get("/products"), client.get("/health")]
        put_back()
    assert [error_of(answer) for answer in answers] == [UNAVAILABLE] * 3
    assert client.get("/health").status_code == 200
    transaction(client, bolt, "sale", 1)


@DISPLACED
def test_write_returns_503_when_the_file_is_displaced_midway(
    app: Flask, client: FlaskClient, database: Path, displace: Callable[[Path], Callable[[], object]]
) -> None:
    """The write may or may not be in the file. A retry with the same key is safe."""
    bolt = product(client, quantity_on_hand=10)["id"]
    sale = {"product_id": bolt, "transaction_type": "sale", "quantity": 1}
    key = {"Idempotency-Key": "k"}
    put_back: list[Callable[[], object]] = []

    def displace_once(statement: str, _parameters: object) -> None:
        if "INSERT INTO transactions" in statement and not put_back:
            put_back.append(displace(database))

    with watched(app, after=displace_once):
        response = client.post("/transactions", json=sale, headers=key)
    assert error_of(response) == UNAVAILABLE
    assert "Retry with the same Idempotency-Key" in body(response)["message"]
    put_back[0]()
    again = client.post("/transactions", json=sale, headers=key)
    assert (again.status_code, body(again)["balance_after"]) == (201, 9)


def test_displaced_file_is_logged_once_when_lost_and_when_back(
    client: FlaskClient, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client.get("/products")
    put_back = move(database)
    for _ in range(5):
        client.get("/products")
    put_back()
    for _ in range(5):
        client.get("/products")
    said = [(record.levelno, record.getMessage()) for record in caplog.records if str(database) in record.getMessage()]
    assert [level for level, _words in said] == [logging.CRITICAL, logging.WARNING]
    assert "Put the file and its -wal back" in said[0][1]


def test_late_thread_with_outdated_check_logs_nothing(
    client: FlaskClient, database: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.get("/products")
    put_back = move(database)
    client.get("/products")
    said = len(caplog.records)
    views = iter([False])
    truly = WatchedFile.is_elsewhere
    monkeypatch.setattr(WatchedFile, "is_elsewhere", lambda watched: next(views, None) is not False and truly(watched))
    assert client.get("/products").status_code == 200  # its check preceded the displacement
    assert caplog.records[said:] == []
    put_back()


def test_file_replaced_without_open_connections_is_detected(app: Flask, client: FlaskClient, database: Path) -> None:
    client.get("/products")
    engine_of(app).dispose()
    put_back = replace(database)
    assert error_of(client.get("/products")) == UNAVAILABLE
    put_back()
    assert client.get("/products").status_code == 200


# Corruption


def overwrite_from_page(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(os.urandom(path.stat().st_size - file.tell()))


def test_corrupt_file_returns_503_and_logs_restore_command(
    app: Flask, client: FlaskClient, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    product(client)
    engine_of(app).dispose()
    overwrite_from_page(database, 2)
    response = client.get("/products")
    assert error_of(response) == UNAVAILABLE
    assert "corrupt" in body(response)["message"]
    assert "flask --app wsgi restore FILE" in caplog.records[-1].__dict__["data"]["advice"]


def test_verify_reports_a_corrupt_file(app: Flask, client: FlaskClient, database: Path) -> None:
    product(client, quantity_on_hand=5)
    roots = "SELECT rootpage FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'categories' LIMIT 1"
    with engine_of(app).connect() as connection:
        index = connection.execute(text(roots)).scalar_one()
    engine_of(app).dispose()
    with database.open("r+b") as file:
        file.seek(4096 * (index - 1))
        file.write(bytes(4096))
    result = app.test_cli_runner().invoke(args=["verify"])
    assert result.exit_code == 1, result.output
    assert result.stdout.startswith("database file: ")


# Start and stop of the service


@pytest.fixture
def foreign_log(app: Flask, client: FlaskClient, database: Path) -> bytes:
    """The naive restore: kill the service and copy an older file over its database. Returns the -wal left there."""
    old = with_suffix(database, ".old")
    for _ in range(20):
        product(client)
    with app.app_context():
        db.engine.raw_connection().execute("VACUUM INTO ?", [str(old)])
    for _ in range(20):
        product(client, quantity_on_hand=3)
    log = with_suffix(database, "-wal").read_bytes()
    engine_of(app).dispose()
    old.replace(database)
    with_suffix(database, "-wal").write_bytes(log)
    return log


FLASK = ["flask", "--app", "wsgi"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "status"),
    [(SERVE, 2), (UPGRADE, 1), ([*FLASK, "verify"], 2), ([*FLASK, "seed"], 1), ([*FLASK, "backup", "copy.db"], 1)],
    ids=["serve", "upgrade", "verify", "seed", "backup"],
)
@pytest.mark.parametrize("linked", [False, True])
def test_file_with_the_wal_of_another_is_refused_and_kept(
    database: Path, foreign_log: bytes, command: list[str], status: int, *, linked: bool
) -> None:
    before, url = database.read_bytes(), f"sqlite:///{database}"
    if linked:
        with_suffix(database, ".link").symlink_to(database)
        url += ".link"
    ended = run(command, {"DATABASE_URL": url, "INVENTORY_AUTH": "off"})
    assert (ended.returncode, "Traceback" in ended.stdout) == (status, False), ended.stdout
    assert f"{database} and its -wal do not belong together. " in ended.stdout
    assert "flask --app wsgi restore" in ended.stdout
    assert (database.read_bytes(), with_suffix(database, "-wal").read_bytes()) == (before, foreign_log)


@pytest.mark.slow
def test_start_recovers_the_wal_of_a_killed_service(database_url: str, database: Path) -> None:
    with Gunicorn(database_url) as server:
        app = create_app({"DATABASE_URL": database_url})
        made = category(app.test_client())
        files = {suffix: with_suffix(database, suffix).read_bytes() for suffix in ("", "-wal")}
        assert server.process.poll() is None
    engine_of(app).dispose()
    for suffix, content in files.items():
        with_suffix(database, suffix).write_bytes(content)
    with Gunicorn(database_url):
        other = create_app({"DATABASE_URL": database_url})
        assert other.test_client().get(f"/categories/{made['id']}").status_code == 200
        engine_of(other).dispose()


@pytest.mark.slow
def test_restore_refused_while_an_idle_worker_runs(database_url: str, tmp_path: Path) -> None:
    backup = tmp_path / "copy.db"
    flask(database_url, "backup", str(backup))
    with Gunicorn(database_url, workers=1):
        ended = run(["flask", "--app", "wsgi", "restore", str(backup)], {"DATABASE_URL": database_url})
    assert (ended.returncode, "is in use" in ended.stdout) == (1, True)


@pytest.mark.slow
def test_start_without_database_is_logged(tmp_path: Path) -> None:
    with Gunicorn(f"sqlite:///{tmp_path / 'inventory.db'}", workers=1) as server:
        said = server.output()
    assert "The database file does not exist." in said


@pytest.mark.slow
def test_command_leaves_no_wal_behind(database_url: str, database: Path) -> None:
    flask(database_url, "seed")
    assert names(database.parent) == {database.name}
