"""/metrics: what each request changes, and who may read it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from inventory import create_app
from inventory.database import unit_of_work as units
from inventory.database.base import db, engine_of
from inventory.database.engines import WRITE
from tests.auth.credentials import client_with, new_key
from tests.builders import product, transaction
from tests.conftest import on_postgresql, on_sqlite
from tests.exposition import Counting, scrape
from tests.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient

    from tests.environments import Environment

REQUESTS, SECONDS = "inventory_http_requests_total", "inventory_http_request_duration_seconds_count"
DETAIL = "/products/<id:product_id>"
SECRET = "hidden8153"  # noqa: S105


@pytest.fixture
def counting(client: FlaskClient) -> Counting:
    return Counting(client)


def test_metrics_need_a_key(keyed: Flask) -> None:
    assert keyed.test_client().get("/metrics").status_code == 401


@pytest.mark.parametrize("scopes", [["read"], ["read", "stock", "catalogue"]], ids=",".join)
def test_metrics_need_the_scope_admin(keyed: Flask, scopes: list[str]) -> None:
    assert client_with(keyed, new_key(keyed, *scopes)).get("/metrics").status_code == 403


def test_metrics_are_in_the_text_format_of_prometheus(keyed: Flask) -> None:
    response = client_with(keyed, new_key(keyed, "admin")).get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    assert "# TYPE inventory_http_requests_total counter" in response.text


def test_requests_are_counted_by_method_route_and_status(client: FlaskClient, counting: Counting) -> None:
    row = product(client)
    for product_id in (row["id"], row["id"], 999_999):
        client.get(f"/products/{product_id}")
    assert counting.of(REQUESTS, method="GET", route=DETAIL, status="200") == 2
    assert counting.of(REQUESTS, method="GET", route=DETAIL, status="404") == 1
    assert counting.of(SECONDS, method="GET", route=DETAIL) == 3


def test_duration_is_in_one_bucket(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(client)
    monkeypatch.setattr("inventory.web.observability.perf_counter", iter([10.0, 10.05]).__next__)
    client.get("/health/live")
    monkeypatch.undo()
    name, of = "inventory_http_request_duration_seconds", {"method": "GET", "route": "/health/live"}
    assert counting.of(f"{name}_bucket", **of, le="0.025") == 0
    assert counting.of(f"{name}_bucket", **of, le="0.1") == 1
    assert counting.of(f"{name}_sum", **of) == pytest.approx(0.05)


def test_unknown_paths_and_methods_are_one_value(client: FlaskClient, counting: Counting) -> None:
    client.get(f"/{SECRET}")
    client.get(f"/nothing/{SECRET}")
    client.open("/products", method=SECRET)
    assert counting.of(REQUESTS, method="GET", route="unmatched", status="404") == 2
    labels = scrape(client).labels(REQUESTS)
    assert {"other"} == {label["method"] for label in labels} - {
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
    }
    assert SECRET not in client.get("/metrics").text


def test_routes_are_rules_and_not_paths(client: FlaskClient, counting: Counting) -> None:
    product(client, sku="BOLT-8")
    client.get("/products/by-sku/BOLT-8")
    assert counting.of(REQUESTS, method="GET", route="/products/by-sku/<sku:sku>", status="200") == 1
    assert "BOLT-8" not in client.get("/metrics").text


def test_movements_and_units_are_counted_by_type(client: FlaskClient, counting: Counting) -> None:
    row = product(client, quantity_on_hand=10)
    transaction(client, row["id"], "sale", 3)
    transaction(client, row["id"], "sale", 2)
    assert counting.of("inventory_movements_total", transaction_type="sale") == 2
    assert counting.of("inventory_units_moved_total", transaction_type="sale") == 5


def test_dry_runs_and_refused_sales_move_nothing(client: FlaskClient, counting: Counting) -> None:
    row = product(client, quantity_on_hand=1)
    sale = {"product_id": row["id"], "transaction_type": "sale", "quantity": 1}
    assert client.post("/transactions?dry_run=true", json=sale).status_code == 200
    assert client.post("/transactions", json=sale | {"quantity": 9}).status_code == 400
    assert counting.of("inventory_movements_total", transaction_type="sale") == 0
    assert counting.of("inventory_refusals_total", error="insufficient_stock") == 1


def test_repeated_key_is_a_replay_and_moves_nothing_more(client: FlaskClient, counting: Counting) -> None:
    row = product(client, quantity_on_hand=10)
    sale = {"product_id": row["id"], "transaction_type": "sale", "quantity": 1}
    for _ in range(3):
        assert client.post("/transactions", json=sale, headers={"Idempotency-Key": "a"}).status_code == 201
    assert counting.of("inventory_replays_total") == 2
    assert counting.of("inventory_movements_total", transaction_type="sale") == 1


def test_refused_keys_are_refusals(keyed: Flask) -> None:
    client = client_with(keyed, new_key(keyed, "admin"))
    counting = Counting(client)
    keyed.test_client().get("/products", headers={"X-API-Key": SECRET})
    assert counting.of("inventory_refusals_total", error="unauthorized") == 1
    assert counting.of("inventory_failures_total", error="unauthorized") == 0


def test_unexpected_errors_are_failures(own_environment: Environment) -> None:
    app = own_environment.app

    @app.get("/broken")
    def broken() -> str:
        raise KeyError(SECRET)

    counting = Counting(app.test_client())
    app.test_client().get("/broken")
    assert counting.of("inventory_failures_total", error="internal_error") == 1
    assert counting.of("inventory_refusals_total", error="internal_error") == 0
    assert counting.of(REQUESTS, method="GET", route="/broken", status="500") == 1


def test_response_that_breaks_off_is_a_failure(own_environment: Environment) -> None:
    app = own_environment.app

    @app.get("/broken")
    def broken() -> Iterator[str]:
        yield "begun"
        raise RuntimeError

    counting = Counting(app.test_client())
    with pytest.raises(RuntimeError):
        app.test_client().get("/broken", buffered=True)
    assert counting.of("inventory_failures_total", error="broken_response") == 1


def test_imports_are_counted_with_their_movements(client: FlaskClient, counting: Counting) -> None:
    file = "sku,name,price,category,quantity_on_hand\nA,A,1,New,4\nB,B,1,New,3\n"
    headers = {"Content-Type": "text/csv", "Idempotency-Key": "a"}
    assert client.post("/import/products?dry_run=true", data=file, headers=headers).status_code == 200
    assert client.post("/import/products", data=file + "C,,,,x\n", headers=headers).status_code == 422
    for _ in range(2):
        assert client.post("/import/products", data=file, headers=headers).status_code == 200
    assert counting.of("inventory_imports_total") == 1
    assert counting.of("inventory_replays_total") == 1
    assert counting.of("inventory_movements_total", transaction_type="adjustment") == 2
    assert counting.of("inventory_units_moved_total", transaction_type="adjustment") == 7


def test_import_without_movements_is_counted(client: FlaskClient, counting: Counting) -> None:
    file = "sku,name,price,category\nA,A,1,New\n"
    assert client.post("/import/products", data=file, content_type="text/csv").status_code == 200
    assert counting.of("inventory_imports_total") == 1


def test_repeated_transactions_are_retries(
    client: FlaskClient, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True, True, False])
    monkeypatch.setattr(units, "may_be_repeated", lambda _error: next(answers))
    monkeypatch.setattr(units, "begin", failing)
    client.post("/categories", json={"name": "New"})
    assert counting.of("inventory_transaction_retries_total") == 2


def failing(_kind: object) -> None:
    raise DBAPIError("BEGIN", None, Exception())


@on_sqlite
def test_writer_that_gives_up_has_waited_for_the_lock(client: FlaskClient, app: Flask, impatient: Flask) -> None:
    counting = Counting(client)
    with engine_of(app).connect().execution_options(**WRITE) as other, other.begin():
        assert impatient.test_client().post("/categories", json={"name": "New"}).status_code == 503
    assert counting.of("inventory_lock_waits_total") == 1
    assert counting.of("inventory_lock_wait_seconds_total") >= 0.05
    assert counting.of("inventory_failures_total", error="database_busy") == 1


def test_time_of_statements_is_counted(client: FlaskClient, counting: Counting) -> None:
    product(client)
    assert counting.of("inventory_database_seconds_total") > 0


def test_pool_is_shown_by_state(app: Flask, client: FlaskClient) -> None:
    size = app.config["INVENTORY_THREADS"]
    with engine_of(app).connect():
        found = scrape(client)
    assert found.value("inventory_pool_connections", state="in_use") == 1
    assert found.value("inventory_pool_connections", state="free") == size - 1


def test_build_names_release_revision_and_engine(client: FlaskClient, app: Flask, engine_name: str) -> None:
    (labels,) = scrape(client).labels("inventory_build_info")
    with app.app_context():
        revision = db.session.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    assert labels == {"version": app.config["API_VERSION"], "revision": revision, "engine": engine_name}


@on_sqlite
def test_space_of_an_sqlite_database_is_shown(client: FlaskClient) -> None:
    found = scrape(client)
    assert found.value("inventory_database_free_bytes") > 0
    assert found.value("inventory_feed_lag_seconds") == 0
    assert "inventory_feed_lag_seconds" in found.names


@on_postgresql
def test_feed_lag_is_the_age_of_the_oldest_writer(client: FlaskClient, app: Flask) -> None:
    with engine_of(app).connect().execution_options(**WRITE) as other, other.begin():
        other.execute(text("SELECT pg_current_xact_id()"))
        other.execute(text("SELECT pg_sleep(0.1)"))
        assert scrape(client).value("inventory_feed_lag_seconds") >= 0.1


@on_postgresql
def test_transaction_that_only_reads_delays_no_feed(client: FlaskClient, app: Flask) -> None:
    with engine_of(app).connect().execution_options(**WRITE) as other, other.begin():
        other.execute(text("SELECT pg_sleep(0.1)"))
        oldest = text("SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL")
        if not other.execute(oldest).scalar_one():  # unless another test of this server writes
            assert scrape(client).value("inventory_feed_lag_seconds") < 0.1


def test_metrics_are_shown_without_a_database(counting: Counting) -> None:
    dead = create_app({"DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/stock"})
    found = scrape(dead.test_client())
    assert found.value("inventory_database_up") == 0
    assert "inventory_database_up" in found.names
    assert "inventory_feed_lag_seconds" not in found.names
    assert REQUESTS in found.names
    assert counting.before.value("inventory_database_up") == 1


def test_no_label_has_an_unbounded_number_of_values(client: FlaskClient) -> None:
    names = Counter(name for (_sample, labels) in scrape(client).values for name, _value in labels)
    known = {"method", "route", "status", "le", "error", "transaction_type", "state", "version", "revision", "engine"}
    assert names.keys() <= known
