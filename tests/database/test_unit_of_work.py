"""The unit of work, with real conflicts between real connections."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from inventory.database import postgresql
from inventory.database.base import db
from inventory.database.errors import from_database
from inventory.database.unit_of_work import ATTEMPTS, unit_of_work
from inventory.errors import InsufficientStock
from inventory.models.category import Category
from inventory.transactions.service import Movement, record
from tests.builders import assert_ledger_is_consistent, category, contents, error_of, listed, nothing_changes, product
from tests.conftest import on_postgresql
from tests.postgresql import await_blocked

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient


def sale(product_id: int, quantity: int = 1) -> dict[str, Any]:
    return {"product_id": product_id, "transaction_type": "sale", "quantity": quantity}


def test_unit_of_work_commits_and_returns_the_result(app: Flask) -> None:
    @unit_of_work
    def work() -> str:
        db.session.add(Category(name="Tools"))
        return "done"

    with app.app_context():
        assert work() == "done"
    assert [row[1] for row in contents(app)["categories"]] == ["Tools"]


@pytest.mark.parametrize("error", [InsufficientStock, RuntimeError, KeyboardInterrupt])
def test_unit_of_work_rolls_back_on_exception(app: Flask, client: FlaskClient, error: type[BaseException]) -> None:
    bolt = product(client, quantity_on_hand=5)

    @unit_of_work
    def work() -> None:
        db.session.add(Category(name="Tools"))
        record(bolt["id"], Movement("sale", 1))
        raise error

    with nothing_changes(app), app.app_context(), pytest.raises(error):
        work()


def test_unit_of_work_releases_its_lock_on_error(app: Flask, impatient: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5)

    @unit_of_work
    def work() -> None:
        record(bolt["id"], Movement("sale", 1))
        record(bolt["id"], Movement("sale", 5))

    with app.app_context():
        with pytest.raises(InsufficientStock):
            work()
        # The context and its session still exist, but the lock is released.
        assert impatient.test_client().post("/transactions", json=sale(bolt["id"])).status_code == 201


def test_ledger_row_with_unknown_batch_fails_at_commit(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5)

    @unit_of_work
    def work() -> None:
        record(bolt["id"], Movement("sale", 1), batch_id="none")

    with nothing_changes(app), app.app_context(), pytest.raises(IntegrityError):
        work()


def rename_elsewhere(database_url: str, name: str) -> None:
    with psycopg.connect(database_url) as elsewhere:
        elsewhere.execute("UPDATE categories SET name = %s", [name])


@on_postgresql
def test_serialization_failure_is_retried(app: Flask, client: FlaskClient, database_url: str) -> None:
    category(client)
    seen: list[str] = []

    @unit_of_work
    def work() -> None:
        db.session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        seen.append(db.session.scalars(select(Category.name)).one())
        if len(seen) == 1:
            rename_elsewhere(database_url, "Theirs")
        db.session.execute(update(Category).values(name=Category.name + " and ours"))

    with app.app_context():
        work()
    assert len(seen) == 2
    assert [row["name"] for row in listed(client.get("/categories"))] == ["Theirs and ours"]


@on_postgresql
def test_serialization_failure_gives_up_after_all_attempts(app: Flask, client: FlaskClient, database_url: str) -> None:
    category(client)
    seen: list[str] = []

    @unit_of_work
    def work() -> None:
        db.session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        seen.append(db.session.scalars(select(Category.name)).one())
        rename_elsewhere(database_url, f"Theirs {len(seen)}")
        db.session.execute(update(Category).values(name="Ours"))

    with app.app_context(), pytest.raises(DBAPIError) as raised:
        work()
    assert from_database(raised.value).slug == "database_busy"
    assert len(seen) == ATTEMPTS
    assert [row["name"] for row in listed(client.get("/categories"))] == [f"Theirs {ATTEMPTS}"]


@on_postgresql
def test_deadlock_victim_is_retried(app: Flask, client: FlaskClient, database_url: str) -> None:
    bolt, nut = (product(client, quantity_on_hand=5)["id"] for _ in range(2))
    attempts: list[int] = []

    def other() -> None:
        """Locks the nut and then the bolt, and waits as long as needed."""
        with psycopg.connect(database_url) as connection:
            connection.execute("SET deadlock_timeout = '60s'")
            connection.execute("UPDATE products SET name = 'Theirs' WHERE id = %s", [nut])
            connection.execute("UPDATE products SET name = 'Theirs' WHERE id = %s", [bolt])

    @unit_of_work
    def work() -> None:
        attempts.append(1)
        db.session.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
        record(bolt, Movement("sale", 1))
        if len(attempts) == 1:
            threads.submit(other)
            await_blocked(observer, 1)
        record(nut, Movement("sale", 1))

    with (
        app.app_context(),
        psycopg.connect(database_url, autocommit=True) as observer,
        ThreadPoolExecutor(1) as threads,
    ):
        work()
    assert len(attempts) == 2
    assert {row["quantity_on_hand"] for row in listed(client.get("/products"))} == {4}
    assert_ledger_is_consistent(app)


def terminate_connections(database_url: str) -> None:
    """Terminate every other connection to the database, as a restart of the server does."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@on_postgresql
def test_write_on_dead_connection_is_retried(app: Flask, client: FlaskClient, database_url: str) -> None:
    bolt = product(client, quantity_on_hand=5)
    terminate_connections(database_url)
    assert client.post("/transactions", json=sale(bolt["id"])).status_code == 201
    assert len(listed(client.get("/transactions"))) == 2
    assert_ledger_is_consistent(app)


@on_postgresql
def test_read_on_dead_connection_returns_503(
    client: FlaskClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "ASSUMED_ALIVE_SECONDS", 3_600)
    assert listed(client.get("/products")) == []
    terminate_connections(database_url)
    response = client.get("/products")
    assert error_of(response) == (503, "database_unavailable")
    assert response.headers["Retry-After"].isdecimal()
    assert listed(client.get("/products")) == []


@on_postgresql
def test_commit_with_unknown_outcome_is_not_retried(app: Flask, client: FlaskClient, database_url: str) -> None:
    attempts: list[int] = []

    @unit_of_work
    def work() -> None:
        attempts.append(1)
        db.session.add(Category(name="Tools"))
        db.session.flush()
        terminate_connections(database_url)

    with app.app_context(), pytest.raises(DBAPIError) as raised:
        work()
    assert from_database(raised.value).slug == "database_unavailable"
    assert len(attempts) == 1
    assert listed(client.get("/categories")) == []
