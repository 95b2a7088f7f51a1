"""Downgrades and upgrades of a database with data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alembic.script import ScriptDirectory
from flask_migrate import downgrade, upgrade

from inventory.database.base import db
from tests.builders import body, contents, nothing_changes, product, transaction
from tests.reliability.audit import assert_consistent

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

    from tests.reliability.figures import Report


def test_downgrade_and_upgrade_keep_ledger_and_keys(app: Flask, client: FlaskClient, report: Report) -> None:
    """Downgrade and upgrade with keys, batches and reversals: every row is kept, and every key is still known."""
    bolt = product(client, quantity_on_hand=50)["id"]
    sale = transaction(client, bolt, "sale", 3)
    postings = [
        ("/transactions", {"product_id": bolt, "transaction_type": "sale", "quantity": 2}),
        ("/transactions/batch", {"lines": [{"product_id": bolt, "transaction_type": "purchase", "quantity": 5}]}),
        (f"/transactions/{sale['id']}/reversal", {}),
        (f"/products/{bolt}/counts", {"counted_quantity": 41}),
    ]
    first = [post(client, number, *posting) for number, posting in enumerate(postings)]
    before = contents(app, but="product_changes")
    with app.app_context():
        db.engine.dispose()
        revisions = len(list(ScriptDirectory(app.extensions["migrate"].directory).walk_revisions()))
        downgraded = 0
        while True:
            try:
                downgrade()
            except SystemExit:  # the migration of the ledger does not drop a ledger with rows
                break
            downgraded += 1
        upgrade()
        db.engine.dispose()
    report(
        "Downgrade and upgrade with data",
        revisions=revisions,
        downgraded=downgraded,
        rows=sum(map(len, before.values())),
    )
    assert downgraded == revisions - 1
    # The product feed starts again with its table.
    assert contents(app, but="product_changes") == before
    with nothing_changes(app):
        assert [post(client, number, *posting) for number, posting in enumerate(postings)] == first
    assert_consistent(app)


def post(client: FlaskClient, number: int, path: str, payload: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=payload, headers={"Idempotency-Key": f"key-{number}"})
    assert answer.status_code == 201, answer.text
    return body(answer)
