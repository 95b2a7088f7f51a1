from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/unused.db")
    return import_module("benchmarks.rivals.limit")


def test_named_parameters_become_those_of_psycopg(limit: Any) -> None:
    assert limit.placeholders("a = :a AND b = :b_2::text") == "a = %(a)s AND b = %(b_2)s::text"


def test_no_product_occurs_twice_in_a_round(limit: Any) -> None:
    lines = [{"product_id": product} for product in (1, 2, 1, 3, 1)]
    assert [[line["product_id"] for line in found] for found in limit.rounds(lines)] == [[1, 2, 3], [1], [1]]
