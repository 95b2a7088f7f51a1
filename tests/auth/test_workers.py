"""Keys with several workers, over HTTP."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from inventory.auth import keys
from inventory.auth.known import CACHE_SECONDS
from tests.auth.credentials import new_key
from tests.clients import HttpClient
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from flask import Flask

    from tests.environments import Environment

pytestmark = pytest.mark.slow

REQUESTS = 40


def statuses(server: Gunicorn, key: str) -> set[int]:
    """The answers to many requests, each on a connection of its own, so that all workers get some."""
    found = set()
    for _ in range(REQUESTS):
        with HttpClient(server.url) as client:
            found.add(client.request("GET", "/products", headers={"X-API-Key": key}).status)
    return found


def test_revoked_key_is_refused_by_all_workers(own_environment: Environment) -> None:
    # A server of its own, because its log is limited.
    keyed, keyed_server = own_environment.keyed, own_environment.keyed_server
    key = new_key(keyed, "read", name="till")
    assert statuses(keyed_server, key) == {200}
    with keyed.app_context():
        keys.revoke("till")
    time.sleep(CACHE_SECONDS)
    assert statuses(keyed_server, key) == {401}
    assert ": revoked" in keyed_server.output()
    assert key not in keyed_server.output()


def test_oversized_authorization_header_is_refused(keyed_server: Gunicorn) -> None:
    with HttpClient(keyed_server.url) as client:
        answer = client.request("GET", "/products", headers={"Authorization": f"Bearer {'x' * 100_000}"})
    assert answer.status == 431


def test_start_says_how_to_create_the_first_key(keyed_server: Gunicorn) -> None:
    command = "flask --app wsgi keys create NAME --scopes read,stock,catalogue,admin"
    assert f"all requests are refused. Create the first one: {command}" in keyed_server.output()


def test_start_warns_of_another_pepper(keyed: Flask, database_url: str) -> None:
    new_key(keyed)
    with Gunicorn(database_url, INVENTORY_AUTH="keys", INVENTORY_KEY_PEPPER="short") as server:
        assert "Some API keys were created with another INVENTORY_KEY_PEPPER" in server.output()
        assert "INVENTORY_KEY_PEPPER is short." in server.output()
        assert "no API keys" not in server.output()
