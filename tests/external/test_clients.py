"""Clients that are generated from the OpenAPI document without warnings, and programs that use them.

Both programs, shop.py and shop.mts, do the same: create a category and products, import one more, edit a price, sell
with an Idempotency-Key while the first response is lost, try to sell more than the stock, read a list page by page,
and follow both feeds to the end.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from inventory.database.base import db
from inventory.models.product import Product
from inventory.models.transaction import Transaction
from tests.builders import assert_ledger_is_consistent
from tests.conftest import ENGINES
from tests.external import tools
from tests.external.losing import ResponseDropper

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from flask import Flask

    from tests.environments import Environments

PROGRAMS = tools.FOLDER / "clients"


@pytest.fixture(scope="module")
def python_client(document: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shop.py and the package that it uses."""
    folder = tmp_path_factory.mktemp("python")
    shutil.copy(PROGRAMS / "shop.py", folder)
    generated = tools.run(
        tools.FOLDER,
        *("openapi-python-client", "generate", "--fail-on-warning", "--path", document, "--meta", "none"),
        *("--config", "openapi-python-client.yaml", "--output-path", folder / "inventory_client"),
    )
    tools.assert_succeeded(generated)
    return folder


@pytest.fixture(scope="module")
def typescript_client(document: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shop.mts and the types that it uses."""
    folder = tmp_path_factory.mktemp("typescript")
    shutil.copytree(PROGRAMS, folder, dirs_exist_ok=True)
    (folder / "node_modules").symlink_to(tools.FOLDER / "node_modules")
    generated = tools.run(folder, "openapi-typescript", document, "--output", "inventory.d.ts")
    tools.assert_succeeded(generated)
    assert generated.stderr == ""
    return folder


def test_python_client_program_passes_strict_type_check(python_client: Path) -> None:
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", tools.ENVIRONMENT / "bin" / "python")
    tools.assert_succeeded(tools.run(python_client, *mypy, "shop.py"))


def test_typescript_client_program_passes_strict_type_check(typescript_client: Path) -> None:
    tools.assert_succeeded(tools.run(typescript_client, "tsc", "--project", "."))


def run_python(request: pytest.FixtureRequest, url: str) -> subprocess.CompletedProcess[str]:
    return tools.run(request.getfixturevalue("python_client"), "python", "shop.py", url, "an API key")


def run_typescript(request: pytest.FixtureRequest, url: str) -> subprocess.CompletedProcess[str]:
    return tools.run(request.getfixturevalue("typescript_client"), "node", "shop.mts", url)


@dataclass(frozen=True)
class Outcome:
    """What a program printed, and the database after it ended."""

    output: dict[str, Any]
    app: Flask

    def rows(self, *columns: Any) -> list[list[Any]]:
        with self.app.app_context():
            return [list(row) for row in db.session.execute(select(*columns).order_by(columns[0]))]


@pytest.fixture(scope="module", params=[run_python, run_typescript], ids=["python", "typescript"])
def program(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module", params=ENGINES)
def outcome(request: pytest.FixtureRequest, program: Any, environments: dict[str, Environments]) -> Iterator[Outcome]:
    with environments[request.param].one() as environment:
        with ResponseDropper(environment.server.port) as proxy:
            done = program(request, proxy.url)
        tools.assert_succeeded(done)
        yield Outcome(json.loads(done.stdout), environment.app)


def test_price_edit_leaves_stock_unchanged(outcome: Outcome) -> None:
    assert outcome.output["edited"] == [11.5, 50]
    reasons = outcome.rows(Transaction.id, Transaction.reason)
    assert "count" not in [reason for _id, reason in reasons]


def test_sale_retried_after_lost_response_counts_once(outcome: Outcome) -> None:
    assert (outcome.output["lost"], outcome.output["replayed"]) == (1, "true")
    assert outcome.output["sale"] == [-5, 45]
    assert [delta for _id, delta in outcome.rows(Transaction.id, Transaction.delta)] == [50, 50, 50, 50, 50, -5]
    assert_ledger_is_consistent(outcome.app)


def test_insufficient_stock_error_includes_available_quantity(outcome: Outcome) -> None:
    assert outcome.output["available"] == 45


def test_product_file_is_imported(outcome: Outcome) -> None:
    assert outcome.output["created"] == 1
    assert outcome.rows(Product.sku)[-1] == ["WASHER-6"]


def test_list_pages_contain_every_product_once(outcome: Outcome) -> None:
    assert outcome.output["listed"] == [product_id for (product_id,) in outcome.rows(Product.id)]


def test_transaction_feed_contains_every_transaction_once(outcome: Outcome) -> None:
    assert sorted(outcome.output["ledger"]) == [transaction_id for (transaction_id,) in outcome.rows(Transaction.id)]


def test_product_feed_contains_every_product_and_deletion_once(outcome: Outcome) -> None:
    existing = [product_id for (product_id,) in outcome.rows(Product.id)]
    (deleted,) = set(range(1, max(existing))) - set(existing)
    expected = [*([product_id, False] for product_id in existing), [deleted, True]]
    assert sorted(outcome.output["catalogue"]) == sorted(expected)
