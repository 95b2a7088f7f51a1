"""docs/security.md names tests that exist."""

from __future__ import annotations

import ast
import re

from tests.servers import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def test_every_risk_names_tests() -> None:
    risks = re.split(r"^\*\*API\d+, ", PAGE, flags=re.MULTILINE)[1:]
    assert len(risks) == 10
    assert [risk.split(".")[0] for risk in risks if "`tests/" not in risk] == []


def test_named_tests_exist() -> None:
    assert len(NAMED) > 30
    for file, name in NAMED:
        tree = ast.parse((ROOT / file).read_text())
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, (file, name)
