"""Responses when the database is unavailable, busy or full, or reports a violated constraint."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import Integer, event, func, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError

from inventory import create_app
from inventory.database.base import Base, begin, db, fetch_value
from inventory.database.engines import WRITE, snapshot
from inventory.database.errors import BY_CONSTRAINT
from inventory.database.query import Query
from inventory.database.unit_of_work import unit_of_work
from tests.builders import assert_ledger_is_consistent, body, category, nothing_changes, product
from tests.clients import HttpClient, at_once
from tests.conftest import ENGINES, SERVER
from tests.contract import OPERATIONS, Operation, assert_envelope
from tests.servers import free_port
from tests.valid_requests import fill, valid_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient
    from sqlalchemy import Engine
    from werkzeug.test import TestResponse

    from tests.environments import Environment
    from tests.servers import Gunicorn

on_postgresql = pytest.mark.parametrize("engine_name", {"postgresql"} & set(ENGINES), indirect=True)
on_sqlite = pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)

WITHOUT_DATABASE = ("/", "/health/live", "/docs/", "/openapi.json")
WITH_DATABASE = [operation for operation in OPERATIONS if operation.path not in WITHOUT_DATABASE]
WRITES = [operation for operation in OPERATIONS if operation.method != "GET"]
# Short, since tests wait for it to pass.
DEADLINE_MS = 100


@pytest.fixture
def environment(own_environment: Environment) -> Environment:
    return own_environment


def assert_try_again(response: TestResponse, slug: str, what: object) -> None:
    assert assert_envelope(response, 503, what) == slug
    assert int(response.headers["Retry-After"]) >= 1


def engine_of(app: Flask) -> Engine:
    """The app's engine, for use outside its context: requests within one would share its session."""
    with app.app_context():
        return db.engine


@contextmanager
def closing_pool(app: Flask) -> Iterator[Flask]:
    yield app
    engine_of(app).dispose()


@pytest.fixture
def impatient_app(database_url: str) -> Iterator[Flask]:
    """The service with sample data, a short deadline and a pool of three connections."""
    settings = {"INVENTORY_BUSY_TIMEOUT_MS": DEADLINE_MS, "INVENTORY_THREADS": 1}
    with closing_pool(create_app({"DATABASE_URL": database_url, **settings})) as app:
        fill(app.test_client())
        yield app


# Unavailable.


def no_server(_path: Path) -> str:
    return f"postgresql://127.0.0.1:{free_port()}/stock"


def no_such_database(_path: Path) -> str:
    if SERVER is None:
        pytest.skip("no PostgreSQL is reachable")
    return SERVER.url(f"inventory_test_{uuid4().hex}")


def no_folder(path: Path) -> str:
    return f"sqlite:///{path / 'missing' / 'inventory.db'}"


def no_database_file(path: Path) -> str:
    (path / "notes.txt").write_text("These are no pages of a database. " * 100)
    return f"sqlite:///{path / 'notes.txt'}"


@pytest.mark.parametrize("where", [no_server, no_such_database, no_folder, no_database_file])
def test_unreachable_database_returns_503_on_every_route(tmp_path: Path, where: Callable[[Path], str]) -> None:
    with closing_pool(create_app({"DATABASE_URL": where(tmp_path)})) as app:
        client = app.test_client()
        for operation in WITH_DATABASE:
            response = send_request(client, operation)
            assert_try_again(response, "database_unavailable", operation)
        for path in WITHOUT_DATABASE:
            assert client.get(path).status_code == 200


def send_request(client: FlaskClient, operation: Operation) -> TestResponse:
    """Send the operation's valid request, with a made-up batch id where it needs one."""
    valid = valid_requests(operation)[0]
    return valid.send(client, path=valid.path.format(batch_id=uuid4()))


def test_unmigrated_database_returns_503_on_every_route(empty_database_url: str) -> None:
    with closing_pool(create_app({"DATABASE_URL": empty_database_url})) as app:
        for operation in WITH_DATABASE:
            response = send_request(app.test_client(), operation)
            assert_try_again(response, "database_unavailable", operation)
            assert "db upgrade" in body(response)["message"]


@on_postgresql
def test_write_succeeds_after_pooled_connections_are_terminated(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5)
    end_connections(app)
    sale = client.post("/transactions", json={"product_id": bolt["id"], "transaction_type": "sale", "quantity": 1})
    assert sale.status_code == 201, sale.text
    assert_ledger_is_consistent(app)


@on_postgresql
def test_reads_recover_after_pooled_connections_are_terminated(app: Flask, client: FlaskClient) -> None:
    category(client)
    end_connections(app)
    response = client.get("/categories")
    if response.status_code != 200:
        assert_try_again(response, "database_unavailable", "the first request")
    assert client.get("/categories").status_code == 200


def end_connections(app: Flask) -> None:
    """Terminate the app's pooled connections, as a restart of the server does."""
    assert SERVER is not None
    engine = engine_of(app)
    assert engine.pool.checkedin() >= 1  # type: ignore[attr-defined]
    clients = "SELECT pid FROM pg_stat_activity WHERE datname = :name AND backend_type = 'client backend'"
    others = f"SELECT pg_terminate_backend(pid, 5000) FROM ({clients}) AS clients"
    with closing_pool(create_app({"DATABASE_URL": SERVER.address})) as outside, outside.app_context():
        assert all(db.session.scalars(text(others), {"name": engine.url.database}))


# Busy.


@contextmanager
def held_for_writing(app: Flask) -> Iterator[None]:
    """Another writer that does not end. It holds SQLite's write lock; on PostgreSQL it locks the tables."""
    with engine_of(app).connect().execution_options(**WRITE) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE categories, products IN EXCLUSIVE MODE"))
        yield


@pytest.mark.slow
def test_write_returns_503_busy_after_lock_timeout(impatient_app: Flask) -> None:
    client = impatient_app.test_client()
    for operation in WRITES:
        valid = valid_requests(operation)[0]
        with nothing_changes(impatient_app), held_for_writing(impatient_app):
            started = time.monotonic()
            response = valid.send(client)
            waited = time.monotonic() - started
        assert_try_again(response, "database_busy", operation)
        assert waited >= DEADLINE_MS / 1000


def test_reads_succeed_while_write_lock_is_held(impatient_app: Flask) -> None:
    client = impatient_app.test_client()
    with held_for_writing(impatient_app):
        for operation in OPERATIONS:
            if operation.method == "GET":
                answer = valid_requests(operation)[0].send(client)
                assert answer.status_code == 200, f"{operation}: {answer.text}"


def test_writes_succeed_once_lock_is_released(impatient_app: Flask) -> None:
    client = impatient_app.test_client()
    sale = {"product_id": 1, "transaction_type": "sale", "quantity": 1}
    with held_for_writing(impatient_app):
        assert client.post("/transactions", json=sale).status_code == 503
    assert client.post("/transactions", json=sale).status_code == 201
    assert_ledger_is_consistent(impatient_app)


@on_postgresql
def test_locked_product_does_not_block_others(impatient_app: Flask) -> None:
    client = impatient_app.test_client()
    with engine_of(impatient_app).connect().execution_options(**WRITE) as connection, connection.begin():
        connection.execute(text("SELECT id FROM products WHERE id = 1 FOR UPDATE"))
        locked = client.post("/transactions", json={"product_id": 1, "transaction_type": "sale", "quantity": 1})
        other = client.post("/transactions", json={"product_id": 2, "transaction_type": "sale", "quantity": 1})
    assert_try_again(locked, "database_busy", "the locked product")
    assert other.status_code == 201


def test_exhausted_pool_returns_503_busy(impatient_app: Flask) -> None:
    client = impatient_app.test_client()
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(engine_of(impatient_app).connect())
        for operation in WITH_DATABASE:
            assert_try_again(send_request(client, operation), "database_busy", operation)
        assert client.get("/health/live").status_code == 200
    assert client.get("/health").status_code == 200


@on_postgresql
def test_slow_read_returns_503_query_too_slow(database_url: str) -> None:
    settings = {"DATABASE_URL": database_url, "INVENTORY_STATEMENT_TIMEOUT_MS": DEADLINE_MS}
    with closing_pool(create_app(settings)) as app:

        @app.get("/slow")
        def slow() -> str:
            return str(db.session.scalar(select(func.pg_sleep(60))))

        @app.post("/slow")
        @unit_of_work
        def slow_write() -> str:
            return str(fetch_value(select(func.pg_sleep(60))))

        assert_try_again(app.test_client().get("/slow"), "query_too_slow", "a slow read")
        # It was most likely waiting for a lock.
        assert_try_again(app.test_client().post("/slow"), "database_busy", "a slow write")


# Takes minutes, unless it is interrupted.
ENDLESS = text(
    "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000000000) SELECT sum(n) FROM n"
)
# Takes longer than the deadline of these tests, but not long.
LONG = text("WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 300000) SELECT max(n) FROM n")


@on_sqlite
@pytest.mark.parametrize("is_query", [False, True], ids=["statement", "query"])
def test_slow_read_of_sqlite_returns_503_query_too_slow(database_url: str, is_query: bool) -> None:
    settings = {"DATABASE_URL": database_url, "INVENTORY_STATEMENT_TIMEOUT_MS": 50}
    endless = Query(ENDLESS.columns(n=Integer)) if is_query else ENDLESS
    with closing_pool(create_app(settings)) as app:

        @app.get("/slow")
        def slow() -> str:
            return str(fetch_value(endless))

        assert_try_again(app.test_client().get("/slow"), "query_too_slow", "a slow read")
        # The connection can be used again.
        assert app.test_client().get("/health").status_code == 200


@on_sqlite
def test_transactions_of_sqlite_have_no_deadline(database_url: str) -> None:
    """Writes, exports, verification and backups."""
    with closing_pool(create_app({"DATABASE_URL": database_url, "INVENTORY_STATEMENT_TIMEOUT_MS": 1})) as app:
        with app.app_context(), pytest.raises(DBAPIError):
            fetch_value(LONG)
        with app.app_context(), snapshot(db.engine) as connection:
            assert connection.execute(LONG).scalar() == 300_000
        with app.app_context(), begin(WRITE):
            assert fetch_value(LONG) == 300_000


# Full.


@on_sqlite
def test_full_disk_returns_507_and_keeps_earlier_writes(app: Flask, client: FlaskClient) -> None:
    with app.app_context():
        pages = db.session.scalar(text("PRAGMA page_count"))
        db.session.remove()
        db.engine.dispose()
        limit = f"PRAGMA max_page_count={pages + 4}"
        event.listen(db.engine, "connect", lambda connection, _record: connection.execute(limit))
    answers = [client.post("/categories", json={"name": f"{n}", "description": "x" * 500}) for n in range(100)]
    rejected = [answer for answer in answers if answer.status_code != 201]
    assert rejected
    for answer in rejected:
        assert assert_envelope(answer, 507, "a full disk") == "storage_full"
    listed = client.get("/categories?limit=1000").get_json()
    assert len(listed) == len(answers) - len(rejected)


# Violated constraints.


def create_reversal(client: FlaskClient) -> None:
    assert client.post("/transactions/3/reversal").status_code == 201


def create_movement_with_key(client: FlaskClient) -> None:
    sale = {"product_id": 1, "transaction_type": "sale", "quantity": 1}
    assert client.post("/transactions", json=sale, headers={"Idempotency-Key": "k"}).status_code == 201


def create_batch_with_key(client: FlaskClient) -> None:
    lines = [{"product_id": 1, "transaction_type": "sale", "quantity": 1}]
    assert client.post("/transactions/batch", json=lines, headers={"Idempotency-Key": "k"}).status_code == 201


# For each mapped constraint: how to create its newest row, and what else a copy of that row must change.
VIOLATIONS: dict[str, tuple[Callable[[FlaskClient], Any], dict[str, Any]]] = {
    "uq_categories_name_folded": (category, {"id": 1_000}),
    "uq_products_sku_folded": (product, {"id": 1_000}),
    "uq_transactions_reverses_id": (create_reversal, {"id": 1_000, "seq": 1_000}),
    "uq_transactions_idempotency_key_client": (create_movement_with_key, {"id": 1_000, "seq": 1_000}),
    "uq_batches_idempotency_key_client": (create_batch_with_key, {"id": str(uuid4())}),
}


def test_every_mapped_constraint_exists_in_the_database(app: Flask) -> None:
    with app.app_context():
        found = inspect(db.engine)
        constraints = {
            constraint["name"]
            for table in found.get_table_names()
            for constraint in [*found.get_unique_constraints(table), *found.get_indexes(table)]
        }
    assert set(BY_CONSTRAINT) == set(VIOLATIONS) <= constraints


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violated_constraint_returns_its_mapped_error(app: Flask, client: FlaskClient, name: str) -> None:
    make_row, changes = VIOLATIONS[name]
    table = Base.metadata.tables[name.split("_")[1]]

    @app.post("/copy")
    @unit_of_work
    def copy() -> str:
        stored = [column for column in table.c if column.computed is None]
        newest = select(*stored).order_by(table.c.created_at.desc()).limit(1)
        row = db.session.execute(newest).mappings().one()
        db.session.execute(insert(table).values({**row, **changes}))
        return "not refused"

    fill(client)
    make_row(client)
    with nothing_changes(app):
        response = client.post("/copy")
    error = BY_CONSTRAINT[name]
    assert assert_envelope(response, error.status, name) == error.slug


@pytest.mark.parametrize(
    ("path", "fields", "slug"),
    [
        ("/categories", {"name": "Nuts"}, "duplicate_category"),
        ("/products", {"sku": "NUT-8", "name": "Nut", "price": 1, "category_id": 1}, "duplicate_sku"),
    ],
    ids=["category", "product"],
)
def test_concurrent_duplicates_are_created_once(server: Gunicorn, path: str, fields: dict[str, Any], slug: str) -> None:
    with HttpClient(server.url) as client:
        assert client.post("/categories", {"name": "Bolts"}).status == 201

    def create() -> tuple[int, str | None]:
        with HttpClient(server.url) as client:
            answer = client.post(path, fields)
            return answer.status, answer.json.get("error")

    answers = at_once(create, 8)
    assert sorted(answers, key=str) == [(201, None)] + [(409, slug)] * 7
