"""A schema that goes back and comes again below a ledger that is in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alembic.script import ScriptDirectory
from flask_migrate import downgrade, upgrade

from inventory.database.base import db
from tests.builders import body, contents, nothing_changes, product, transaction
from tests.reliability.audit import assert_sound

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

    from tests.reliability.figures import Report


def test_a_ledger_in_use_passes_through_every_migration_that_can_be_taken_back(
    app: Flask, client: FlaskClient, report: Report
) -> None:
    """Down and up again with keys, batches and reversals in it: every row is kept, and every key still known."""
    bolt = product(client, quantity_on_hand=50)["id"]
    sale = transaction(client, bolt, "sale", 3)
    postings = [
        ("/transactions", {"product_id": bolt, "transaction_type": "sale", "quantity": 2}),
        ("/transactions/batch", {"lines": [{"product_id": bolt, "transaction_type": "purchase", "quantity": 5}]}),
        (f"/transactions/{sale['id']}/reversal", {}),
        (f"/products/{bolt}/counts", {"counted_quantity": 41}),
    ]
    first = [post(client, number, *posting) for number, posting in enumerate(postings)]
    before = contents(app)
    with app.app_context():
        db.engine.dispose()
        revisions = len(list(ScriptDirectory(app.extensions["migrate"].directory).walk_revisions()))
        steps_back = 0
        while True:
            try:
                downgrade()
            except SystemExit:  # the ledger's own migration does not destroy a ledger with rows
                break
            steps_back += 1
        upgrade()
        db.engine.dispose()
    report("Migrations with data", revisions=revisions, taken_back=steps_back, rows=sum(map(len, before.values())))
    assert steps_back == revisions - 1
    assert contents(app) == before
    with nothing_changes(app):
        assert [post(client, number, *posting) for number, posting in enumerate(postings)] == first
    assert_sound(app)


def post(client: FlaskClient, number: int, path: str, facts: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=facts, headers={"Idempotency-Key": f"key-{number}"})
    assert answer.status_code == 201, answer.text
    return body(answer)
