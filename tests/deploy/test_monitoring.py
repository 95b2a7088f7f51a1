"""Alert rules and dashboard use metrics that exist, and all of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.deploy.monitoring import DASHBOARD, RULE_TESTS, RULES, alerts, dashboard, metrics_in, queries
from tests.exposition import scrape
from tests.servers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from flask.testing import FlaskClient

SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}
# Only on SQLite.
OPTIONAL = {"inventory_database_free_bytes"}


@pytest.fixture
def exposed(client: FlaskClient) -> set[str]:
    """The names of all time series."""
    families = scrape(client).families.values()
    return {f"{family.name}{suffix}" for family in families for suffix in SUFFIXES[family.type]}


@pytest.mark.parametrize("file", [RULES, RULE_TESTS, DASHBOARD], ids=lambda file: file.name)
def test_metrics_in_the_file_exist(file: Path, exposed: set[str]) -> None:
    used = metrics_in(file.read_text())
    assert used
    assert used - exposed <= OPTIONAL


def test_dashboard_shows_all_metrics(exposed: set[str]) -> None:
    shown = metrics_in(" ".join(queries()))
    others = {name for name in exposed if re.search("_(count|sum)$", name)}
    assert exposed - others - shown == set()


def test_documentation_names_all_metrics(client: FlaskClient) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    assert {name for name in scrape(client).families if name not in text} == set()


def test_each_alert_says_what_to_do_and_has_a_test() -> None:
    found = dict(alerts())
    assert len(found) >= 6
    tested = RULE_TESTS.read_text()
    for name, text in found.items():
        for part in ("expr", "severity", "summary", "description", "runbook"):
            assert re.search(rf"^ +{part}: \S", text, re.MULTILINE), (name, part)
        assert tested.count(f"alertname: {name}\n") == 3, name


def test_dashboard_has_the_structure_of_grafana() -> None:
    found = dashboard()
    assert found.keys() >= {"uid", "title", "schemaVersion", "panels", "templating", "time"}
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel.keys() >= {"type", "description", "datasource", "gridPos", "fieldConfig", "options", "targets"}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard()["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _y in cells) < 24


def test_dashboard_uses_only_variables_that_it_defines() -> None:
    found = dashboard()
    defined = {variable["name"] for variable in found["templating"]["list"]} | {"__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", " ".join(queries()))) <= defined
