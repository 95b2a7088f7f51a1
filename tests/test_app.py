from __future__ import annotations

import os
import socket
import subprocess
import sys
import tomllib
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest
from click import Context

from inventory import create_app
from inventory.database.base import db
from tests.builders import body, category, error_of, listed, product
from tests.clients import HttpClient
from tests.conftest import migrate
from tests.servers import ROOT, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient

    from tests.environments import Environment
    from tests.servers import Gunicorn


@pytest.fixture
def environment(own_environment: Environment) -> Environment:
    return own_environment


def test_create_app_opens_no_database_connection() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0)
        create_app({"DATABASE_URL": f"postgresql://127.0.0.1:{listener.getsockname()[1]}/stock"})
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_service_starts_without_what_only_commands_need() -> None:
    script = "import sys, wsgi; print(*sys.modules)"
    environment = os.environ | {"INVENTORY_AUTH": "off", "DATABASE_URL": "sqlite://"}
    output = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, env=environment, text=True)
    assert {"alembic", "flask_migrate", "inventory.cli.commands", "opentelemetry"} & set(output.split()) == set()


def test_commands_are_listed_and_found_when_they_are_looked_up() -> None:
    commands = create_app({"DATABASE_URL": "sqlite://"}).cli
    context = Context(commands)
    listed = commands.list_commands(context)
    assert {"backup", "db", "export", "import", "keys", "restore", "seed", "verify"} <= set(listed)
    assert all(commands.get_command(context, name) for name in listed)
    assert commands.get_command(context, "nosuch") is None


def test_create_app_creates_no_database_file(tmp_path: Path) -> None:
    create_app({"DATABASE_URL": f"sqlite:///{tmp_path / 'inventory.db'}"})
    assert list(tmp_path.iterdir()) == []


def test_two_apps_in_one_process_use_separate_databases(app: Flask, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    migrate(url)
    other = create_app({"DATABASE_URL": url})
    category(app.test_client(), name="Here")
    assert listed(other.test_client().get("/categories")) == []
    assert len(listed(app.test_client().get("/categories"))) == 1
    with other.app_context():
        db.engine.dispose()


@pytest.mark.slow
def test_importing_wsgi_creates_the_app(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import wsgi; print(wsgi.app.name)"],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": f"sqlite:///{tmp_path / 'inventory.db'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == ("inventory\n", "")


def test_root_returns_name_version_and_links(client: FlaskClient) -> None:
    root = body(client.get("/"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (root["name"], root["version"]) == ("Inventory", version)
    for name in ("docs", "openapi"):
        assert client.get(root[name], follow_redirects=True).status_code == 200


def test_health_returns_ok_with_database_and_pool(client: FlaskClient, engine_name: str) -> None:
    answer = client.get("/health")
    health = body(answer)
    assert (answer.status_code, health["status"]) == (200, "ok")
    assert health["database"].startswith({"sqlite": "SQLite 3.", "postgresql": "PostgreSQL "}[engine_name])
    assert 1 <= health["pool"]["in_use"] <= health["pool"]["size"] == 4
    assert body(client.get("/health/live")) == {"status": "ok"}


def unreachable(kind: str, folder: Path) -> str:
    match kind:
        case "no server":
            return f"postgresql://127.0.0.1:{free_port()}/stock"
        case "no folder":
            return f"sqlite:///{folder / 'missing' / 'inventory.db'}"
        case _:
            (folder / "inventory.db").write_text("This is a text file, and by no means a database of SQLite's. " * 40)
            return f"sqlite:///{folder / 'inventory.db'}"


@pytest.mark.parametrize("kind", ["no server", "no folder", "no database"])
def test_unreachable_database_returns_503_except_liveness_and_docs(kind: str, tmp_path: Path) -> None:
    client = create_app({"DATABASE_URL": unreachable(kind, tmp_path)}).test_client()
    new = {"name": "Tools"}
    answers = [client.get("/health"), client.get("/products"), client.post("/categories", json=new)]
    for answer in answers:
        assert error_of(answer) == (503, "database_unavailable")
        assert answer.headers["Retry-After"].isdecimal()
    assert [client.get(path).status_code for path in ("/health/live", "/", "/openapi.json")] == [200] * 3


def test_unhandled_exception_returns_500_without_its_message(app: Flask) -> None:
    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("secret")

    answer = app.test_client().get("/broken")
    assert error_of(answer) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_unknown_path_returns_404_and_wrong_method_405(client: FlaskClient) -> None:
    for path in ("/nothing", "/products/x", "/product", "/categories/1/products"):
        assert error_of(client.get(path)) == (404, "not_found")
    for path in ("/", "/health", "/health/live", "/products/low-stock"):
        answer = client.post(path, json={})
        assert error_of(answer) == (405, "method_not_allowed")
        assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_trailing_slash_is_accepted(client: FlaskClient) -> None:
    bolt = product(client)
    for path in ("/products", f"/products/{bolt['id']}", "/categories", "/transactions", "/health"):
        assert client.get(f"{path}/").json == client.get(path).json


@pytest.mark.slow
def test_gunicorn_serves_requests_and_exits_cleanly(server: Gunicorn) -> None:
    with HttpClient(server.url) as client:
        assert client.get("/health").json["status"] == "ok"
        created = client.post("/categories", {"name": "Tools"})
        assert (created.status, client.get(created.headers["Location"]).status) == (HTTPStatus.CREATED, HTTPStatus.OK)
        assert client.get("/nothing").json["error"] == "not_found"
    server.stop()
    assert server.process.returncode == 0
    assert "Traceback" not in server.output()
