"""Environments are passed from test to test, unless a test has altered more than rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from inventory.database.base import db
from tests.builders import contents, product, transaction

if TYPE_CHECKING:
    from tests.environments import Environment


def test_environment_is_reused_empty(own_environment: Environment) -> None:
    client = own_environment.app.test_client()
    transaction(client, product(client, quantity_on_hand=5)["id"], "sale", 2)
    assert own_environment.server.answers()
    assert own_environment.reset()
    assert not any(contents(own_environment.app).values())
    assert product(client)["id"] == 1


def test_altered_configuration_is_not_reused(own_environment: Environment) -> None:
    own_environment.app.config["MAX_CONTENT_LENGTH"] = 1
    assert not own_environment.reset()


def test_altered_structure_is_restored_or_not_reused(own_environment: Environment, engine_name: str) -> None:
    with own_environment.app.app_context():
        db.session.execute(text("DROP INDEX ix_transactions_created_at_id"))
        db.session.commit()
    is_overwritten = engine_name == "sqlite"
    assert own_environment.reset() == is_overwritten
    with own_environment.app.app_context():
        found = {index["name"] for index in inspect(db.engine).get_indexes("transactions")}
    assert ("ix_transactions_created_at_id" in found) == is_overwritten


def test_stopped_server_is_not_reused(own_environment: Environment) -> None:
    own_environment.server.stop()
    assert not own_environment.reset()
