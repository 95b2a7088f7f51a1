from __future__ import annotations

from tests.reliability.table import BEGIN, END, between_markers, table


def test_the_table_has_a_row_for_each_test_and_a_column_for_each_engine() -> None:
    lines = [
        {"test": "Race", "promise": "Sold is stock.", "engine": "sqlite", "figures": {"sales": 2_000, "drift": 0}},
        {"test": "Cut", "promise": "Nothing lost.", "engine": "postgresql", "figures": {"cuts": 200}},
        {"test": "Race", "promise": "Sold is stock.", "engine": "postgresql", "figures": {"sales": 1, "drift": 0}},
    ]
    assert table(lines, ("SQLite 3", "PostgreSQL 15")).splitlines() == [
        "| What happens | What must hold | SQLite 3 | PostgreSQL 15 |",
        "| --- | --- | --- | --- |",
        "| Race | Sold is stock. | 2,000 sales, 0 drift | 1 sales, 0 drift |",
        "| Cut | Nothing lost. | does not apply | 200 cuts |",
    ]


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert between_markers(page, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
