"""Schemathesis on the running service: thousands of valid and invalid requests, generated from the OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inventory.auth.keys import create
from inventory.auth.secrets import Pepper
from inventory.caller import SCOPES
from tests.auth.credentials import PEPPER
from tests.builders import assert_ledger_is_consistent
from tests.external import tools
from tests.valid_requests import fill

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Flask

    from tests.servers import Gunicorn


def test_schemathesis_finds_no_failures(app: Flask, keyed_server: Gunicorn, tmp_path: Path) -> None:
    fill(app.test_client())
    with app.app_context():
        key = create(Pepper(PEPPER), "schemathesis", SCOPES).text
    configuration = tools.FOLDER / "schemathesis.toml"
    done = tools.run(
        tmp_path,
        *("schemathesis", "--config-file", configuration, "run", f"{keyed_server.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {key}"),
    )
    tools.assert_succeeded(done)
    assert_ledger_is_consistent(app)
