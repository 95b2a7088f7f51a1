"""Every test here belongs to the fault bench and reports what it counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.figures import Report

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.reliability)


@pytest.fixture
def report(request: pytest.FixtureRequest, engine_name: str) -> Report:
    return Report(request, engine_name)
