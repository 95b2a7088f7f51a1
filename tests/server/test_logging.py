"""The log of a real gunicorn: every line in one form, from the start to the end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from inventory.web.observability import REQUEST_ID
from tests.clients import HttpClient
from tests.servers import Gunicorn, checkout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

SECRET = "hidden8153"  # noqa: S105


def lines(server: Gunicorn) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.output().splitlines()]


def get(server: Gunicorn, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


def send(server: Gunicorn, request: bytes) -> bytes:
    """Send bytes that no HTTP client would send. Returns the response."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while block := connection.recv(4_096):
            answer += block
    return answer


def test_every_line_is_json_from_the_start_to_the_end(database_url: str) -> None:
    with Gunicorn(database_url, workers=1) as server:
        get(server, f"/products/1?{SECRET}={SECRET}", {"X-Request-ID": "till-3", "X-API-Key": SECRET})
        get(server, "/nothing", {"X-Request-ID": "a" * 10_240})
        get(server, "/health", {})
        malformed = send(server, f"GET / HTTP/1.1\r\nX-API-Key {SECRET}\r\n\r\n".encode())
        server.stop()
        logged = lines(server)
        messages = [line["message"] for line in logged]
    assert messages[0].startswith("Starting gunicorn")
    assert any(message.startswith("Booting worker") for message in messages)
    assert any(message.startswith("INVENTORY_AUTH is off") for message in messages)
    assert messages[-1] == "Shutting down: Master"
    assert {line["logger"].split(".")[0] for line in logged} == {"gunicorn", "inventory"}
    assert all(line.keys() >= {"time", "level", "logger", "pid", "message"} for line in logged)
    of_till = [line for line in logged if line.get("request_id") == "till-3"]
    assert [line["message"] for line in of_till] == ["refusal", "request"]
    assert of_till[1]["route"] == "/products/<id:product_id>"
    returned = malformed.partition(b"X-Request-ID: ")[2].split(b"\r\n")[0].decode()
    assert REQUEST_ID.fullmatch(returned)
    (answered,) = [line for line in logged if line.get("request_id") == returned]
    assert (answered["status"], answered["error"], answered["level"]) == (400, "bad_request", "warning")
    assert SECRET not in json.dumps(logged)


def test_level_and_form_are_settings(database_url: str) -> None:
    with Gunicorn(database_url, workers=1, INVENTORY_LOG_LEVEL="warning", INVENTORY_LOG_FORMAT="text") as server:
        get(server, "/nothing", {})
        server.stop()
        (line,) = server.output().splitlines()
    assert " WARNING INVENTORY_AUTH is off" in line


def test_failed_reload_is_logged_in_the_same_form(
    database_url: str, tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    folder = checkout(tmp_path)
    with Gunicorn(database_url, folder=folder, workers=1) as server:
        (folder / "inventory" / "config.py").write_text("raise SystemExit('cannot\\nstart')")
        os.kill(server.process.pid, signal.SIGHUP)
        eventually(lambda: "Reload failed" in server.output())
        assert "cannot\nstart" in [line["message"] for line in lines(server)]


def test_new_form_is_loaded_after_a_reload(
    database_url: str, tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    """The master does not keep the old code, which new workers would inherit."""
    folder = checkout(tmp_path)
    with Gunicorn(database_url, folder=folder, workers=1) as server:
        code = folder / "inventory" / "web" / "observability.py"
        code.write_text(code.read_text().replace('"duration_ms"', '"renamed_ms"'))
        os.kill(server.process.pid, signal.SIGHUP)

        def is_new() -> bool:
            get(server, "/health/live", {})
            return "renamed_ms" in server.output()

        eventually(is_new)


def test_service_starts_and_answers_with_a_full_log(database_url: str) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        server = Gunicorn(database_url)
        server.log.file = full
        with server, HttpClient(server.url) as client:
            assert [client.get(path).status for path in ("/products", "/nowhere")] == [200, 404]
