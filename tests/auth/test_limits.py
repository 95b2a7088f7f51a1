"""Rate limits over HTTP: budgets, headers, invalid keys, and the addresses of clients."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from inventory import create_app
from inventory.auth import keys
from inventory.auth.known import CACHE_SECONDS
from inventory.auth.limits import network
from inventory.auth.secrets import Pepper
from inventory.auth.validation import KeyValidator
from inventory.database.base import db
from tests.builders import category, error_of
from tests.clients import Answer, HttpClient
from tests.redis_servers import closed_port, needs_redis, redis_server, silent_server
from tests.servers import Gunicorn
from tests.statements import watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

PEPPER = "a pepper for tests only"
READS, WRITES, INVALID = 3, 2, 4
UNKNOWN_KEY = "inv_000000000000_" + "x" * 43


@pytest.fixture
def limited(database_url: str) -> Iterator[Callable[..., Flask]]:
    """Makes applications with API keys and tiny limits."""
    made = []

    def make(**settings: object) -> Flask:
        made.append(
            create_app(
                {
                    "DATABASE_URL": database_url,
                    "INVENTORY_AUTH": "keys",
                    "INVENTORY_KEY_PEPPER": PEPPER,
                    "INVENTORY_LIMIT_READS": READS,
                    "INVENTORY_LIMIT_WRITES": WRITES,
                    "INVENTORY_LIMIT_INVALID_KEYS": INVALID,
                    **settings,
                }
            )
        )
        return made[-1]

    yield make
    for app in made:
        with app.app_context():
            db.engine.dispose()


def new_key(app: Flask, name: str, scopes: str = "read catalogue") -> str:
    with app.app_context():
        return keys.create(Pepper(PEPPER), name, scopes.split()).text


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def statuses(client: FlaskClient, path: str, number: int, **options: Any) -> list[int]:
    return [client.get(path, **options).status_code for _ in range(number)]


def test_reads_and_writes_have_separate_budgets(limited: Callable[..., Flask]) -> None:
    app = limited()
    client, headers = app.test_client(), bearer(new_key(app, "till"))
    assert statuses(client, "/products", READS + 1, headers=headers) == [200] * READS + [429]
    answers = [client.post("/categories", json={"name": f"{n}"}, headers=headers) for n in range(WRITES + 1)]
    assert [answer.status_code for answer in answers] == [201] * WRITES + [429]
    assert error_of(answers[-1]) == (429, "rate_limited")


def test_each_key_has_its_own_budget(limited: Callable[..., Flask]) -> None:
    app = limited()
    one, two = (bearer(new_key(app, name)) for name in ("one", "two"))
    client = app.test_client()
    assert statuses(client, "/products", READS + 1, headers=one)[-1] == 429
    assert statuses(client, "/products", READS, headers=two) == [200] * READS


def test_key_has_one_budget_from_all_addresses(limited: Callable[..., Flask]) -> None:
    app = limited()
    client, headers = app.test_client(), bearer(new_key(app, "till"))
    found = [
        client.get("/products", headers=headers, environ_overrides={"REMOTE_ADDR": f"10.0.0.{n}"}).status_code
        for n in range(READS + 1)
    ]
    assert found[-1] == 429


def test_requests_without_key_are_limited_by_address(limited: Callable[..., Flask]) -> None:
    client = limited().test_client()
    assert statuses(client, "/products", READS + 1) == [401] * READS + [429]
    assert statuses(client, "/openapi.json", 1) == [429]
    assert statuses(client, "/products", 1, environ_overrides={"REMOTE_ADDR": "10.0.0.2"}) == [401]


def test_too_small_scopes_use_up_the_budget(limited: Callable[..., Flask]) -> None:
    app = limited()
    headers = bearer(new_key(app, "stock only", "stock"))
    assert statuses(app.test_client(), "/products", READS + 1, headers=headers) == [403] * READS + [429]


def test_health_is_never_limited(limited: Callable[..., Flask]) -> None:
    client = limited().test_client()
    for path in ("/health", "/health/live"):
        assert statuses(client, path, READS + 2) == [200] * (READS + 2)
        assert "RateLimit" not in client.get(path).headers


def test_headers_have_the_form_of_the_draft(limited: Callable[..., Flask]) -> None:
    app = limited()
    client, headers = app.test_client(), bearer(new_key(app, "till"))
    answers = [client.get("/products", headers=headers) for _ in range(READS + 2)]
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {f'"reads";q={READS};w=60'}
    matches = [re.fullmatch(r'"reads";r=(\d+);t=(\d+)', answer.headers["RateLimit"]) for answer in answers]
    assert [match and int(match[1]) for match in matches] == [2, 1, 0, 0, 0]
    assert all(match and 1 <= int(match[2]) <= 60 for match in matches)
    created = client.post("/categories", json={"name": "Nuts"}, headers=headers)
    assert created.headers["RateLimit-Policy"] == f'"writes";q={WRITES};w=60'


def test_refusal_says_when_to_retry(limited: Callable[..., Flask]) -> None:
    client = limited(INVENTORY_LIMIT_READS=1).test_client()
    client.get("/docs")
    answer = client.get("/docs")
    assert error_of(answer) == (429, "rate_limited")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.headers["RateLimit"].endswith(f";t={answer.headers['Retry-After']}")


def test_limits_can_be_switched_off(limited: Callable[..., Flask]) -> None:
    app = limited(INVENTORY_LIMIT_READS="off", INVENTORY_LIMIT_WRITES="off", INVENTORY_LIMIT_INVALID_KEYS="off")
    client = app.test_client()
    assert statuses(client, "/products", 20) == [401] * 20
    assert statuses(client, "/products", 20, headers=bearer(UNKNOWN_KEY)) == [401] * 20
    assert "RateLimit" not in client.get("/docs").headers
    assert client.get("/health", headers=bearer(new_key(app, "till"))).get_json()["limiter"] == "off"


def test_without_keys_only_explicit_limits_apply(limited: Callable[..., Flask], database_url: str) -> None:
    app = create_app({"DATABASE_URL": database_url, "INVENTORY_AUTH": "off"})
    assert "RateLimit" not in app.test_client().get("/docs").headers
    client = limited(INVENTORY_AUTH="off").test_client()
    assert statuses(client, "/products", READS + 1) == [200] * READS + [429]


# Redis.


@pytest.mark.parametrize("kind", ["down", "slow"])
def test_limits_apply_and_health_says_so_without_redis(limited: Callable[..., Flask], kind: str) -> None:
    with silent_server() as silent:
        app = limited(REDIS_URL=silent if kind == "slow" else closed_port())
        client, headers = app.test_client(), bearer(new_key(app, "till"))
        assert statuses(client, "/products", READS + 1, headers=headers) == [200] * READS + [429]
        health = client.get("/health", headers=headers)
        assert (health.status_code, health.get_json()["limiter"]) == (200, "redis unreachable")
        assert "limiter" not in client.get("/health").get_json()


@pytest.mark.slow
@needs_redis
def test_workers_share_a_budget_in_redis_and_serve_without_it(database_url: str, tmp_path: Path) -> None:
    with (
        redis_server(tmp_path) as store,
        Gunicorn(database_url, INVENTORY_LIMIT_READS="20", REDIS_URL=store.url) as server,
    ):

        def get(path: str = "/products") -> Answer:
            with HttpClient(server.url) as client:
                return client.get(path)

        assert Counter(get().status for _ in range(30)) == {200: 20, 429: 10}
        assert get("/health").json["limiter"] == "redis"
        store.stop()
        assert [get().status for _ in range(10)] == [200] * 10
        health = {(answer.status, answer.json["limiter"]) for answer in (get("/health") for _ in range(10))}
        assert health == {(200, "redis unreachable")}


def test_health_names_the_memory(limited: Callable[..., Flask]) -> None:
    app = limited()
    headers = bearer(new_key(app, "till"))
    assert app.test_client().get("/health", headers=headers).get_json()["limiter"] == "memory"


# Invalid keys.


def attempts(client: FlaskClient, number: int, key: str = UNKNOWN_KEY, **options: Any) -> list[TestResponse]:
    return [client.get("/categories", headers=bearer(key), **options) for _ in range(number)]


def test_repeated_invalid_keys_are_refused_without_a_query(limited: Callable[..., Flask]) -> None:
    app = limited(INVENTORY_LIMIT_READS="off")
    client = app.test_client()
    assert [answer.status_code for answer in attempts(client, INVALID)] == [401] * INVALID
    statements: list[str] = []
    with watched(app, before=lambda text, _parameters: statements.append(text)):
        answers = attempts(client, 3)
    assert [error_of(answer) for answer in answers] == [(429, "rate_limited")] * 3
    assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in answers)
    assert statements == []
    elsewhere = {"REMOTE_ADDR": "10.0.0.2"}
    assert attempts(client, 1, environ_overrides=elsewhere)[0].status_code == 401


def test_repeated_requests_with_two_keys_are_refused(limited: Callable[..., Flask]) -> None:
    app = limited()
    headers = bearer(UNKNOWN_KEY) | {"X-API-Key": UNKNOWN_KEY}
    assert statuses(app.test_client(), "/categories", INVALID + 2, headers=headers) == [401] * INVALID + [429] * 2


def test_known_keys_keep_working_from_an_address_with_invalid_ones(
    limited: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = limited(INVENTORY_LIMIT_READS="off")
    client, key = app.test_client(), new_key(app, "till")
    assert attempts(client, 1, key)[0].status_code == 200
    attempts(client, INVALID + 1)
    assert attempts(client, 1, key)[0].status_code == 200
    # Also when it has to be read again.
    monkeypatch.setattr("inventory.auth.known.CACHE_SECONDS", -CACHE_SECONDS)
    assert [answer.status_code for answer in attempts(client, 3, key)] == [200] * 3
    assert attempts(client, 1)[0].status_code == 429


def test_revoked_key_is_no_longer_known(limited: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inventory.auth.known.CACHE_SECONDS", -CACHE_SECONDS)
    app = limited(INVENTORY_LIMIT_READS="off")
    validator = KeyValidator(Pepper(PEPPER), lambda _key_id, _last_used_at: None)
    key = new_key(app, "till")
    with app.app_context():
        validator.caller(key)
        assert validator.knows(key)
        keys.revoke("till")
        with pytest.raises(Exception, match="revoked"):
            validator.caller(key)
        assert not validator.knows(key)


def test_health_stays_available_to_an_address_with_invalid_keys(limited: Callable[..., Flask]) -> None:
    client = limited().test_client()
    answers = [client.get("/health", headers=bearer(UNKNOWN_KEY)) for _ in range(INVALID + 2)]
    assert [answer.get_json() for answer in answers] == [{"status": "ok"}] * (INVALID + 2)


# Addresses.


def test_forwarded_address_is_ignored_by_default(limited: Callable[..., Flask]) -> None:
    client = limited().test_client()
    found = [client.get("/docs", headers={"X-Forwarded-For": f"10.0.0.{n}"}).status_code for n in range(READS + 1)]
    assert found == [200] * READS + [429]


def test_forwarded_address_counts_behind_a_trusted_proxy(limited: Callable[..., Flask]) -> None:
    client = limited(INVENTORY_TRUSTED_PROXIES=1).test_client()

    def get(forwarded: str) -> int:
        return client.get("/docs", headers={"X-Forwarded-For": forwarded}).status_code

    # The client chooses all but the last address.
    assert [get(f"10.0.0.{n}, 192.0.2.1") for n in range(READS + 1)] == [200] * READS + [429]
    assert get("192.0.2.2") == 200


def test_trusted_proxy_does_not_change_host_or_scheme(limited: Callable[..., Flask]) -> None:
    app = limited(INVENTORY_TRUSTED_PROXIES=1, INVENTORY_AUTH="off")
    for name in "AB":
        category(app.test_client(), name=name)
    headers = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
    link = app.test_client().get("/categories?limit=1", headers=headers).headers["Link"]
    assert link.startswith("<http://localhost/")


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::7", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("x" * 1_000, "x" * 64),
    ],
)
def test_one_network_of_ipv6_is_one_address(address: str, counted: str) -> None:
    assert network(address) == counted
