from __future__ import annotations

from tests.reliability.table import BEGIN, END, between_markers, table


def test_table_has_row_per_test_and_column_per_engine() -> None:
    lines = [
        {
            "test": "Race",
            "expected_result": "No overselling.",
            "engine": "sqlite",
            "figures": {"sales": 2_000, "drift": 0},
        },
        {
            "test": "Connection lost",
            "expected_result": "Nothing lost.",
            "engine": "postgresql",
            "figures": {"connections": 200},
        },
        {
            "test": "Race",
            "expected_result": "No overselling.",
            "engine": "postgresql",
            "figures": {"sales": 1, "drift": 0},
        },
    ]
    assert table(lines, ("SQLite 3", "PostgreSQL 15")).splitlines() == [
        "| Test | Expected result | SQLite 3 | PostgreSQL 15 |",
        "| --- | --- | --- | --- |",
        "| Race | No overselling. | 2,000 sales, 0 drift | 1 sales, 0 drift |",
        "| Connection lost | Nothing lost. | not applicable | 200 connections |",
    ]


def test_between_markers_replaces_only_marked_content() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert between_markers(page, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
