"""What clients are told when the database is away, busy or full, and when it is the one to refuse."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import event, func, insert, inspect, select, text

from inventory import create_app
from inventory.database.base import Base, db, unit_of_work
from inventory.database.engines import WRITE
from inventory.database.errors import BY_CONSTRAINT
from tests.builders import assert_ledger_is_sound, body, category, nothing_changes, product
from tests.clients import HttpClient, at_once
from tests.conftest import ENGINES, SERVER
from tests.contract import OPERATIONS, Operation, assert_envelope
from tests.servers import free_port
from tests.valid_requests import fill, sound_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flask import Flask
    from flask.testing import FlaskClient
    from sqlalchemy import Engine
    from werkzeug.test import TestResponse

    from tests.servers import Gunicorn

on_postgresql = pytest.mark.parametrize("engine_name", {"postgresql"} & set(ENGINES), indirect=True)
on_sqlite = pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)

WITHOUT_DATABASE = ("/", "/health/live", "/docs/", "/openapi.json")
WITH_DATABASE = [operation for operation in OPERATIONS if operation.path not in WITHOUT_DATABASE]
WRITES = [operation for operation in OPERATIONS if operation.method != "GET"]
# Short, since tests wait for it to pass.
DEADLINE_MS = 100


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
    """The service on sound data, with a short deadline and a pool of three connections."""
    settings = {"INVENTORY_BUSY_TIMEOUT_MS": DEADLINE_MS, "INVENTORY_THREADS": 1}
    with closing_pool(create_app({"DATABASE_URL": database_url, **settings})) as app:
        fill(app.test_client())
        yield app


# Away.


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
def test_without_its_database_the_service_says_so_on_every_route(tmp_path: Path, where: Callable[[Path], str]) -> None:
    with closing_pool(create_app({"DATABASE_URL": where(tmp_path)})) as app:
        client = app.test_client()
        for operation in WITH_DATABASE:
            response = a_request(client, operation)
            assert_try_again(response, "database_unavailable", operation)
        for path in WITHOUT_DATABASE:
            assert client.get(path).status_code == 200


def a_request(client: FlaskClient, operation: Operation) -> TestResponse:
    """The operation's sound request; a batch's id need not be a true one."""
    sound = sound_requests(operation)[0]
    return sound.send(client, path=sound.path.format(batch_id=uuid4()))


def test_a_database_without_tables_is_unavailable(empty_database_url: str) -> None:
    with closing_pool(create_app({"DATABASE_URL": empty_database_url})) as app:
        for operation in WITH_DATABASE:
            response = a_request(app.test_client(), operation)
            assert_try_again(response, "database_unavailable", operation)
            assert "db upgrade" in body(response)["message"]


@on_postgresql
def test_a_write_outlives_the_end_of_its_pooled_connections(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5)
    end_connections(app)
    sale = client.post("/transactions", json={"product_id": bolt["id"], "transaction_type": "sale", "quantity": 1})
    assert sale.status_code == 201, sale.text
    assert_ledger_is_sound(app)


@on_postgresql
def test_reads_are_answered_again_after_the_end_of_their_pooled_connections(app: Flask, client: FlaskClient) -> None:
    category(client)
    end_connections(app)
    response = client.get("/categories")
    if response.status_code != 200:
        assert_try_again(response, "database_unavailable", "the first request")
    assert client.get("/categories").status_code == 200


def end_connections(app: Flask) -> None:
    """Do to the app's pooled connections what a restart of the server does."""
    assert SERVER is not None
    engine = engine_of(app)
    assert engine.pool.checkedin() >= 1  # type: ignore[attr-defined]
    others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name"
    with closing_pool(create_app({"DATABASE_URL": SERVER.address})) as outside, outside.app_context():
        assert all(db.session.scalars(text(others), {"name": engine.url.database}))


# Busy.


@contextmanager
def held_for_writing(app: Flask) -> Iterator[None]:
    """Another writer that does not end: SQLite's one write lock, on PostgreSQL the tables themselves."""
    with engine_of(app).connect().execution_options(**{WRITE: True}) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE categories, products IN EXCLUSIVE MODE"))
        yield


def test_a_write_that_waits_for_a_lock_past_the_deadline_is_refused_as_busy(impatient_app: Flask) -> None:
    client = impatient_app.test_client()
    for operation in WRITES:
        sound = sound_requests(operation)[0]
        with nothing_changes(impatient_app), held_for_writing(impatient_app):
            started = time.monotonic()
            response = sound.send(client)
            waited = time.monotonic() - started
        assert_try_again(response, "database_busy", operation)
        assert waited >= DEADLINE_MS / 1000


def test_reads_are_answered_while_a_writer_holds_its_lock(impatient_app: Flask) -> None:
    client = impatient_app.test_client()
    with held_for_writing(impatient_app):
        for operation in OPERATIONS:
            if operation.method == "GET":
                answer = sound_requests(operation)[0].send(client)
                assert answer.status_code == 200, f"{operation}: {answer.text}"


def test_writes_are_accepted_once_the_lock_is_released(impatient_app: Flask) -> None:
    client = impatient_app.test_client()
    sale = {"product_id": 1, "transaction_type": "sale", "quantity": 1}
    with held_for_writing(impatient_app):
        assert client.post("/transactions", json=sale).status_code == 503
    assert client.post("/transactions", json=sale).status_code == 201
    assert_ledger_is_sound(impatient_app)


@on_postgresql
def test_one_locked_product_does_not_hold_up_the_others(impatient_app: Flask) -> None:
    client = impatient_app.test_client()
    with engine_of(impatient_app).connect() as connection, connection.begin():
        connection.execute(text("SELECT id FROM products WHERE id = 1 FOR UPDATE"))
        locked = client.post("/transactions", json={"product_id": 1, "transaction_type": "sale", "quantity": 1})
        other = client.post("/transactions", json={"product_id": 2, "transaction_type": "sale", "quantity": 1})
    assert_try_again(locked, "database_busy", "the locked product")
    assert other.status_code == 201


def test_a_request_that_gets_no_connection_in_time_is_refused_as_busy(impatient_app: Flask) -> None:
    client = impatient_app.test_client()
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(engine_of(impatient_app).connect())
        for operation in WITH_DATABASE:
            assert_try_again(a_request(client, operation), "database_busy", operation)
        assert client.get("/health/live").status_code == 200
    assert client.get("/health").status_code == 200


@on_postgresql
def test_a_statement_that_runs_past_its_time_is_refused_as_busy(database_url: str) -> None:
    settings = {"DATABASE_URL": database_url, "INVENTORY_STATEMENT_TIMEOUT_MS": DEADLINE_MS}
    with closing_pool(create_app(settings)) as app:

        @app.get("/slow")
        def slow() -> str:
            return str(db.session.scalar(select(func.pg_sleep(60))))

        assert_try_again(app.test_client().get("/slow"), "database_busy", "a slow statement")


# Full.


@on_sqlite
def test_a_full_disk_is_507_and_what_was_written_stays(app: Flask, client: FlaskClient) -> None:
    with app.app_context():
        pages = db.session.scalar(text("PRAGMA page_count"))
        db.session.remove()
        db.engine.dispose()
        limit = f"PRAGMA max_page_count={pages + 4}"
        event.listen(db.engine, "connect", lambda connection, _record: connection.execute(limit))
    answers = [client.post("/categories", json={"name": f"{n}", "description": "x" * 500}) for n in range(100)]
    refused = [answer for answer in answers if answer.status_code != 201]
    assert refused
    for answer in refused:
        assert assert_envelope(answer, 507, "a full disk") == "storage_full"
    listed = client.get("/categories?limit=1000").get_json()
    assert len(listed) == len(answers) - len(refused)


# Refusals of the database's own.


def a_contra_row(client: FlaskClient) -> None:
    assert client.post("/transactions/3/reversal").status_code == 201


def a_movement_with_a_key(client: FlaskClient) -> None:
    sale = {"product_id": 1, "transaction_type": "sale", "quantity": 1}
    assert client.post("/transactions", json=sale, headers={"Idempotency-Key": "k"}).status_code == 201


def a_batch_with_a_key(client: FlaskClient) -> None:
    lines = [{"product_id": 1, "transaction_type": "sale", "quantity": 1}]
    assert client.post("/transactions/batch", json=lines, headers={"Idempotency-Key": "k"}).status_code == 201


# For each constraint that has an answer: how its newest row comes about, and what else its copy has to change.
VIOLATIONS: dict[str, tuple[Callable[[FlaskClient], Any], dict[str, Any]]] = {
    "uq_categories_name_folded": (category, {"id": 1_000}),
    "uq_products_sku_folded": (product, {"id": 1_000}),
    "uq_transactions_reverses_id": (a_contra_row, {"id": 1_000, "seq": 1_000}),
    "uq_transactions_idempotency_key_client": (a_movement_with_a_key, {"id": 1_000, "seq": 1_000}),
    "uq_batches_idempotency_key_client": (a_batch_with_a_key, {"id": str(uuid4())}),
}


def test_every_constraint_with_an_answer_is_one_of_the_database(app: Flask) -> None:
    with app.app_context():
        found = inspect(db.engine)
        constraints = {
            constraint["name"]
            for table in found.get_table_names()
            for constraint in [*found.get_unique_constraints(table), *found.get_indexes(table)]
        }
    assert set(BY_CONSTRAINT) == set(VIOLATIONS) <= constraints


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violated_constraint_is_answered_by_its_name(app: Flask, client: FlaskClient, name: str) -> None:
    make_row, changes = VIOLATIONS[name]
    table = Base.metadata.tables[name.split("_")[1]]

    @app.post("/copy")
    @unit_of_work
    def copy() -> str:
        newest = select(table).order_by(table.c.created_at.desc()).limit(1)
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
    ("path", "facts", "slug"),
    [
        ("/categories", {"name": "Nuts"}, "duplicate_category"),
        ("/products", {"sku": "NUT-8", "name": "Nut", "price": 1, "category_id": 1}, "duplicate_sku"),
    ],
    ids=["category", "product"],
)
def test_of_twins_created_at_once_one_is_made_and_the_others_are_refused(
    server: Gunicorn, path: str, facts: dict[str, Any], slug: str
) -> None:
    with HttpClient(server.url) as client:
        assert client.post("/categories", {"name": "Bolts"}).status == 201

    def create() -> tuple[int, str | None]:
        with HttpClient(server.url) as client:
            answer = client.post(path, facts)
            return answer.status, answer.json.get("error")

    answers = at_once(create, 8)
    assert sorted(answers, key=str) == [(201, None)] + [(409, slug)] * 7
