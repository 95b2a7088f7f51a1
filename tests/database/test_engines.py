"""Connection setup, waiting writers and consistent reads, on real databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.exc import DBAPIError

from inventory import create_app
from inventory.database import sqlite
from inventory.database.base import begin, db
from inventory.database.engines import WRITE
from inventory.database.sqlite import is_patched
from inventory.models.product import Product
from tests.builders import (
    assert_ledger_is_consistent,
    body,
    category,
    error_of,
    listed,
    nothing_changes,
    product,
    transaction,
)
from tests.conftest import on_postgresql, on_sqlite
from tests.statements import watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from flask.testing import FlaskClient
    from sqlalchemy import Connection

    from tests.environments import Environment


@pytest.fixture
def environment(own_environment: Environment) -> Environment:
    return own_environment


@contextmanager
def writing(app: Flask, product_id: int) -> Iterator[None]:
    """Another transaction that has changed the product and not yet committed; it is rolled back at the end."""
    with app.app_context(), begin(WRITE):
        db.session.execute(update(Product).where(Product.id == product_id).values(name="Half done"))
        yield


def sale(product_id: int, quantity: int = 1) -> dict[str, Any]:
    return {"product_id": product_id, "transaction_type": "sale", "quantity": quantity}


def test_uncommitted_changes_are_invisible(app: Flask, impatient: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5)
    with writing(app, bolt["id"]):
        assert listed(impatient.test_client().get("/products")) == [bolt]


def test_writers_wait_for_the_lock(app: Flask, client: FlaskClient, database_url: str) -> None:
    bolt = product(client, quantity_on_hand=5)
    patient = create_app({"DATABASE_URL": database_url, "INVENTORY_BUSY_TIMEOUT_MS": 60_000})
    with ThreadPoolExecutor(4) as threads:
        with writing(app, bolt["id"]):
            waiting = [
                threads.submit(lambda: patient.test_client().post("/transactions", json=sale(bolt["id"])))
                for _ in range(4)
            ]
            assert not wait(waiting, timeout=0.2).done
        assert [answer.result().status_code for answer in waiting] == [201] * 4
    with patient.app_context():
        db.engine.dispose()
    assert body(client.get(f"/products/{bolt['id']}"))["quantity_on_hand"] == 1
    assert_ledger_is_consistent(app)


@on_sqlite
def test_sqlite_connections_have_the_required_pragmas(app: Flask) -> None:
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": app.config["INVENTORY_BUSY_TIMEOUT_MS"],
        "recursive_triggers": 1,
    }
    with app.app_context(), db.engine.connect() as first, db.engine.connect() as second:
        for connection in (first, second):
            found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in expected}
            assert found == expected


@on_sqlite
@pytest.mark.parametrize("patched", [True, False])
def test_sqlite_with_wal_reset_bug_logs_a_warning(
    database_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, *, patched: bool
) -> None:
    monkeypatch.setattr(sqlite, "is_patched", lambda: patched)
    create_app({"DATABASE_URL": database_url})
    warned = any("walresetbug" in record.getMessage() for record in caplog.records)
    assert warned == (not patched)


def test_is_patched_recognizes_sqlite_versions_without_the_bug() -> None:
    patched = [(3, 44, 6), (3, 44, 9), (3, 50, 7), (3, 51, 3), (3, 53, 0), (4, 0, 0)]
    affected = [(3, 7, 0), (3, 40, 1), (3, 44, 5), (3, 45, 0), (3, 50, 6), (3, 51, 0), (3, 51, 2)]
    assert [version for version in patched + affected if is_patched(version)] == patched


@on_postgresql
def test_postgresql_connections_have_timeouts(impatient: Flask) -> None:
    expected = {
        "lock_timeout": "50ms",
        "statement_timeout": "30s",
        "idle_in_transaction_session_timeout": "1min",
        "application_name": "inventory",
    }
    with impatient.app_context(), db.engine.connect() as connection:
        found = {name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in expected}
    assert found == expected


@on_postgresql
def test_database_url_options_override_postgresql_defaults(database_url: str) -> None:
    options = {"application_name": "scanner", "options": "-c statement_timeout=7s -c work_mem=8MB"}
    app = create_app({"DATABASE_URL": f"{database_url}?{urlencode(options, quote_via=quote)}"})
    expected = {"application_name": "scanner", "statement_timeout": "7s", "work_mem": "8MB", "lock_timeout": "5s"}
    with app.app_context():
        with db.engine.connect() as connection:
            found = {name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in expected}
            limit = driver_connection_of(connection).limit
        db.engine.dispose()
    assert found == expected
    assert limit is None


def driver_connection_of(connection: Connection) -> Any:
    return connection.connection.driver_connection


def execute(connection: Any, statement: str) -> None:
    connection.execute(statement)
    connection.commit()


def test_write_to_read_only_database_returns_503(app: Flask, client: FlaskClient, engine_name: str) -> None:
    bolt = product(client, quantity_on_hand=5)
    statement = "PRAGMA query_only=ON" if engine_name == "sqlite" else "SET default_transaction_read_only = on"
    with app.app_context():
        db.engine.dispose()
        event.listen(db.engine, "connect", lambda connection, _record: execute(connection, statement))
    response = client.post("/transactions", json=sale(bolt["id"]))
    assert error_of(response) == (503, "database_unavailable")
    assert listed(client.get("/products")) == [bolt]


@on_sqlite
def test_write_to_full_disk_returns_507_and_changes_nothing(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5)
    with app.app_context():
        pages = db.session.scalar(text("PRAGMA page_count"))
        db.session.rollback()
        db.engine.dispose()
        event.listen(
            db.engine, "connect", lambda connection, _record: execute(connection, f"PRAGMA max_page_count={pages}")
        )
    answers = [client.post("/transactions", json=sale(bolt["id"]) | {"quantity": 1, "notes": "x" * 500})]
    while answers[-1].status_code == 201:
        answers.append(client.patch(f"/products/{bolt['id']}", json={"description": f"{len(answers):01000}"}))
        answers.append(client.post("/categories", json={"name": f"{len(answers):0100}", "description": "x" * 500}))
    assert error_of(answers[-1]) == (507, "storage_full")
    with nothing_changes(app):
        client.post("/categories", json={"name": "y" * 100, "description": "x" * 500})
    assert_ledger_is_consistent(app)


@contextmanager
def meanwhile(app: Flask, table: str, work: Callable[[], object]) -> Iterator[None]:
    """Run ``work`` in another thread, to its end, after the first statement that reads from ``table``."""
    pending = [work]

    def intervene(statement: str, _parameters: Any) -> None:
        if pending and f"FROM {table}" in statement:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(pending.pop()).result()

    with watched(app, after=intervene):
        yield
    assert not pending


def test_product_detail_reads_one_snapshot(app: Flask, client: FlaskClient, database_url: str) -> None:
    bolt = product(client, quantity_on_hand=5)
    other = create_app({"DATABASE_URL": database_url}).test_client()
    with meanwhile(app, "products", lambda: transaction(other, bolt["id"], "sale", 2)):
        detail = body(client.get(f"/products/{bolt['id']}?include_opening=true"))
    assert (detail["quantity_on_hand"], [row["seq"] for row in detail["transactions"]]) == (5, [1])
    assert body(client.get(f"/products/{bolt['id']}"))["quantity_on_hand"] == 3
    with other.application.app_context():
        db.engine.dispose()


def test_category_detail_reads_one_snapshot(app: Flask, client: FlaskClient, database_url: str) -> None:
    tools = category(client)
    other = create_app({"DATABASE_URL": database_url}).test_client()
    with meanwhile(app, "categories", lambda: product(other, category_id=tools["id"])):
        detail = body(client.get(f"/categories/{tools['id']}"))
    assert (detail["product_count"], detail["products"]) == (0, [])
    assert body(client.get(f"/categories/{tools['id']}"))["product_count"] == 1
    with other.application.app_context():
        db.engine.dispose()


def test_reads_take_no_lock(app: Flask, impatient: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5)
    with app.app_context():
        assert db.session.scalars(select(Product.id)).all() == [bolt["id"]]
        assert db.session().in_transaction()
        assert impatient.test_client().post("/transactions", json=sale(bolt["id"])).status_code == 201


@on_postgresql
def test_server_that_does_not_answer_is_given_up(environment: Environment) -> None:
    with environment.app.app_context(), db.engine.connect() as connection:
        driver_connection = driver_connection_of(connection)
        assert driver_connection.limit == 35.0  # the statement timeout and five seconds
        driver_connection.limit = 0.1
        with pytest.raises(DBAPIError, match="the server does not answer") as caught:
            connection.exec_driver_sql("SELECT pg_sleep(20)")
        assert caught.value.connection_invalidated
        assert driver_connection.closed


@on_postgresql
def test_request_to_a_server_that_does_not_answer_returns_503(environment: Environment) -> None:
    """The statement waits for a lock that the server would give up only later."""
    client = environment.app.test_client()
    with environment.app.app_context():
        engine = db.engine

    @event.listens_for(engine, "checkout")
    def shorten(connection: Any, _record: object, _proxy: object) -> None:
        connection.limit = 0.1

    try:
        with engine.connect() as holder:
            holder.exec_driver_sql("BEGIN")
            holder.exec_driver_sql("LOCK categories")
            assert error_of(client.post("/categories", json={"name": "Kitchen"})) == (503, "database_unavailable")
            holder.exec_driver_sql("ROLLBACK")
    finally:
        event.remove(engine, "checkout", shorten)
        engine.dispose()
