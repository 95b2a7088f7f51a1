"""The unit of work, on real conflicts of real connections, and the column types."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from threading import Event
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from inventory.database import engines
from inventory.database.base import ATTEMPTS, db, unit_of_work
from inventory.database.errors import from_database
from inventory.errors import InsufficientStock
from inventory.models.category import Category
from inventory.models.product import Product
from inventory.transactions.service import Movement, record
from tests.builders import assert_ledger_is_sound, category, contents, listed, nothing_changes, product, refusal
from tests.conftest import on_postgresql

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

MOMENT = datetime(2024, 2, 29, 12, 30, 15, 1, tzinfo=UTC)


def sale(product_id: int, quantity: int = 1) -> dict[str, Any]:
    return {"product_id": product_id, "transaction_type": "sale", "quantity": quantity}


def test_unit_of_work_commits_what_was_done_and_returns_the_result(app: Flask) -> None:
    @unit_of_work
    def work() -> str:
        db.session.add(Category(name="Tools"))
        return "done"

    with app.app_context():
        assert work() == "done"
    assert [row[1] for row in contents(app)["categories"]] == ["Tools"]


@pytest.mark.parametrize("error", [InsufficientStock, RuntimeError, KeyboardInterrupt])
def test_unit_of_work_that_raises_leaves_nothing_behind(
    app: Flask, client: FlaskClient, error: type[BaseException]
) -> None:
    bolt = product(client, quantity_on_hand=5)

    @unit_of_work
    def work() -> None:
        db.session.add(Category(name="Tools"))
        record(bolt["id"], Movement("sale", 1))
        raise error

    with nothing_changes(app), app.app_context(), pytest.raises(error):
        work()


def test_refusal_lets_go_of_its_lock_at_once(app: Flask, impatient: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5)

    @unit_of_work
    def work() -> None:
        record(bolt["id"], Movement("sale", 1))
        record(bolt["id"], Movement("sale", 5))

    with app.app_context():
        with pytest.raises(InsufficientStock):
            work()
        # The context, and with it the session, is still there; its lock is not.
        assert impatient.test_client().post("/transactions", json=sale(bolt["id"])).status_code == 201


def test_ledger_row_of_an_unknown_batch_is_refused_at_commit(app: Flask, client: FlaskClient) -> None:
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
def test_transaction_that_could_not_be_serialized_is_repeated(
    app: Flask, client: FlaskClient, database_url: str
) -> None:
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
def test_transaction_that_can_never_be_serialized_is_given_up(
    app: Flask, client: FlaskClient, database_url: str
) -> None:
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
def test_victim_of_a_deadlock_is_repeated(app: Flask, client: FlaskClient, database_url: str) -> None:
    bolt, nut = (product(client, quantity_on_hand=5)["id"] for _ in range(2))
    attempts: list[int] = []
    has_nut = Event()

    def other() -> None:
        """Takes the nut and then the bolt, and waits as long as it has to."""
        with psycopg.connect(database_url) as connection:
            connection.execute("SET deadlock_timeout = '60s'")
            connection.execute("UPDATE products SET name = 'Theirs' WHERE id = %s", [nut])
            has_nut.set()
            connection.execute("UPDATE products SET name = 'Theirs' WHERE id = %s", [bolt])

    @unit_of_work
    def work() -> None:
        attempts.append(1)
        db.session.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
        record(bolt, Movement("sale", 1))
        if len(attempts) == 1:
            threads.submit(other)
            has_nut.wait(10)
        record(nut, Movement("sale", 1))

    with app.app_context(), ThreadPoolExecutor(1) as threads:
        work()
    assert len(attempts) == 2
    assert {row["quantity_on_hand"] for row in listed(client.get("/products"))} == {4}
    assert_ledger_is_sound(app)


def cut_connections(database_url: str) -> None:
    """End every other connection to the database, as a restart of the server does."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@on_postgresql
def test_write_on_a_connection_that_has_died_meanwhile_is_repeated(
    app: Flask, client: FlaskClient, database_url: str
) -> None:
    bolt = product(client, quantity_on_hand=5)
    cut_connections(database_url)
    assert client.post("/transactions", json=sale(bolt["id"])).status_code == 201
    assert len(listed(client.get("/transactions"))) == 2
    assert_ledger_is_sound(app)


@on_postgresql
def test_read_on_a_connection_that_has_died_meanwhile_is_told_to_try_again(
    client: FlaskClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "ASSUMED_ALIVE_SECONDS", 3_600)
    assert listed(client.get("/products")) == []
    cut_connections(database_url)
    response = client.get("/products")
    assert refusal(response) == (503, "database_unavailable")
    assert response.headers["Retry-After"].isdecimal()
    assert listed(client.get("/products")) == []


@on_postgresql
def test_commit_that_may_have_landed_is_not_repeated(app: Flask, client: FlaskClient, database_url: str) -> None:
    attempts: list[int] = []

    @unit_of_work
    def work() -> None:
        attempts.append(1)
        db.session.add(Category(name="Tools"))
        db.session.flush()
        cut_connections(database_url)

    with app.app_context(), pytest.raises(DBAPIError) as raised:
        work()
    assert from_database(raised.value).slug == "database_unavailable"
    assert len(attempts) == 1
    assert listed(client.get("/categories")) == []


@pytest.mark.parametrize(
    "amount", ["0", "0.0001", "0.1", "0.3", "13.75", "1234567890.1234", "9999999999.9998", "9999999999.9999"]
)
def test_money_comes_back_exactly(app: Flask, client: FlaskClient, amount: str) -> None:
    product(client, price=9999999999.9999)
    with app.app_context():
        db.session.execute(update(Product).values(cost=Decimal(amount)))
        db.session.commit()
        stored = db.session.scalars(select(Product.cost)).one()
        assert stored == Decimal(amount)
        assert db.session.scalars(select(Product.cost).where(Product.cost == Decimal(amount))).all() == [stored]


def test_money_may_be_null(app: Flask, client: FlaskClient) -> None:
    product(client, cost=None)
    with app.app_context():
        assert db.session.scalars(select(Product.cost)).all() == [None]


@pytest.mark.parametrize(
    "moment",
    [
        MOMENT,
        MOMENT.replace(microsecond=0),
        MOMENT.replace(microsecond=999999),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        MOMENT.astimezone(timezone(timedelta(hours=5, minutes=30))),
        MOMENT.astimezone(timezone(-timedelta(hours=11))),
    ],
    ids=str,
)
def test_moments_come_back_exactly_and_in_utc(app: Flask, client: FlaskClient, moment: datetime) -> None:
    category(client)
    with app.app_context():
        db.session.execute(update(Category).values(created_at=moment))
        db.session.commit()
        stored = db.session.scalars(select(Category.created_at)).one()
        assert (stored, stored.utcoffset()) == (moment, timedelta(0))
        assert db.session.scalars(select(Category.created_at).where(Category.created_at == moment)).all() == [stored]


def test_moments_sort_as_they_follow_each_other(app: Flask) -> None:
    tick = timedelta(microseconds=1)
    moments = [
        MOMENT - timedelta(days=700_000),
        MOMENT.replace(microsecond=0),
        MOMENT,
        MOMENT + tick,
        MOMENT + timedelta(days=1),
    ]
    with app.app_context():
        for number, moment in enumerate(moments[::-1]):
            db.session.add(Category(name=str(number), created_at=moment))
        db.session.commit()
        assert db.session.scalars(select(Category.created_at).order_by(Category.created_at)).all() == moments
