"""Marks the reliability tests, and gives them a report for their figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.reliability.figures import Report

if TYPE_CHECKING:
    from tests.environments import Environment

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.reliability)


@pytest.fixture
def environment(own_environment: Environment) -> Environment:
    """Nothing else may have the database open when a test looks at its file, or kills the server.

    The test against a model takes many databases one after another, and reuses them.
    """
    return own_environment


@pytest.fixture
def report(request: pytest.FixtureRequest, engine_name: str) -> Report:
    return Report(request, engine_name)
