"""Imports with concurrent writers, which are not blocked while a file is prepared and whose changes are respected."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

from inventory import errors
from inventory.import_export import importer
from inventory.import_export.apply import apply_changes
from inventory.import_export.scratch import CHUNK
from tests.builders import assert_ledger_is_consistent, contents, listed, nothing_changes, product
from tests.import_export.files import NEW

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask
    from flask.testing import FlaskClient

    from inventory.import_export.outcome import Outcome


def import_with(app: Flask, file: str, progress: Callable[[int], None], **options: Any) -> Outcome:
    with app.app_context():
        return importer.import_products(io.BytesIO(file.encode()), progress=progress, **options)


@pytest.fixture
def before_the_lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Runs a function once, after the file is compared with the catalogue and before its rows are written."""

    def arrange(change: Callable[[], Any]) -> None:
        pending = [change]

        def interrupted(*args: Any) -> Outcome:
            while pending:
                pending.pop()()
            return apply_changes(*args)

        monkeypatch.setattr(importer, "apply_changes", interrupted)

    return arrange


@pytest.mark.parametrize("dry_run", [True, False])
def test_import_does_not_block_writers_while_comparing(
    app: Flask, client: FlaskClient, impatient: Flask, dry_run: bool
) -> None:
    bolt, other = product(client, sku="BOLT", quantity_on_hand=0), impatient.test_client()
    statuses = []

    def buy(_rows: int) -> None:
        movement = {"product_id": bolt["id"], "transaction_type": "purchase", "quantity": 1}
        statuses.append(other.post("/transactions", json=movement).status_code)

    rows = "".join(f"S{number},Bolt,1,C\n" for number in range(2 * CHUNK))
    outcome = import_with(app, f"{NEW}BOLT,New name,2,C\n{rows}", buy, dry_run=dry_run)
    assert (outcome.created, outcome.updated, outcome.dry_run) == (2 * CHUNK, 1, dry_run)
    assert len(statuses) == 6
    assert set(statuses) == {201}
    assert listed(client.get("/products?sku=BOLT"))[0]["quantity_on_hand"] == 6
    assert_ledger_is_consistent(app)


def test_dry_run_ends_its_transaction(app: Flask, client: FlaskClient, impatient: Flask) -> None:
    bolt = product(client, sku="BOLT")
    with app.app_context():
        importer.import_products(io.BytesIO(b"sku,quantity_on_hand\nBOLT,5\n"), dry_run=True)
        assert impatient.test_client().patch(f"/products/{bolt['id']}", json={"name": "New"}).status_code == 200


def test_count_without_expected_quantity_applies_despite_concurrent_sale(
    app: Flask, client: FlaskClient, before_the_lock: Callable[[Callable[[], Any]], None]
) -> None:
    bolt = product(client, sku="BOLT", quantity_on_hand=10)
    sale = {"product_id": bolt["id"], "transaction_type": "sale", "quantity": 3}
    before_the_lock(lambda: client.post("/transactions", json=sale))
    assert import_with(app, "sku,quantity_on_hand\nBOLT,8\n", importer.no_progress).stock_transactions == 1
    assert listed(client.get("/products"))[0]["quantity_on_hand"] == 8
    assert [row["delta"] for row in listed(client.get("/transactions?sort=id"))] == [10, -3, 1]
    assert_ledger_is_consistent(app)


def test_import_rejected_when_count_becomes_stale_before_lock(
    app: Flask, client: FlaskClient, before_the_lock: Callable[[Callable[[], Any]], None]
) -> None:
    bolt, nut = product(client, sku="BOLT", quantity_on_hand=10), product(client, sku="NUT", price=1)
    sale = {"product_id": bolt["id"], "transaction_type": "sale", "quantity": 3}
    before_the_lock(lambda: client.post("/transactions", json=sale))
    file = "sku,price,quantity_on_hand,expected_quantity\nNUT,2,0,0\nBOLT,10,8,10\n"
    with pytest.raises(errors.ImportInvalid) as raised:
        import_with(app, file, importer.no_progress)
    assert [(found["row"], found["column"]) for found in (raised.value.details or {})["errors"]] == [
        (3, "quantity_on_hand")
    ]
    assert client.get(f"/products/{nut['id']}").get_json()["price"] == 1
    assert client.get(f"/products/{bolt['id']}").get_json()["quantity_on_hand"] == 7


def test_import_rejected_when_cost_rises_above_price_before_lock(
    app: Flask, client: FlaskClient, before_the_lock: Callable[[Callable[[], Any]], None]
) -> None:
    bolt = product(client, sku="BOLT", price=10, cost=1)
    before_the_lock(lambda: client.patch(f"/products/{bolt['id']}", json={"cost": 9}))
    with pytest.raises(errors.ImportInvalid):
        import_with(app, "sku,price\nBOLT,5\n", importer.no_progress)
    assert client.get(f"/products/{bolt['id']}").get_json()["price"] == 10


def test_row_already_applied_by_another_writer_counts_as_unchanged(
    app: Flask, client: FlaskClient, before_the_lock: Callable[[Callable[[], Any]], None]
) -> None:
    bolt = product(client, sku="BOLT", price=10)
    before_the_lock(lambda: client.patch(f"/products/{bolt['id']}", json={"price": 5}))
    outcome = import_with(app, "sku,price\nBOLT,5\n", importer.no_progress)
    assert (outcome.rows, outcome.updated, outcome.unchanged) == (1, 0, 1)
    assert client.get(f"/products/{bolt['id']}").get_json()["version"] == 2


def test_product_deleted_before_lock_is_created_again(
    app: Flask, client: FlaskClient, before_the_lock: Callable[[Callable[[], Any]], None]
) -> None:
    bolt = product(client, sku="BOLT")
    before_the_lock(lambda: client.delete(f"/products/{bolt['id']}"))
    outcome = import_with(app, f"{NEW.strip()},quantity_on_hand\nBOLT,Bolt,5,C,4\n", importer.no_progress)
    assert (outcome.created, outcome.updated, outcome.stock_transactions) == (1, 0, 1)
    (found,) = listed(client.get("/products"))
    assert (found["price"], found["quantity_on_hand"]) == (5, 4)
    assert_ledger_is_consistent(app)


def test_sku_created_by_another_writer_before_lock_is_updated(
    app: Flask, client: FlaskClient, before_the_lock: Callable[[Callable[[], Any]], None]
) -> None:
    before_the_lock(lambda: product(client, sku="bolt", quantity_on_hand=1))
    outcome = import_with(app, f"{NEW.strip()},quantity_on_hand\nBOLT,Bolt,5,C,4\n", importer.no_progress)
    assert (outcome.created, outcome.updated, outcome.stock_transactions) == (0, 1, 1)
    (found,) = listed(client.get("/products"))
    assert (found["sku"], found["quantity_on_hand"]) == ("BOLT", 4)
    assert_ledger_is_consistent(app)


def test_category_deleted_before_lock_is_created_again(
    app: Flask, client: FlaskClient, before_the_lock: Callable[[Callable[[], Any]], None]
) -> None:
    deleted = client.post("/categories", json={"name": "C"}).get_json()
    before_the_lock(lambda: client.delete(f"/categories/{deleted['id']}"))
    assert import_with(app, f"{NEW}BOLT,Bolt,5,C\n", importer.no_progress).created == 1
    (created,) = listed(client.get("/categories"))
    assert listed(client.get("/products"))[0]["category_id"] == created["id"] != deleted["id"]


def test_unchanged_row_is_not_written(app: Flask, client: FlaskClient) -> None:
    product(client, sku="BOLT", name="Bolt", price=5, quantity_on_hand=3)
    before = contents(app)
    assert import_with(app, "sku,name,price,quantity_on_hand\nBOLT,Bolt,5,3\n", importer.no_progress).unchanged == 1
    assert contents(app) | {"batches": []} == before


def test_dry_run_writes_no_batch(app: Flask, client: FlaskClient) -> None:
    product(client, sku="BOLT")
    with nothing_changes(app):
        import_with(app, "sku,price,quantity_on_hand\nBOLT,5,3\n", importer.no_progress, dry_run=True)
