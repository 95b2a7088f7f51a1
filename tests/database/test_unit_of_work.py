"""The unit of work, with real conflicts between real connections."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import event, make_url, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from inventory import create_app
from inventory.categories import service as categories
from inventory.database import postgresql
from inventory.database.base import begin, count_rows, db, engine_of, fetch_value
from inventory.database.engines import SNAPSHOT, WRITE
from inventory.database.errors import from_database
from inventory.database.unit_of_work import ATTEMPTS, run, unit_of_work
from inventory.errors import InsufficientStock
from inventory.models.category import Category
from inventory.models.product import Product
from inventory.transactions import batches
from inventory.transactions.service import Movement, record, record_all
from tests.builders import assert_ledger_is_consistent, category, contents, error_of, listed, nothing_changes, product
from tests.conftest import on_postgresql, on_sqlite
from tests.postgresql import await_blocked
from tests.reliability.proxy import CommitDropper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient

    from tests.environments import Environment


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


def test_unit_of_work_goes_on_after_a_read_of_the_session(app: Flask) -> None:
    with app.app_context():
        assert db.session.scalars(select(Category.name)).all() == []
        run(lambda: categories.create({"name": "Tools"}))
        assert db.session.scalars(select(Category.name)).all() == ["Tools"]


def test_unit_of_work_does_not_go_on_after_a_failed_flush(app: Flask, client: FlaskClient) -> None:
    """The ORM's session has rolled back, so what follows would be committed without what came before."""
    bolt, tools = product(client, quantity_on_hand=5), category(client)

    @unit_of_work
    def work() -> None:
        record(bolt["id"], Movement("sale", 1))
        db.session.add(Category(name=tools["name"]))
        with pytest.raises(IntegrityError):
            db.session.flush()
        record(bolt["id"], Movement("sale", 1))

    with nothing_changes(app), app.app_context(), pytest.raises(RuntimeError, match="rolled back"):
        work()


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
def test_connection_lost_after_the_last_read_of_a_snapshot_does_not_matter(
    app: Flask, client: FlaskClient, database_url: str
) -> None:
    category(client)
    with app.app_context():
        with begin(SNAPSHOT):
            assert count_rows(select(Category.id)) == 1
            terminate_connections(database_url)
        assert count_rows(select(Category.id)) == 1


@on_postgresql
def test_read_on_dead_connection_uses_a_new_one(
    client: FlaskClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "ASSUMED_ALIVE_SECONDS", 3_600)
    assert listed(client.get("/products")) == []
    terminate_connections(database_url)
    assert listed(client.get("/products")) == []


@on_postgresql
def test_connection_lost_during_read_returns_503(app: Flask, client: FlaskClient, database_url: str) -> None:
    engine = engine_of(app)
    cut: list[bool] = []

    def terminate(*_arguments: object) -> None:
        if not cut:
            cut.append(True)
            terminate_connections(database_url)

    # After the connection has been found to be alive.
    event.listen(engine, "checkout", terminate)
    response = client.get("/products")
    event.remove(engine, "checkout", terminate)
    assert error_of(response) == (503, "database_unavailable")
    assert response.headers["Retry-After"].isdecimal()
    assert listed(client.get("/products")) == []


@pytest.fixture
def dropper(database_url: str) -> Iterator[CommitDropper]:
    """A proxy in front of PostgreSQL that drops the connection at the next commit, once ``wanted`` is 1."""
    address = make_url(database_url)
    with CommitDropper((address.host or "127.0.0.1", address.port or 5432), one_in=1) as proxy:
        yield proxy


@pytest.fixture
def via_proxy(dropper: CommitDropper, database_url: str) -> Iterator[FlaskClient]:
    """A client of an application that reaches the database through the proxy."""
    url = make_url(database_url).set(host="127.0.0.1", port=dropper.port)
    url = url.update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
    proxied = create_app({"DATABASE_URL": url.render_as_string(hide_password=False)})
    yield proxied.test_client()
    with proxied.app_context():
        db.engine.dispose()


@on_postgresql
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("earlier_sales", [0, 8], ids=["unprepared", "prepared"])
def test_connection_lost_at_single_statement_leaves_nothing_half_done(
    app: Flask, dropper: CommitDropper, via_proxy: FlaskClient, when: str, earlier_sales: int
) -> None:
    """The movement is recorded completely or not at all. Without a key the client is told that this is unknown."""
    bolt = product(via_proxy, quantity_on_hand=20)["id"]
    for _sale in range(earlier_sales):
        assert via_proxy.post("/transactions", json=sale(bolt)).status_code == 201
    dropper.turns, dropper.wanted = cycle([when]), 1
    response = via_proxy.post("/transactions", json=sale(bolt))
    assert error_of(response) == (503, "database_unavailable")
    assert dropper.dropped == {when: 1}
    assert len(listed(via_proxy.get("/transactions"))) == 1 + earlier_sales + (when == "after")
    assert_ledger_is_consistent(app)


@on_postgresql
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("path", ["/transactions", "/transactions/batch"])
def test_connection_lost_at_commit_is_retried_with_a_key(
    app: Flask, dropper: CommitDropper, via_proxy: FlaskClient, when: str, path: str
) -> None:
    bolt = product(via_proxy, quantity_on_hand=5)["id"]
    body: Any = sale(bolt) if path == "/transactions" else [sale(bolt)]
    dropper.turns, dropper.wanted = cycle([when]), 1
    response = via_proxy.post(path, json=body, headers={"Idempotency-Key": "k"})
    assert response.status_code == 201
    assert dropper.dropped == {when: 1}
    assert ("Idempotent-Replayed" in response.headers) == (when == "after")
    assert len(listed(via_proxy.get("/transactions"))) == 2
    assert_ledger_is_consistent(app)


@on_sqlite
def test_movement_outside_a_unit_of_work_is_refused(app: Flask, client: FlaskClient) -> None:
    """On SQLite it takes two statements. Each would be committed by itself."""
    bolt = product(client, quantity_on_hand=5)["id"]
    with nothing_changes(app), app.app_context(), pytest.raises(RuntimeError, match="unit of work"):
        record(bolt, Movement("sale", 1))


def test_movements_after_a_plain_read_need_a_unit_of_work(app: Flask, client: FlaskClient) -> None:
    """SQLAlchemy's session "begins" with the read, but only in AUTOCOMMIT mode."""
    bolt = product(client, quantity_on_hand=5)["id"]
    with nothing_changes(app), app.app_context():
        assert db.session.scalar(select(Product.id)) == bolt
        with pytest.raises(RuntimeError, match="unit of work"):
            record_all([(bolt, Movement("sale", 1))], batch_id="b")
        with pytest.raises(RuntimeError, match="unit of work"):
            batches.write("b", "batch", None)


@pytest.mark.parametrize("one_statement", [False, True])
@pytest.mark.parametrize("kind", [SNAPSHOT, WRITE], ids=["snapshot", "write"])
def test_unit_of_work_within_a_transaction_is_refused(
    app: Flask, client: FlaskClient, kind: dict[str, object], one_statement: bool
) -> None:
    """It would become part of that transaction, and be rolled back with it."""
    bolt = product(client, quantity_on_hand=5)["id"]
    with nothing_changes(app), app.app_context(), begin(kind):
        assert fetch_value(select(Product.id)) == bolt
        with pytest.raises(RuntimeError, match="begun already"):
            run(lambda: record(bolt, Movement("sale", 1)), one_statement=one_statement)


@on_postgresql
def test_prepared_statements_outdated_by_a_migration_are_replaced(own_environment: Environment) -> None:
    app = own_environment.app
    client = app.test_client()
    bolt = product(client, quantity_on_hand=100)["id"]

    def requests() -> list[int]:
        answers = [
            client.get(f"/products/{bolt}"),
            client.get("/transactions?reference=A&id=1"),
            client.post("/transactions", json=sale(bolt)),
            client.post("/transactions/batch", json=[sale(bolt)]),
        ]
        return [answer.status_code for answer in answers]

    def prepare_and_alter(size: int) -> None:
        for _time in range(8):
            assert requests() == [200, 200, 201, 201]
        with psycopg.connect(own_environment.url, autocommit=True) as connection:
            connection.execute(f"ALTER TABLE transactions ALTER COLUMN reference TYPE varchar({size})")

    prepare_and_alter(300)
    assert requests() == [200, 200, 201, 201]
    prepare_and_alter(400)
    # A statement with a list of values is not repeated, but its connection is replaced.
    assert client.get("/transactions?reference=A&id=1").status_code == 503
    assert requests() == [200, 200, 201, 201]
    assert_ledger_is_consistent(app)
