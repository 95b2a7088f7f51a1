"""Which keys are accepted, where a request may present them, and what the log says of the others."""

from __future__ import annotations

import hmac
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from inventory.auth import keys, known, last_uses
from inventory.auth.known import CACHE_SECONDS
from inventory.auth.last_uses import LastUses
from inventory.auth.secrets import Pepper, new_id
from inventory.auth.secrets import new_key as key_text
from inventory.auth.validation import KeyValidator
from inventory.caller import NOBODY, OPERATOR, caller
from inventory.database.base import begin, db
from inventory.database.engines import WRITE
from inventory.models.api_key import ApiKey
from tests import builders, conftest
from tests.auth.credentials import PEPPER, client_with, keyed_app, new_key
from tests.builders import body, error_of
from tests.statements import watched

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.test import TestResponse

    from tests.auth.clock import Clock
    from tests.environments import Environment

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "inventory")
    return caplog


def reasons_in(log: pytest.LogCaptureFixture) -> list[str]:
    """Why keys were refused, one for each request."""
    return [vars(line)["data"]["cause"] for line in log.records if line.message == "refusal"]


def everything_in(log: pytest.LogCaptureFixture) -> str:
    return "\n".join(str(vars(line)) for line in log.records)


def send(app: Flask, *headers: tuple[str, str], path: str = "/products") -> TestResponse:
    return app.test_client().get(path, headers=list(headers))


def expire(app: Flask, model: type[object], **columns: object) -> None:
    with app.app_context():
        for row in db.session.query(model):
            for name, value in columns.items():
                setattr(row, name, value)
        db.session.commit()


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("Authorization", "Bearer {}"),
        ("Authorization", "bearer {}"),
        ("Authorization", "BEARER {}"),
        ("X-API-Key", "{}"),
    ],
)
def test_key_is_accepted_in_either_header(header: str, form: str, keyed: Flask) -> None:
    assert send(keyed, (header, form.format(new_key(keyed, "read")))).status_code == 200


def test_key_beside_credentials_for_a_proxy_is_accepted(keyed: Flask) -> None:
    key = new_key(keyed, "read")
    assert send(keyed, ("Authorization", "Basic dTpw"), ("X-API-Key", key)).status_code == 200
    assert error_of(send(keyed, ("Authorization", "Basic dTpw"))) == (401, "unauthorized")


@pytest.mark.parametrize(
    "changed",
    [
        lambda key: key[:-1],
        lambda key: key + "A",
        lambda key: key * 2,
        lambda key: f"{key} {key}",
        lambda key: f"{key},{key}",
        lambda key: f"{key[:20]} {key[20:]}",
        lambda key: f" {key}",
        lambda key: f'"{key}"',
        lambda key: key.upper(),
        lambda key: key.replace("_", "%5F"),
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: f"inv_{'0' * 12}_{key[17:]}",
        lambda key: key[17:],
        lambda _key: "",
        lambda _key: "x" * 8_000,
        lambda _key: "inv_\u0661",
    ],
)
def test_altered_key_is_refused(changed: object, keyed: Flask) -> None:
    assert callable(changed)
    key = changed(new_key(keyed))
    for header in (("Authorization", f"Bearer {key}"), ("X-API-Key", f"{key}")):
        answer = send(keyed, header)
        assert error_of(answer) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="inventory", error="invalid_token"'


def test_key_in_both_headers_is_refused(keyed: Flask) -> None:
    key = new_key(keyed)
    answer = send(keyed, ("Authorization", f"Bearer {key}"), ("X-API-Key", key))
    assert error_of(answer) == (401, "unauthorized")
    assert body(answer)["message"] == "Send one API key or token, in one header only."


def test_repeated_header_is_refused(keyed: Flask) -> None:
    key = new_key(keyed)
    for name, value in (("X-API-Key", key), ("Authorization", f"Bearer {key}")):
        assert error_of(send(keyed, (name, value), (name, value))) == (401, "unauthorized")


def test_key_in_the_query_is_refused_and_not_logged(keyed: Flask, log: pytest.LogCaptureFixture) -> None:
    key = new_key(keyed)
    answer = send(keyed, path=f"/products?api_key={key}")
    assert error_of(answer) == (401, "unauthorized")
    assert key not in everything_in(log)
    assert key not in answer.text


def test_refused_keys_get_the_same_answer_and_the_log_says_why(keyed: Flask, log: pytest.LogCaptureFixture) -> None:
    revoked, expired, known_key = (new_key(keyed, name=name) for name in ("revoked", "expired", "known"))
    with keyed.app_context():
        keys.revoke("revoked")
        keys.find("expired").expires_at = LONG_AGO
        db.session.commit()
    unknown, wrong = key_text(new_id()), key_text(known_key[4:16])
    reasons = {
        "no key": "not in the format of a key",
        unknown: f"key {unknown[4:16]}: unknown",
        wrong: f"key {known_key[4:16]}: wrong secret",
        revoked: f"key {revoked[4:16]}: revoked",
        expired: f"key {expired[4:16]}: expired, or replaced by a rotation",
    }
    answers = []
    for key, reason in reasons.items():
        log.clear()
        answers.append(send(keyed, ("X-API-Key", key)))
        assert reasons_in(log) == [f"API key refused: {reason}"]
        assert key not in everything_in(log) or key == "no key"
    for answer in answers:
        del answer.headers["X-Request-ID"]  # of its own for each request
        assert (answer.status_code, answer.text) == (401, answers[0].text)
        assert str(answer.headers) == str(answers[0].headers)


def test_unknown_id_takes_the_same_steps_as_a_wrong_secret(keyed: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    known_key = new_key(keyed)
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def compare_digest(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    executed: list[str] = []
    with watched(keyed, before=lambda text, _values: executed.append(text)):
        for key in (key_text(new_id()), key_text(known_key[4:16])):
            assert send(keyed, ("X-API-Key", key)).status_code == 401
    assert compared == [(64, 64)] * 2
    assert len(executed) == 2
    assert executed[0] == executed[1]


def test_wrong_pepper_refuses_every_key_and_the_log_says_why(
    keyed: Flask, database_url: str, log: pytest.LogCaptureFixture
) -> None:
    key = new_key(keyed)
    other = keyed_app(database_url, "another pepper, after a restart")
    assert error_of(send(other, ("X-API-Key", key))) == (401, "unauthorized")
    assert reasons_in(log) == [f"API key refused: key {key[4:16]}: created with another INVENTORY_KEY_PEPPER"]
    with other.app_context():
        assert keys.has_other_pepper(Pepper("another pepper, after a restart"))
        assert not keys.has_other_pepper(Pepper(PEPPER))
    with other.app_context():
        db.engine.dispose()


def test_every_row_of_the_ledger_has_the_name_of_the_key(keyed: Flask) -> None:
    client = client_with(keyed, new_key(keyed, name="till 3"))
    product = builders.product(client, sku="MUG", quantity_on_hand=10)
    sale = builders.transaction(client, product["id"], "sale", 1)
    assert client.post(f"/transactions/{sale['id']}/reversal").status_code == 201
    assert client.post(f"/products/{product['id']}/counts", json={"counted_quantity": 3}).status_code == 201
    assert client.patch(f"/products/{product['id']}", json={"quantity_on_hand": 4}).status_code == 200
    lines = {"lines": [{"sku": "MUG", "transaction_type": "purchase", "quantity": 1}]}
    batch = body(client.post("/transactions/batch", json=lines))
    assert client.post(f"/transactions/batch/{batch['transactions'][0]['batch_id']}/reversal").status_code == 201
    file = b"sku,name,price,category,quantity_on_hand\nMUG,Mug,1,A,9\nCUP,Cup,1,A,9\n"
    assert client.post("/import/products", data=file, content_type="text/csv").status_code == 200
    rows = builders.listed(client.get("/transactions"))
    assert [row["actor"] for row in rows] == ["till 3"] * 9
    assert {row["reason"] for row in rows} >= {"opening", "count", "reversal"}


def test_movement_of_the_catalogue_scope_alone_leaves_nothing(keyed: Flask) -> None:
    builders.category(client_with(keyed, new_key(keyed)), name="A")
    client = client_with(keyed, new_key(keyed, "catalogue"))
    product = {"sku": "MUG", "name": "Mug", "price": 1, "category_id": 1}
    file = b"sku,name,price,category,quantity_on_hand\nCUP,Cup,1,A,9\n"
    with builders.nothing_changes(keyed, but="api_keys"):
        for answer in (
            client.post("/products", json=product | {"quantity_on_hand": 1}),
            client.post("/import/products", data=file, content_type="text/csv"),
            client.post("/import/products?dry_run=true", data=file, content_type="text/csv"),
        ):
            assert error_of(answer) == (403, "insufficient_scope")
            assert body(answer)["details"] == {"scope": "stock"}
    created = client.post("/products", json=product)
    assert created.status_code == 201
    assert (
        client.patch(f"/products/{body(created)['id']}", json={"name": "Cup", "quantity_on_hand": 0}).status_code == 200
    )
    unmoved = b"sku,name,price,category\nCUP,Cup,1,A\n"
    assert client.post("/import/products", data=unmoved, content_type="text/csv").status_code == 200


def test_two_clients_may_use_the_same_idempotency_key(keyed: Flask) -> None:
    first, second = (client_with(keyed, new_key(keyed)) for _ in range(2))
    product = builders.product(first, quantity_on_hand=10)
    sale = {"product_id": product["id"], "transaction_type": "sale", "quantity": 1}
    answers = [
        client.post("/transactions", json=sale, headers={"Idempotency-Key": "1"})
        for client in (first, second, first, second)
    ]
    assert [answer.status_code for answer in answers] == [201] * 4
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, None, "true", "true"]
    assert len({answer.text for answer in answers}) == 2
    assert body(first.get(f"/products/{product['id']}"))["quantity_on_hand"] == 8


def test_rotated_secrets_share_the_idempotency_keys(keyed: Flask) -> None:
    old = new_key(keyed, name="till")
    product = builders.product(client_with(keyed, old), quantity_on_hand=10)
    with keyed.app_context():
        new = keys.rotate(Pepper(PEPPER), "till", timedelta(hours=1)).text
    sale = {"product_id": product["id"], "transaction_type": "sale", "quantity": 1}
    answers = [
        client_with(keyed, key).post("/transactions", json=sale, headers={"Idempotency-Key": "1"}) for key in (old, new)
    ]
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true"]


def test_rotated_secret_is_valid_until_the_end_of_the_overlap(keyed: Flask, clock: Clock) -> None:
    first = new_key(keyed, "read", name="till")
    with keyed.app_context():
        second = keys.rotate(Pepper(PEPPER), "till", timedelta(hours=1)).text
    assert [send(keyed, ("X-API-Key", key)).status_code for key in (first, second)] == [200, 200]
    with keyed.app_context():
        third = keys.rotate(Pepper(PEPPER), "till", timedelta(0)).text
    clock.seconds += CACHE_SECONDS
    assert [send(keyed, ("X-API-Key", key)).status_code for key in (first, second, third)] == [401, 401, 200]


def test_key_is_read_at_most_every_five_seconds(keyed: Flask, clock: Clock) -> None:
    key = new_key(keyed, "read")
    client = client_with(keyed, key)
    reads, executed = [], list[str]()
    for seconds in (0, 4.9, 0.1, 4.9, 0.1):
        clock.seconds += seconds
        with watched(keyed, before=lambda text, _values: executed.append(text)):
            assert client.get("/categories").status_code == 200
        reads.append(sum("api_key_secrets" in text for text in executed))
        executed.clear()
    assert reads == [1, 0, 1, 0, 1]


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
def test_cached_key_is_refused_within_five_seconds(column: str, keyed: Flask, clock: Clock) -> None:
    client = client_with(keyed, new_key(keyed, "read"))
    assert client.get("/products").status_code == 200
    expire(keyed, ApiKey, **{column: LONG_AGO})
    clock.seconds += CACHE_SECONDS
    assert client.get("/products").status_code == 401


def test_cached_key_expires_on_time(keyed: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    client = client_with(keyed, new_key(keyed, "read", expires_at=now + timedelta(minutes=1)))
    assert client.get("/products").status_code == 200

    class Later(datetime):
        @classmethod
        def now(cls, _timezone: object = None) -> datetime:  # type: ignore[override]
            return now + timedelta(minutes=1)

    monkeypatch.setattr(known, "datetime", Later)
    assert client.get("/products").status_code == 401


def test_cache_is_bounded(keyed: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MAX_KNOWN", 2)
    validator = KeyValidator(Pepper(PEPPER), lambda _key_id, _last_used_at: None)
    for key in [new_key(keyed, "read") for _ in range(5)]:
        with keyed.app_context():
            assert validator.caller(key).scopes == {"read"}
        assert len(validator.known.by_digest) <= 2


class Timer:
    """Replaces the timer of LastUses."""

    started = 0

    def __init__(self, _seconds: float, _write: object) -> None:
        pass

    def start(self) -> None:
        type(self).started += 1


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> type[Timer]:
    class OwnTimer(Timer):
        pass

    monkeypatch.setattr(last_uses, "Timer", OwnTimer)
    return OwnTimer


def last_use(app: Flask) -> datetime | None:
    with app.app_context():
        return keys.find("till").last_used_at


def test_last_use_is_stored_apart_from_requests(keyed: Flask, timer: type[Timer]) -> None:
    key = new_key(keyed, "read", name="till")
    uses = LastUses(keyed)
    validator = KeyValidator(Pepper(PEPPER), uses.note)
    with keyed.app_context():
        validator.caller(key)
        validator.caller(key)
    assert list(uses.noted) == [key[4:16]]
    assert last_use(keyed) is None
    uses.write()
    assert last_use(keyed) is not None
    assert (uses.noted, timer.started) == ({}, 1)


def test_last_use_is_exact_to_some_minutes(keyed: Flask, timer: type[Timer]) -> None:
    uses = LastUses(keyed)
    now = datetime.now(UTC)
    uses.note("recent", now - last_uses.EXACT_TO / 2)
    assert timer.started == 0
    uses.note("old", now - last_uses.EXACT_TO)
    assert (list(uses.noted), timer.started) == (["old"], 1)


def test_refused_key_is_not_used(own_environment: Environment, timer: type[Timer]) -> None:
    keyed = own_environment.keyed
    key = new_key(keyed, "read", name="till")
    expire(keyed, ApiKey, expires_at=LONG_AGO)
    assert send(keyed, ("X-API-Key", key)).status_code == 401
    assert timer.started == 0


@conftest.on_sqlite
def test_last_use_does_not_wait_for_the_lock(keyed: Flask, impatient: Flask, timer: type[Timer]) -> None:
    new_key(keyed, name="till")
    uses = LastUses(keyed)
    with keyed.app_context():
        uses.note(keys.find("till").id, None)
    with impatient.app_context(), begin(WRITE):
        uses.write()
    assert last_use(keyed) is None
    assert timer.started == 1


def test_health_shows_details_only_with_the_scope_read(keyed: Flask) -> None:
    reader, seller = client_with(keyed, new_key(keyed, "read")), client_with(keyed, new_key(keyed, "stock"))
    assert body(reader.get("/health")).keys() == {"status", "database", "revision", "pool", "limiter"}
    for client in (seller, keyed.test_client(), client_with(keyed, "wrong")):
        assert body(client.get("/health")) == {"status": "ok"}


def test_options_needs_no_key(keyed: Flask) -> None:
    assert keyed.test_client().options("/products").status_code == 200


def test_unknown_path_needs_no_key(keyed: Flask) -> None:
    assert error_of(keyed.test_client().get("/nowhere")) == (404, "not_found")
    assert error_of(keyed.test_client().delete("/products")) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    ("address", "status"),
    [
        (("127.0.0.1", 8000), 200),
        (("127.8.9.10", 8000), 200),
        (("::1", 8000, 0, 0), 200),
        ("/run/inventory.sock", 200),
        (("192.0.2.1", 8000), 401),
        (("2001:db8::1", 8000, 0, 0), 401),
        (("fe80::1%eth0", 8000, 0, 2), 401),
    ],
)
@pytest.mark.parametrize("server", ["gunicorn.socket", "werkzeug.socket"])
def test_without_keys_only_this_machine_is_answered(server: str, address: object, status: int, app: Flask) -> None:
    connection = mock.Mock(getsockname=lambda: address)
    assert app.test_client().get("/products", environ_overrides={server: connection}).status_code == status


def test_without_keys_the_address_of_the_client_counts_on_other_servers(app: Flask) -> None:
    client = app.test_client()
    for address in ("192.0.2.1", "a name"):
        assert client.get("/products", environ_overrides={"REMOTE_ADDR": address}).status_code == 401
    assert client.get("/products", environ_overrides={"REMOTE_ADDR": "127.0.0.1"}).status_code == 200


def test_until_it_is_known_the_caller_is_nobody(keyed: Flask, app: Flask) -> None:
    with keyed.test_request_context():
        assert caller() == NOBODY
    with keyed.app_context():
        assert caller() == OPERATOR
    with app.test_request_context():
        assert caller() == OPERATOR
