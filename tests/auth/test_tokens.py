"""JSON Web Tokens of an identity provider, made by the tests."""

from __future__ import annotations

import base64
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from inventory import create_app
from inventory.auth import tokens
from inventory.config import load
from inventory.database.base import db
from inventory.errors import ConfigError
from tests import builders
from tests.auth.credentials import PEPPER, client_with, new_key
from tests.builders import body, error_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flask import Flask
    from werkzeug.test import TestResponse

    from tests.auth.clock import Clock

ISSUER, AUDIENCE = "https://login.example.com/", "inventory"
RSA, OTHER_RSA = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
SHORT_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
EC, ED = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
PUBLIC_PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def described(key: Any, key_id: str | None, **more: str) -> dict[str, Any]:
    kinds: dict[Any, Any] = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    (kind,) = [found for base, found in kinds.items() if isinstance(key, base)]
    jwk: dict[str, Any] = json.loads(kind.to_jwk(key.public_key()))
    return jwk | ({} if key_id is None else {"kid": key_id}) | more


class Provider:
    """The key set of an identity provider, in a file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "jwks.json"
        self.publish(described(RSA, "rsa"), described(EC, "ec"), described(ED, "ed"))

    def publish(self, *keys: dict[str, Any]) -> None:
        self.path.write_text(json.dumps({"keys": keys}))


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    return Provider(tmp_path)


def app_with(database_url: str, keys: str, **settings: str) -> Flask:
    return create_app(
        {
            "DATABASE_URL": database_url,
            "INVENTORY_AUTH": "keys",
            "INVENTORY_KEY_PEPPER": PEPPER,
            "INVENTORY_JWT_ISSUER": ISSUER,
            "INVENTORY_JWT_AUDIENCE": AUDIENCE,
            "INVENTORY_JWT_ALGORITHMS": "RS256,ES256,EdDSA",
            "INVENTORY_JWT_KEYS": keys,
            **settings,
        }
    )


@contextmanager
def disposed(app: Flask) -> Iterator[Flask]:
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def app(database_url: str, provider: Provider) -> Iterator[Flask]:
    with disposed(app_with(database_url, str(provider.path))) as made:
        yield made


def claims(**changes: Any) -> dict[str, Any]:
    """Valid claims with changes; None removes one."""
    now = int(time.time())
    valid = {"iss": ISSUER, "aud": AUDIENCE, "sub": "web shop", "iat": now, "exp": now + 3600, "scope": "read stock"}
    return {name: value for name, value in (valid | changes).items() if value is not None}


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "rsa", **changes: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def get(app: Flask, text: str) -> TestResponse:
    return client_with(app, text).get("/products")


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(RSA, "RS256", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")])
def test_token_of_the_provider_is_accepted(key: Any, algorithm: str, kid: str, app: Flask) -> None:
    assert get(app, token(key, algorithm, kid)).status_code == 200


def test_subject_is_the_actor_and_owns_its_idempotency_keys(app: Flask) -> None:
    product = builders.product(client_with(app, new_key(app)), quantity_on_hand=9)
    sale = {"product_id": product["id"], "transaction_type": "sale", "quantity": 1}
    answers = [
        client_with(app, text).post("/transactions", json=sale, headers={"Idempotency-Key": "1"})
        for text in (token(), token(jti="2"), token(sub="other"), new_key(app, "stock"))
    ]
    assert [answer.status_code for answer in answers] == [201] * 4
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true", None, None]
    assert [body(answer)["actor"] for answer in answers][:3] == ["web shop", "web shop", "other"]


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("read", 200),
        ("stock read", 200),
        (["read"], 200),
        ("stock", 403),
        ("READ", 403),
        ("", 403),
        (7, 403),
        ([7], 403),
    ],
)
def test_scopes_come_from_the_claim(value: object, status: int, app: Flask) -> None:
    assert get(app, token(scope=value)).status_code == status


def test_claim_and_prefix_of_scopes_can_be_set(database_url: str, provider: Provider) -> None:
    settings = {"INVENTORY_JWT_SCOPE_CLAIM": "roles", "INVENTORY_JWT_SCOPE_PREFIX": "inventory:"}
    with disposed(app_with(database_url, str(provider.path), **settings)) as app:
        assert get(app, token(roles=["inventory:read"])).status_code == 200
        for others in (["read"], ["other:read"], None):
            assert error_of(get(app, token(roles=others))) == (403, "insufficient_scope")


def unsigned() -> str:
    return jwt.encode(claims(), "", algorithm="none", headers={"kid": "rsa"})


def with_header(**header: object) -> str:
    """A token with this header, and a signature by the right key."""
    signed = jwt.api_jws.PyJWS(algorithms=["RS256"])
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims())]
    signature = signed.get_algorithm_by_name("RS256").sign(b".".join(parts), RSA)
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def hs256_with_public_key() -> str:
    """The library refuses to make one, as an attacker would."""
    signed = jwt.api_jws.PyJWS().get_algorithm_by_name("HS256")
    header = {"alg": "HS256", "typ": "JWT", "kid": "rsa"}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims())]
    return b".".join(
        [*parts, base64.urlsafe_b64encode(signed.sign(b".".join(parts), PUBLIC_PEM)).rstrip(b"=")]
    ).decode()


def altered(text: str) -> str:
    head, payload, signature = text.split(".")
    content = json.loads(base64.urlsafe_b64decode(payload + "=="))
    changed = base64.urlsafe_b64encode(json.dumps(content | {"scope": "admin"}).encode()).rstrip(b"=").decode()
    return f"{head}.{changed}.{signature}"


REFUSED: dict[str, Callable[[], str]] = {
    "expired": lambda: token(exp=int(time.time()) - 60),
    "not yet valid": lambda: token(nbf=int(time.time()) + 600),
    "issued in the future": lambda: token(iat=int(time.time()) + 600),
    "no expiry": lambda: token(exp=None),
    "infinite expiry": lambda: token(exp=float("inf")),
    "distant expiry": lambda: token(exp=10**30),
    "text as expiry": lambda: token(exp="soon"),
    "wrong issuer": lambda: token(iss="https://login.example.com"),
    "no issuer": lambda: token(iss=None),
    "wrong audience": lambda: token(aud="payroll"),
    "no audience": lambda: token(aud=None),
    "no subject": lambda: token(sub=None),
    "empty subject": lambda: token(sub=""),
    "long subject": lambda: token(sub="x" * 101),
    "line break in subject": lambda: token(sub="web\nshop"),
    "blank subject": lambda: token(sub=" "),
    "invisible subject": lambda: token(sub="web\u202eshop"),
    "unknown key": lambda: token(kid="other"),
    "no key id": lambda: token(kid=None),
    "another key": lambda: token(OTHER_RSA),
    "key of another type": lambda: token(kid="ec"),
    "algorithm not listed": lambda: token(algorithm="RS512"),
    "algorithm none": unsigned,
    "public key as a secret": hs256_with_public_key,
    "altered": lambda: altered(token()),
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "critical header": lambda: with_header(alg="RS256", kid="rsa", crit=["exp"], exp=1),
    "key id that is not text": lambda: with_header(alg="RS256", kid=["rsa"]),
    "no algorithm": lambda: with_header(kid="rsa"),
    "deep header": lambda: base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=") + ".e30.e30",
    "not a token": lambda: "a.b.c",
    "dots": lambda: "..",
    "an ID token for another client": lambda: token(aud=["payroll", "hr"]),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_other_token_is_refused(make: Callable[[], str], app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inventory")
    text = make()
    answer = get(app, text)
    assert error_of(answer) == (401, "unauthorized")
    (refusal,) = [line for line in caplog.records if line.message == "refusal"]
    assert vars(refusal)["data"]["cause"].startswith("API key refused: ")
    assert "\n" not in vars(refusal)["data"]["cause"]
    assert text not in str([vars(line) for line in caplog.records])


def test_token_in_the_other_header_is_accepted_too(app: Flask) -> None:
    assert app.test_client().get("/products", headers={"X-API-Key": token()}).status_code == 200


def test_small_difference_of_clocks_is_tolerated(app: Flask) -> None:
    now = int(time.time())
    assert get(app, token(nbf=now + 5, iat=now + 5)).status_code == 200
    assert get(app, token(exp=now - 1)).status_code == 200


def test_repeated_key_id_is_refused(app: Flask, provider: Provider) -> None:
    provider.publish(described(RSA, "rsa"), described(OTHER_RSA, "rsa"), described(EC, "ec"))
    assert error_of(get(app, token())) == (401, "unauthorized")
    assert get(app, token(EC, "ES256", "ec")).status_code == 200


def test_only_key_needs_no_id(app: Flask, provider: Provider) -> None:
    provider.publish(described(RSA, None))
    assert get(app, token(kid=None)).status_code == 200


@pytest.mark.parametrize(
    "key",
    [
        described(RSA, "rsa", use="enc"),
        described(RSA, "rsa", alg="RS512"),
        described(SHORT_RSA, "rsa"),
        {"kty": "oct", "kid": "rsa", "k": "c2VjcmV0"},
        {"kty": "RSA", "kid": "rsa"},
        {"kid": "rsa"},
    ],
)
def test_key_for_something_else_is_not_used(key: dict[str, Any], app: Flask, provider: Provider) -> None:
    provider.publish(key, described(EC, "ec"))
    signed = SHORT_RSA if key.get("n") == described(SHORT_RSA, "rsa")["n"] else RSA
    with pytest.warns(jwt.InsecureKeyLengthWarning) if signed is SHORT_RSA else contextmanager(lambda: iter([None]))():
        text = token(signed)
    assert error_of(get(app, text)) == (401, "unauthorized")
    assert get(app, token(EC, "ES256", "ec")).status_code == 200


def test_new_key_is_found_but_not_asked_for_too_often(app: Flask, provider: Provider, clock: Clock) -> None:
    assert get(app, token()).status_code == 200
    provider.publish(described(RSA, "rsa"), described(OTHER_RSA, "new"))
    assert get(app, token(OTHER_RSA, kid="new")).status_code == 401
    clock.seconds += tokens.READ_AGAIN_AFTER + 1
    assert get(app, token(OTHER_RSA, kid="new")).status_code == 200


def test_removed_key_is_refused_after_the_key_set_is_read_again(app: Flask, provider: Provider, clock: Clock) -> None:
    assert get(app, token()).status_code == 200
    provider.publish(described(OTHER_RSA, "new"))
    assert get(app, token(jti="2")).status_code == 200
    clock.seconds += tokens.MAX_AGE + 1
    assert get(app, token(jti="3")).status_code == 401


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"keys": 1}', '{"keys": [1]}', "\xff"])
def test_last_keys_are_kept_while_the_provider_is_down(
    content: str | None, app: Flask, provider: Provider, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    assert get(app, token()).status_code == 200
    if content is None:
        provider.path.unlink()
    else:
        provider.path.write_text(content, encoding="latin-1")
    clock.seconds += tokens.MAX_AGE + 1
    assert get(app, token(jti="2")).status_code == 200
    assert "The keys of the identity provider could not be read" in caplog.text
    assert get(app, token(kid="other")).status_code == 401


def test_failed_read_does_not_prolong_the_life_of_keys(app: Flask, provider: Provider, clock: Clock) -> None:
    assert get(app, token()).status_code == 200
    clock.seconds += tokens.MAX_AGE + 1
    provider.path.rename(provider.path.with_suffix(".away"))
    assert get(app, token(jti="2")).status_code == 200
    provider.publish(described(OTHER_RSA, "new"))
    clock.seconds += tokens.READ_AGAIN_AFTER + 1
    assert get(app, token(jti="3")).status_code == 401


class Handler(BaseHTTPRequestHandler):
    requests = 0
    status, content, location = 200, b"", ""

    def do_GET(self) -> None:
        type(self).requests += 1
        self.send_response(self.status)
        if self.location:
            self.send_header("Location", self.location)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_args: object) -> None:
        pass


def test_requests_wait_for_the_first_keys(database_url: str) -> None:
    """Requests that come while another one fetches the keys are not refused."""
    asked, go = Event(), Event()

    class SlowHandler(Handler):
        content = json.dumps({"keys": [described(RSA, "rsa")]}).encode()

        def do_GET(self) -> None:
            asked.set()
            go.wait(tokens.TIMEOUT)
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), SlowHandler) as server, ThreadPoolExecutor(3) as pool:
        Thread(target=server.serve_forever, daemon=True).start()
        with disposed(app_with(database_url, f"http://127.0.0.1:{server.server_address[1]}/jwks")) as app:
            answers = [pool.submit(get, app, token(jti=str(number))) for number in range(3)]
            assert asked.wait(30)
            go.set()
            assert [answer.result().status_code for answer in answers] == [200] * 3
        server.shutdown()
    assert SlowHandler.requests == 1


@pytest.fixture
def published() -> Iterator[tuple[type[Handler], str]]:
    """A provider on HTTP, and the address of its keys."""

    class OwnHandler(Handler):
        content = json.dumps({"keys": [described(RSA, "rsa")]}).encode()

    with ThreadingHTTPServer(("127.0.0.1", 0), OwnHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield OwnHandler, f"http://127.0.0.1:{server.server_address[1]}/jwks"
        server.shutdown()


def test_keys_are_fetched_once(database_url: str, published: tuple[type[Handler], str]) -> None:
    handler, url = published
    with disposed(app_with(database_url, url)) as app:
        assert [get(app, token(jti=str(number))).status_code for number in range(5)] == [200] * 5
        assert [get(app, token(kid=str(number))).status_code for number in range(5)] == [401] * 5
    assert handler.requests == 1


def test_redirects_errors_and_huge_key_sets_are_refused(
    database_url: str, published: tuple[type[Handler], str]
) -> None:
    handler, url = published
    valid = handler.content
    for status, content, location in (
        (302, b"", url),
        (500, valid, ""),
        (200, valid[:-1] + b" " * tokens.MAX_BYTES + b"}", ""),
    ):
        handler.status, handler.content, handler.location = status, content, location
        with disposed(app_with(database_url, url)) as app:
            assert error_of(get(app, token())) == (401, "unauthorized")
    assert handler.requests == 3


def test_unreachable_provider_does_not_affect_api_keys(database_url: str) -> None:
    with disposed(app_with(database_url, "http://127.0.0.1:1/jwks")) as app:
        assert error_of(get(app, token())) == (401, "unauthorized")
        assert get(app, new_key(app, "read")).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INVENTORY_JWT_ALGORITHMS", "HS256"),
        ("INVENTORY_JWT_ALGORITHMS", "none"),
        ("INVENTORY_JWT_ALGORITHMS", ""),
        ("INVENTORY_JWT_KEYS", "http://login.example.com/jwks"),
        ("INVENTORY_JWT_KEYS", "file:///etc/jwks"),
        ("INVENTORY_JWT_KEYS", "missing.json"),
    ],
)
def test_unsafe_setting_is_refused(name: str, value: str) -> None:
    given = {
        "INVENTORY_JWT_ISSUER": ISSUER,
        "INVENTORY_JWT_AUDIENCE": AUDIENCE,
        "INVENTORY_JWT_KEYS": __file__,
        name: value,
    }
    with pytest.raises(ConfigError, match=f"{name}: "):
        load(environ=given)


@pytest.mark.parametrize("name", ["INVENTORY_JWT_ISSUER", "INVENTORY_JWT_AUDIENCE", "INVENTORY_JWT_KEYS"])
def test_settings_of_the_provider_belong_together(name: str) -> None:
    with pytest.raises(ConfigError, match=f"INVENTORY_JWT_.*: Required with {name}"):
        load(environ={name: __file__})


def test_without_provider_tokens_are_refused(keyed: Flask) -> None:
    assert error_of(get(keyed, token())) == (401, "unauthorized")
