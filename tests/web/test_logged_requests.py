"""What is logged of requests, movements, refusals and failures, and what never is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from inventory import create_app
from inventory.database.base import db, unit_of_work_connection
from tests.auth.credentials import new_key
from tests.builders import product, transaction
from tests.logged import logged
from tests.servers import free_port
from tests.web.secret_values import send_everywhere

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient

    from tests.environments import Environment
    from tests.logged import Log

NEW_ID = re.compile(r"[0-9a-f]{32}")
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "hidden8153"  # noqa: S105


@pytest.fixture
def log() -> Iterator[Log]:
    with logged() as captured:
        yield captured


@pytest.fixture
def dead() -> Flask:
    """The application with a database server that does not answer."""
    return create_app({"DATABASE_URL": f"postgresql://{SECRET}:{SECRET}@127.0.0.1:{free_port()}/{SECRET}"})


@pytest.mark.parametrize("sent", ["till-3.815_A", "a" * 128])
def test_well_formed_request_id_is_returned_and_logged(client: FlaskClient, log: Log, sent: str) -> None:
    assert client.get("/health/live", headers={"X-Request-ID": sent}).headers["X-Request-ID"] == sent
    assert log.one("request")["request_id"] == sent


@pytest.mark.parametrize(
    "sent", ["", "a" * 129, "a" * 10_240, "a b", "a,b", 'a"', "ä", "a\\n"], ids=lambda sent: sent[:9]
)
def test_other_request_id_is_replaced(client: FlaskClient, log: Log, sent: str) -> None:
    returned = client.get("/health/live", headers={"X-Request-ID": sent}).headers["X-Request-ID"]
    assert NEW_ID.fullmatch(returned)
    assert log.one("request")["request_id"] == returned


@pytest.mark.parametrize("broken", ["a\nb", "a\r\nX: y", "a\x00", "a\n"])
def test_request_id_with_a_line_break_is_replaced(client: FlaskClient, log: Log, broken: str) -> None:
    # No HTTP client sends it, so it is put where the server would put it.
    returned = client.get("/health/live", environ_overrides={"HTTP_X_REQUEST_ID": broken}).headers["X-Request-ID"]
    assert NEW_ID.fullmatch(returned)
    assert len(log.lines()) == 1


def test_two_requests_get_different_ids(client: FlaskClient) -> None:
    assert len({client.get("/health/live").headers["X-Request-ID"] for _ in range(5)}) == 5


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 200),
        ("GET", "/nothing", {}, 404),
        ("POST", "/%2Fproducts", {}, 404),
        ("OPTIONS", "/products", {}, 200),
        ("PUT", "/products", {}, 405),
        ("POST", "/categories", {}, 400),
        ("BREW", "/products", {}, 405),
        ("POST", "/categories", {"Origin": "http://other.example"}, 403),
        ("GET", "/products", {"Host": "a b"}, 400),
        ("GET", "/products?colour=blue", {}, 422),
        ("GET", "/export/products", {}, 200),
        ("GET", "/docs/", {}, 200),
    ],
)
def test_every_response_has_its_id(  # noqa: PLR0917
    client: FlaskClient, log: Log, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    response = client.open(path, method=method, headers=headers, buffered=True)
    assert response.status_code == status
    assert {line["request_id"] for line in log.lines()} == {response.headers["X-Request-ID"]}
    line = log.one("request")
    assert (line["status"], line["method"]) == (status, "other" if method == "BREW" else method)


@pytest.mark.parametrize("version", ["00-{}-{}-01", "01-{}-{}-01", "cc-{}-{}-01-later"])
def test_trace_of_the_caller_is_logged(client: FlaskClient, log: Log, version: str) -> None:
    client.get("/health/live", headers={"traceparent": version.format(TRACE_ID, PARENT_ID)})
    line = log.one("request")
    assert (line["trace_id"], line["parent_id"]) == (TRACE_ID, PARENT_ID)


@pytest.mark.parametrize(
    "sent",
    [
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{PARENT_ID}-01-later",
        f"01-{TRACE_ID}-{PARENT_ID}-01later",
        f"00-{TRACE_ID}-{PARENT_ID}",
        f"00-{TRACE_ID}1-{PARENT_ID}-01",
        "",
    ],
)
def test_invalid_trace_is_ignored(client: FlaskClient, log: Log, sent: str) -> None:
    client.get("/health/live", headers={"traceparent": sent})
    assert not log.one("request").keys() & {"trace_id", "parent_id"}


def test_request_line_has_route_status_duration_statements_and_rows(client: FlaskClient, log: Log) -> None:
    row = product(client, quantity_on_hand=5)
    transaction(client, row["id"], "sale", 2)
    client.get(f"/products/{row['id']}")
    line = log.lines("request")[-1]
    shown = ("level", "method", "route", "status", "statements", "rows")
    assert tuple(line[name] for name in shown) == ("info", "GET", "/products/<id:product_id>", 200, 2, 2)
    assert line["duration_ms"] >= line["database_ms"] > 0


def test_begin_commit_and_statements_of_the_orm_are_counted(database_url: str, log: Log) -> None:
    app = create_app({"DATABASE_URL": database_url, "INVENTORY_SLOW_REQUEST_MS": 0})
    assert app.test_client().post("/categories", json={"name": "Kitchen"}).status_code == 201
    with app.app_context():
        db.engine.dispose()
    names = {shown["statement"].removesuffix(" IMMEDIATE") for shown in log.one("request")["slow"]}
    assert names >= {"BEGIN", "INSERT categories", "COMMIT"}


def test_failed_statement_of_sqlalchemy_is_counted(own_environment: Environment, log: Log) -> None:
    @own_environment.app.get("/broken")
    def broken() -> str:
        db.session.execute(text("SELEKT 1"))
        return "not reached"

    own_environment.app.test_client().get("/broken")
    assert log.one("request")["statements"] == 1


def test_movement_of_a_repeated_transaction_is_logged_once(
    client: FlaskClient, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [DBAPIError("COMMIT", None, Exception(), connection_invalidated=True)]

    def fail_once() -> Any:
        if failures:
            raise failures.pop()
        return unit_of_work_connection()

    row = product(client, quantity_on_hand=5)
    lines = [{"product_id": row["id"], "transaction_type": "sale", "quantity": 1}]
    monkeypatch.setattr("inventory.database.unit_of_work.unit_of_work_connection", fail_once)
    headers = {"Idempotency-Key": "till-3/1"}
    assert client.post("/transactions/batch", json=lines, headers=headers).status_code == 201
    assert failures == []
    assert [line["delta"] for line in log.lines("movement")] == [5, -1]


def test_rows_of_an_export_are_counted_at_its_end(client: FlaskClient, log: Log) -> None:
    for _ in range(3):
        product(client)
    response = client.get("/export/products")
    assert len(log.lines("request")) == 6
    assert len(response.text.splitlines()) == 4
    response.close()
    assert log.lines("request")[-1]["rows"] == 3


def test_movement_is_one_line_without_the_text_of_the_client(client: FlaskClient, log: Log) -> None:
    row = product(client, quantity_on_hand=5)
    sale = transaction(client, row["id"], "sale", 2, reference=SECRET, notes=SECRET)
    opening, line = log.lines("movement")
    assert (opening["transaction_type"], opening["delta"]) == ("adjustment", 5)
    expected = {"id": sale["id"], "product_id": row["id"], "transaction_type": "sale", "delta": -2, "balance_after": 3}
    assert line.items() >= expected.items()
    assert line["request_id"] == log.lines("request")[-1]["request_id"]
    assert SECRET not in log.text


def test_batch_is_one_line_for_each_movement(client: FlaskClient, log: Log) -> None:
    row = product(client, quantity_on_hand=5)
    lines = [{"product_id": row["id"], "transaction_type": "sale", "quantity": count} for count in (1, 2)]
    batch = client.post("/transactions/batch", json={"lines": lines}).get_json()
    assert [(line["delta"], line["batch_id"]) for line in log.lines("movement")[1:]] == [
        (-1, batch["batch_id"]),
        (-2, batch["batch_id"]),
    ]


def test_import_is_one_line_for_all_movements(client: FlaskClient, log: Log) -> None:
    kept = product(client, sku="KEPT", quantity_on_hand=5)
    rows = "".join(f"NEW-{number},name,2,K,{number}\n" for number in range(1, 4))
    content = f"sku,name,price,category,quantity_on_hand\n{rows}KEPT,{kept['name']},10,K,1\n"
    assert client.post("/import/products", data=content, content_type="text/csv").status_code == 200
    line = log.one("import")
    assert (line["movements"], line["units"]) == (4, 1 + 2 + 3 + 4)
    assert len(log.lines("movement")) == 1


@pytest.mark.parametrize(
    "changes", [{"quantity": 6}, {"dry_run": True}, {"key": "used"}], ids=["refused", "dry run", "replayed"]
)
def test_what_is_not_committed_is_not_logged_as_a_movement(
    client: FlaskClient, log: Log, changes: dict[str, Any]
) -> None:
    row = product(client, quantity_on_hand=5)
    sale = {"product_id": row["id"], "transaction_type": "sale", "quantity": changes.get("quantity", 1)}
    headers = {"Idempotency-Key": "used"}
    if "key" in changes:
        client.post("/transactions", json=sale, headers=headers)
    before = len(log.lines("movement"))
    client.post("/transactions", json=sale, headers=headers, query_string={"dry_run": "dry_run" in changes})
    assert len(log.lines("movement")) == before


def test_batch_that_fails_halfway_logs_no_movement(
    client: FlaskClient, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> NoReturn:
        raise RuntimeError

    row = product(client, quantity_on_hand=5)
    monkeypatch.setattr("inventory.database.unit_of_work.unit_of_work_connection", fail)
    transaction_of = {"product_id": row["id"], "transaction_type": "sale", "quantity": 1}
    assert client.post("/transactions/batch", json=[transaction_of]).status_code == 500
    assert len(log.lines("movement")) == 1


def test_refusal_is_one_line_with_its_slug(client: FlaskClient, log: Log) -> None:
    row = product(client, quantity_on_hand=5)
    sale = {"product_id": row["id"], "transaction_type": "sale", "quantity": 6}
    client.post("/transactions", json=sale)
    line = log.one("refusal")
    assert (line["level"], line["error"], line["status"]) == ("info", "insufficient_stock", 400)
    assert log.lines("request")[-1].items() >= {"error": "insufficient_stock", "level": "info"}.items()


def test_name_of_the_key_is_logged_and_never_the_key(keyed: Flask, log: Log) -> None:
    key = new_key(keyed, "read", name="till-3")
    client = keyed.test_client()
    assert client.get("/products", headers={"X-API-Key": key}).status_code == 200
    assert log.one("request")["key_name"] == "till-3"
    assert client.post("/categories", json={"name": "x"}, headers={"X-API-Key": key}).status_code == 403
    assert log.one("refusal").items() >= {"error": "insufficient_scope", "key_name": "till-3"}.items()
    assert key not in log.text
    assert key.split("_", 2)[2] not in log.text


def test_refused_keys_are_warnings_with_the_reason_and_limited(keyed: Flask, log: Log) -> None:
    client = keyed.test_client()
    for _ in range(50):
        assert client.get("/products", headers={"X-API-Key": f"inv_0123456789ab_{'x' * 43}"}).status_code == 401
    refusals = log.lines("refusal")
    assert len(refusals) == len(log.lines("request")) == 5
    assert {line["level"] for line in refusals} == {"warning"}
    assert {line["cause"] for line in refusals} == {"API key refused: key 0123456789ab: unknown"}
    assert {line["address"] for line in refusals} == {"127.0.0.1"}
    log.now = 60.0
    client.get("/health/live")
    assert log.lines("request")[-1]["dropped"] == {"refusal: unauthorized": 45, "unauthorized": 45}


@pytest.mark.parametrize(
    ("request_line", "headers", "kind"),
    [
        ("POST /nowhere", {}, "no route"),
        ("DELETE /health/live", {}, "no route"),
        ("GET /products", {"Host": "not a host"}, "bad_request"),
        ("GET /products?search=" + "x" * 9_000, {}, "uri_too_long"),
        ("POST /products", {"Sec-Fetch-Site": "cross-site"}, "cross_site_request"),
        ("POST /products", {"Transfer-Encoding": "gzip"}, "not_implemented"),
        ("GET /products", {}, "rate_limited"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)
def test_refusals_that_anyone_can_cause_are_limited(
    environment: Environment, log: Log, request_line: str, headers: dict[str, str], kind: str
) -> None:
    method, path = request_line.split()
    app = create_app({"DATABASE_URL": environment.url, "INVENTORY_LIMIT_READS": 1})
    client = app.test_client()
    client.get("/products")  # the only read that is not rate-limited
    before = len(log.lines("request"))
    for _ in range(50):
        client.open(path, method=method, headers=headers)
    assert len(log.lines("refusal")) == len(log.lines("request")) - before == 5
    log.now = 60.0
    client.get("/health/live")
    assert log.lines("request")[-1]["dropped"] == {f"refusal: {kind}": 45, kind: 45}
    with app.app_context():
        db.engine.dispose()


def test_request_that_meets_a_dead_database_is_one_line_and_limited(dead: Flask, log: Log) -> None:
    client = dead.test_client()
    assert client.get("/products/1", query_string={"include_opening": "true"}).status_code == 503
    (line,) = log.lines()
    assert line["level"] == "error"
    assert line["error"] == "database_unavailable"
    assert line["cause"].startswith("OperationalError: connection failed")
    assert "exception" not in line
    for _ in range(30):
        client.get("/products/1")
    assert len(log.lines()) == 5
    log.now = 60.0
    client.get("/products/1")
    assert log.lines()[-1]["dropped"] == {"database_unavailable": 26}
    assert SECRET not in log.text


def test_secrets_are_in_no_line(own_environment: Environment, log: Log) -> None:
    log.handler.filters.clear()  # all lines are examined
    statuses = send_everywhere(own_environment.app, SECRET)
    assert statuses >= {404, 405, 422, 500}
    assert len(log.lines("request")) > 30
    assert SECRET not in log.text


def test_unexpected_exception_is_one_line_with_its_traceback(own_environment: Environment, log: Log) -> None:
    @own_environment.app.get("/broken")
    def broken() -> NoReturn:
        raise KeyError(SECRET)

    assert own_environment.app.test_client().get("/broken").status_code == 500
    (line,) = log.lines()
    assert (line["level"], line["error"]) == ("error", "internal_error")
    assert "in broken\n" in line["exception"]
    assert "KeyError" in line["exception"]
    assert SECRET not in log.text


def test_unexpected_database_error_is_one_line_with_its_statement(own_environment: Environment, log: Log) -> None:
    @own_environment.app.get("/broken")
    def broken() -> str:
        db.session.execute(text("INSERT INTO categories (id, name) VALUES (1, :name)"), {"name": SECRET})
        return "not reached"

    assert own_environment.app.test_client().get("/broken").status_code == 500
    (line,) = log.lines()
    assert "IntegrityError" in line["cause"] or "NotNullViolation 23502" in line["cause"]
    assert line["cause"].endswith("(INSERT categories)")
    assert "in broken\n" in line["exception"]
    assert SECRET not in log.text


def test_error_after_the_beginning_of_a_response_is_logged(own_environment: Environment, log: Log) -> None:
    @own_environment.app.get("/broken")
    def broken() -> Iterator[str]:
        yield "begun"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        own_environment.app.test_client().get("/broken", buffered=True)
    line = log.one("request")
    assert (line["level"], line["status"]) == ("error", 200)
    assert "in broken\n" in line["exception"]


def test_slow_request_is_a_warning_with_its_statements(database_url: str, log: Log) -> None:
    app = create_app({"DATABASE_URL": database_url, "INVENTORY_SLOW_REQUEST_MS": 0})
    app.test_client().get("/products/1")
    with app.app_context():
        db.engine.dispose()
    line = log.one("request")
    assert line["level"] == "warning"
    assert [(shown["statement"], shown["count"]) for shown in line["slow"]] == [("SELECT products", 1)]


def test_fast_request_does_not_name_its_statements(client: FlaskClient, log: Log) -> None:
    client.get("/products/1")
    assert "slow" not in log.one("request")


def test_text_is_readable(client: FlaskClient) -> None:
    with logged("text") as log:
        client.get("/products/1", headers={"X-Request-ID": "till-3"})
    refusal, request = log.text.splitlines()
    assert " refusal error=product_not_found status=404 " in refusal
    assert " INFO    request method=GET route=/products/<id:product_id> status=404 duration_ms=" in request
    assert request.endswith(" request_id=till-3")
