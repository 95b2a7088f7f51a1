"""A temporary directory that is full, read-only or missing: an import returns a clear error and changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from inventory import create_app
from inventory.config import load
from inventory.database.base import db
from inventory.errors import ConfigError
from tests.builders import body, nothing_changes
from tests.clients import HttpClient
from tests.import_export.files import NEW, send
from tests.reliability.test_storage import small_disk
from tests.servers import ROOT, Gunicorn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask import Flask

ROWS = 20_000
# Larger than the disks below, so that not even the file itself fits.
LARGE = NEW + "".join(f"S{number},{'Bolt' * 20},1,C\n" for number in range(ROWS))

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 1) as folder:
        yield folder


def app_with(database_url: str, folder: Path) -> Flask:
    return create_app({"DATABASE_URL": database_url, "INVENTORY_TEMP_DIR": str(folder), "TESTING": True})


def dispose(app: Flask) -> None:
    with app.app_context():
        db.engine.dispose()


def assert_no_space(response: Any) -> None:
    assert (response.status_code, body(response)["error"]) == (507, "storage_full"), response.text
    assert "temporary directory" in body(response)["message"]
    assert "INVENTORY_TEMP_DIR" in body(response)["message"]


def form(file: str) -> str:
    return f'--limit\r\nContent-Disposition: form-data; name="file"\r\n\r\n{file}\r\n--limit--\r\n'


def test_import_returns_507_when_file_does_not_fit(database_url: str, disk: Path) -> None:
    app = app_with(database_url, disk)
    with nothing_changes(app):
        assert_no_space(send(app.test_client(), LARGE))
        assert_no_space(send(app.test_client(), form(LARGE), content_type="multipart/form-data; boundary=limit"))
    assert list(disk.iterdir()) == []
    assert send(app.test_client(), f"{NEW}A,Bolt,1,C\n").status_code == 200
    dispose(app)


def test_import_returns_507_when_parsed_rows_do_not_fit(database_url: str, tmp_path: Path) -> None:
    """The file fits, but not its parsed rows in addition."""
    with small_disk(tmp_path / "disk", 3) as disk:
        app = app_with(database_url, disk)
        with nothing_changes(app):
            assert_no_space(send(app.test_client(), LARGE))
        dispose(app)


def test_import_returns_507_when_directory_becomes_read_only(database_url: str, disk: Path) -> None:
    app = app_with(database_url, disk)
    remount(disk, "ro")
    with nothing_changes(app):
        assert_no_space(send(app.test_client(), f"{NEW}A,Bolt,1,C\n"))
    remount(disk, "rw")
    assert send(app.test_client(), f"{NEW}A,Bolt,1,C\n").status_code == 200
    dispose(app)


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)


def test_import_returns_507_when_directory_is_removed(database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    app = app_with(database_url, folder)
    shutil.rmtree(folder)
    with nothing_changes(app):
        assert_no_space(send(app.test_client(), f"{NEW}A,Bolt,1,C\n"))
    dispose(app)


def test_import_command_reports_full_directory_without_traceback(database_url: str, disk: Path, tmp_path: Path) -> None:
    file = tmp_path / "large.csv"
    file.write_text(LARGE)
    ended = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "import", "products", str(file)],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database_url, "INVENTORY_TEMP_DIR": str(disk)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "temporary directory" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_client_that_is_still_sending_receives_507(database_url: str, disk: Path) -> None:
    with Gunicorn(database_url, INVENTORY_TEMP_DIR=str(disk)) as server, HttpClient(server.url) as client:
        answer = client.post_csv("/import/products", LARGE * 10)
        assert (answer.status, answer.json["error"]) == (507, "storage_full")
        assert client.post_csv("/import/products", f"{NEW}A,Bolt,1,C\n").status == 200


def test_temporary_files_are_created_only_in_configured_directory(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "space"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    app = app_with(database_url, folder)
    for content, content_type in [
        (LARGE, "text/csv"),
        (form(LARGE), "multipart/form-data; boundary=limit"),
    ]:
        response = send(app.test_client(), content, content_type=content_type)
        assert (response.status_code, body(response)["rows"]) == (200, ROWS)
    assert list(folder.iterdir()) == []
    dispose(app)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_startup_fails_when_directory_is_not_writable(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as raised:
        load(environ={"INVENTORY_TEMP_DIR": str(tmp_path / name)})
    message = str(raised.value)
    assert message.startswith("inventory: cannot start: invalid setting: INVENTORY_TEMP_DIR: ")
    assert "\n" not in message
