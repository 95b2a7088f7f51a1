"""nginx with the project's configuration in front of a service on SQLite, shared by the tests of a module."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.deploy.nginx import Nginx, require
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LISTED = "https://shop.example.com"


@pytest.fixture(scope="module")
def gunicorn(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    database = shutil.copy(sqlite_template, tmp_path_factory.mktemp("behind-nginx"))
    url = f"sqlite:///{database}"
    with Gunicorn(url, INVENTORY_CORS_ORIGINS=LISTED, INVENTORY_TRUSTED_PROXIES="1") as server:
        yield server


@pytest.fixture(scope="module")
def nginx(gunicorn: Gunicorn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("nginx"), [gunicorn.url]) as server:
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    require("openssl")
    folder = tmp_path_factory.mktemp("certificate")
    made, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=inventory", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-out", str(made), "-keyout", str(key)], check=True, capture_output=True)
    return made, key
