"""Every route as nobody, with each scope, with all scopes, and with a revoked key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inventory.auth import keys
from inventory.caller import SCOPES
from inventory.web import access
from tests import builders, valid_requests
from tests.auth.credentials import client_with, new_key
from tests.conftest import ENGINES
from tests.contract import OPERATIONS, Operation, assert_envelope, routes
from tests.valid_requests import ValidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient

    from tests.environments import Environment, Environments

# The required scopes, written down apart from the routes. Who also moves stock needs the scope for it, too.
REQUIRED = {
    "GET /": set[str](),
    "GET /openapi.json": set(),
    "GET /docs/": set(),
    "GET /docs/{path}": set(),
    "GET /health": set(),
    "GET /health/live": set(),
    "GET /metrics": {"admin"},
    "GET /categories": {"read"},
    "POST /categories": {"catalogue"},
    "GET /categories/{category_id}": {"read"},
    "PUT /categories/{category_id}": {"catalogue"},
    "PATCH /categories/{category_id}": {"catalogue"},
    "DELETE /categories/{category_id}": {"catalogue"},
    "GET /products": {"read"},
    "POST /products": {"catalogue", "stock"},
    "GET /products/low-stock": {"read"},
    "GET /products/feed": {"read"},
    "GET /products/by-sku/{sku}": {"read"},
    "GET /products/{product_id}": {"read"},
    "PUT /products/{product_id}": {"catalogue", "stock"},
    "PATCH /products/{product_id}": {"catalogue", "stock"},
    "DELETE /products/{product_id}": {"catalogue"},
    "GET /products/{product_id}/stock": {"read"},
    "POST /products/{product_id}/counts": {"stock"},
    "GET /transactions": {"read"},
    "POST /transactions": {"stock"},
    "POST /transactions/batch": {"stock"},
    "GET /transactions/batch/{batch_id}": {"read"},
    "POST /transactions/batch/{batch_id}/reversal": {"stock"},
    "GET /transactions/feed": {"read"},
    "GET /transactions/{transaction_id}": {"read"},
    "POST /transactions/{transaction_id}/reversal": {"stock"},
    "GET /transactions/product/{product_id}": {"read"},
    "GET /export/products-csv": {"read"},
    "GET /export/products": {"read"},
    "GET /export/transactions": {"read"},
    "POST /import/products": {"catalogue", "stock"},
}
DOCUMENTED = {str(operation): operation for operation in OPERATIONS}
EACH = pytest.mark.parametrize("operation", DOCUMENTED.values(), ids=str)


@pytest.fixture
def everything(keyed: Flask) -> str:
    """A key with all scopes, of the client that has written the rows."""
    return fill(keyed)


def fill(app: Flask) -> str:
    key = new_key(app)
    valid_requests.fill(client_with(app, key))
    return key


@pytest.fixture(scope="module", params=ENGINES)
def shared(request: pytest.FixtureRequest, environments: dict[str, Environments]) -> Iterator[tuple[Flask, str]]:
    """The service with rows, and the key of ``everything``, for all those tests that change nothing but keys."""
    with environments[request.param].one() as environment:
        yield environment.keyed, fill(environment.keyed)


def request_of(operation: Operation, client: FlaskClient) -> ValidRequest:
    """A valid request, whose path has the id of an existing batch."""
    request = valid_requests.valid_requests(operation)[0]
    batch_id = valid_requests.batch_id(client)
    return ValidRequest(
        operation, request.path.replace("{batch_id}", batch_id), request.query, request.body, request.content_type
    )


def test_matrix_lists_every_route(keyed: Flask) -> None:
    assert REQUIRED.keys() == {f"{method} {path}" for method, path in routes(keyed)}


def test_every_route_declares_what_it_requires(keyed: Flask) -> None:
    for rule in keyed.url_map.iter_rules():
        assert access.declared(keyed.view_functions[rule.endpoint]) is not None, rule


def test_view_without_declaration_requires_the_strongest_scope(own_environment: Environment) -> None:
    keyed = own_environment.keyed

    @keyed.get("/undeclared")
    def undeclared() -> str:
        return "secret"

    assert keyed.test_client().get("/undeclared").status_code == 401
    assert client_with(keyed, new_key(keyed, "read", "stock", "catalogue")).get("/undeclared").status_code == 403


@EACH
def test_without_a_key_only_public_routes_answer(operation: Operation, shared: tuple[Flask, str]) -> None:
    keyed, everything = shared
    request = request_of(operation, client_with(keyed, everything))
    with builders.nothing_changes(keyed, but="api_keys"):
        answer = request.send(keyed.test_client())
    if REQUIRED[str(operation)]:
        assert assert_envelope(answer, 401, operation) == "unauthorized"
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="inventory"'
    else:
        assert answer.status_code == 200


@EACH
def test_each_scope_permits_its_routes_and_no_others(operation: Operation, keyed: Flask, everything: str) -> None:
    request, required = request_of(operation, client_with(keyed, everything)), REQUIRED[str(operation)]
    for scope in SCOPES:
        key = new_key(keyed, scope)
        if required <= {scope}:
            assert request.send(client_with(keyed, key)).status_code < 300, scope
            continue
        with builders.nothing_changes(keyed, but="api_keys"):
            answer = request.send(client_with(keyed, key))
        assert assert_envelope(answer, 403, operation) == "insufficient_scope"
        missing = answer.get_json()["details"]["scope"]
        assert missing in required - {scope}
        assert f'scope="{missing}"' in answer.headers["WWW-Authenticate"]


@EACH
def test_all_scopes_but_the_required_ones_permit_nothing(operation: Operation, keyed: Flask, everything: str) -> None:
    request, required = request_of(operation, client_with(keyed, everything)), REQUIRED[str(operation)]
    for missing in required:
        key = new_key(keyed, *SCOPES.keys() - {missing})
        with builders.nothing_changes(keyed, but="api_keys"):
            answer = request.send(client_with(keyed, key))
        assert assert_envelope(answer, 403, operation) == "insufficient_scope"
        assert answer.get_json()["details"] == {"scope": missing}
    if required:
        assert request.send(client_with(keyed, new_key(keyed, *required))).status_code < 300


@EACH
def test_revoked_key_permits_as_much_as_none(operation: Operation, shared: tuple[Flask, str]) -> None:
    keyed, everything = shared
    request = request_of(operation, client_with(keyed, everything))
    revoked = new_key(keyed, name="revoked")
    with keyed.app_context():
        keys.revoke("revoked")
    with builders.nothing_changes(keyed, but="api_keys"):
        answer = request.send(client_with(keyed, revoked))
    if REQUIRED[str(operation)]:
        assert assert_envelope(answer, 401, operation) == "unauthorized"
    else:
        assert answer.status_code == 200
