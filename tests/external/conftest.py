"""Fixtures for checks with third-party tools, which are skipped if not installed, unless TEST_REQUIRE_TOOLS is set."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest

from tests.contract import DOCUMENT
from tests.external import tools

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.external)


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    if tools.INSTALLED.exists():
        return
    if os.environ.get("TEST_REQUIRE_TOOLS"):
        pytest.fail("the tools of tests/external are required, but not installed: run `make tools`")
    pytest.skip("the tools of tests/external are not installed: run `make tools`")


@pytest.fixture(scope="session")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OpenAPI document in a file."""
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_bytes(orjson.dumps(DOCUMENT))
    return path
