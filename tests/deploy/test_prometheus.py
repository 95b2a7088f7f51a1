"""Alert rules and queries, checked by promtool of Prometheus."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.deploy.monitoring import RULE_TESTS, RULES, queries
from tests.servers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Flask

pytestmark = pytest.mark.external

PROMTOOL = shutil.which("promtool")


@pytest.fixture(autouse=True)
def _installed() -> None:
    if PROMTOOL is None:
        missing = "promtool is not installed; it is part of Debian's package prometheus"
        if os.environ.get("TEST_REQUIRE_TOOLS"):
            pytest.fail(missing)
        pytest.skip(missing)


def promtool(*arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    command = [PROMTOOL, *arguments]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=60, check=False)


def assert_succeeded(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_alert_rules_are_valid() -> None:
    assert_succeeded(promtool("check", "rules", RULES))


def test_alerts_fire_when_they_should() -> None:
    assert_succeeded(promtool("test", "rules", RULE_TESTS))


def test_queries_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    """As the expressions of rules. JSON is YAML, too."""
    expressions = [query.replace("$__rate_interval", "5m").replace("$instance", ".*") for query in queries()]
    rules = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(expressions)]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert_succeeded(promtool("check", "rules", file))


def test_names_and_help_follow_the_conventions(app: Flask) -> None:
    assert_succeeded(promtool("check", "metrics", text=app.test_client().get("/metrics").text))
