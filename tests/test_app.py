from __future__ import annotations

import os
import socket
import subprocess
import sys
import tomllib
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from inventory import create_app
from inventory.database.base import db
from tests.builders import body, category, listed, product, refusal
from tests.clients import HttpClient
from tests.conftest import migrate
from tests.servers import ROOT, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient

    from tests.servers import Gunicorn


def test_making_the_application_opens_no_connection_to_a_server() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0)
        create_app({"DATABASE_URL": f"postgresql://127.0.0.1:{listener.getsockname()[1]}/stock"})
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_making_the_application_opens_no_file(tmp_path: Path) -> None:
    create_app({"DATABASE_URL": f"sqlite:///{tmp_path / 'inventory.db'}"})
    assert list(tmp_path.iterdir()) == []


def test_two_applications_in_one_process_keep_to_their_own_databases(app: Flask, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    migrate(url)
    other = create_app({"DATABASE_URL": url})
    category(app.test_client(), name="Here")
    assert listed(other.test_client().get("/categories")) == []
    assert len(listed(app.test_client().get("/categories"))) == 1
    with other.app_context():
        db.engine.dispose()


def test_importing_wsgi_makes_the_application(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import wsgi; print(wsgi.app.name)"],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": f"sqlite:///{tmp_path / 'inventory.db'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == ("inventory\n", "")


def test_welcome_names_the_service_its_version_and_where_to_go_on(client: FlaskClient) -> None:
    welcome = body(client.get("/"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (welcome["name"], welcome["version"]) == ("Inventory", version)
    for name in ("docs", "openapi"):
        assert client.get(welcome[name], follow_redirects=True).status_code == 200


def test_health_of_a_sound_service(client: FlaskClient, engine_name: str) -> None:
    answer = client.get("/health")
    health = body(answer)
    assert (answer.status_code, health["status"]) == (200, "ok")
    assert health["database"].startswith({"sqlite": "SQLite 3.", "postgresql": "PostgreSQL "}[engine_name])
    assert 1 <= health["pool"]["in_use"] <= health["pool"]["size"] == 8
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
def test_without_a_database_all_but_the_process_is_unavailable(kind: str, tmp_path: Path) -> None:
    client = create_app({"DATABASE_URL": unreachable(kind, tmp_path)}).test_client()
    new = {"name": "Tools"}
    answers = [client.get("/health"), client.get("/products"), client.post("/categories", json=new)]
    for answer in answers:
        assert refusal(answer) == (503, "database_unavailable")
        assert answer.headers["Retry-After"].isdecimal()
    assert [client.get(address).status_code for address in ("/health/live", "/", "/openapi.json")] == [200] * 3


def test_fault_of_our_own_is_said_without_its_words(app: Flask) -> None:
    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("secret")

    answer = app.test_client().get("/broken")
    assert refusal(answer) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_unknown_address_and_method_are_refused_in_the_envelope(client: FlaskClient) -> None:
    for address in ("/nothing", "/products/x", "/product", "/categories/1/products"):
        assert refusal(client.get(address)) == (404, "not_found")
    for address in ("/", "/health", "/health/live", "/products/low-stock"):
        answer = client.post(address, json={})
        assert refusal(answer) == (405, "method_not_allowed")
        assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_address_may_end_with_a_slash(client: FlaskClient) -> None:
    bolt = product(client)
    for address in ("/products", f"/products/{bolt['id']}", "/categories", "/transactions", "/health"):
        assert client.get(f"{address}/").json == client.get(address).json


def test_server_answers_and_ends_in_good_order(server: Gunicorn) -> None:
    with HttpClient(server.url) as client:
        assert client.get("/health").json["status"] == "ok"
        created = client.post("/categories", {"name": "Tools"})
        assert (created.status, client.get(created.headers["Location"]).status) == (HTTPStatus.CREATED, HTTPStatus.OK)
        assert client.get("/nothing").json["error"] == "not_found"
    server.stop()
    assert server.process.returncode == 0
    assert "Traceback" not in server.output()
