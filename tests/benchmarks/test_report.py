from __future__ import annotations

from typing import Any

import pytest

from benchmarks import report
from benchmarks.compare import Spread, cpu_ratio, own_ratios, spread


def rounds(*cpu_ms: float) -> list[dict[str, float]]:
    return [{"requests": 100, "cpu_ms": value, "per_second": 1000 / value, "p99_ms": 5.0} for value in cpu_ms]


WORKLOADS = {
    "purchase": {"ours": rounds(2, 2, 4), "limit": rounds(1, 1, 1), "peer": rounds(4, 6, 8)},
    "keyed-purchase": {"ours": rounds(3, 3, 6), "limit": rounds(1, 1, 1), "peer": rounds(4, 6, 8)},
    "batch": {"ours": rounds(20, 20, 20), "limit": rounds(2, 2, 2), "peer": rounds(40, 40, 40)},
}
RESULT: dict[str, Any] = {
    "kind": "compare",
    "engine": "postgresql",
    "machine": {"cpu": "A CPU", "cores": 2, "python": "3.12.1", "database": "PostgreSQL 15.1", "commit": "abc"},
    "size": {"products": 10_000, "ledger_rows": 200_000},
    "workloads": WORKLOADS,
}


def test_spread_has_median_minimum_and_maximum() -> None:
    assert spread([3, 1, 2]) == Spread(2, 1, 3)


def test_ratio_is_of_rounds_that_ran_next_to_each_other() -> None:
    purchase = WORKLOADS["purchase"]
    assert cpu_ratio(purchase["peer"], purchase["ours"]) == Spread(2, 2, 3)
    assert cpu_ratio(purchase["limit"], purchase["ours"]) == Spread(0.5, 0.25, 0.5)


def test_ratio_needs_as_many_rounds_of_each() -> None:
    with pytest.raises(ValueError, match="zip"):
        cpu_ratio(rounds(1, 2), rounds(1))


def test_own_ratios_compare_a_key_and_a_line_of_a_batch_with_a_purchase() -> None:
    assert own_ratios(WORKLOADS) == {"keyed-purchase": Spread(1.5, 1.5, 1.5), "batch": Spread(0.5, 0.25, 0.5)}
    assert own_ratios({"purchase": WORKLOADS["purchase"]}) == {}


def test_comparison_has_a_row_for_each_workload() -> None:
    heading, purchase, *others = report.comparison(WORKLOADS)
    assert heading[:6] == [
        "workload",
        "CPU ms, ours",
        "CPU ms, limit",
        "CPU ms, peer",
        "times better than peer",
        "share of limit",
    ]
    assert purchase[:6] == [
        "purchase",
        "2.000 (2.000 - 4.000)",
        "1.000 (1.000 - 1.000)",
        "6.000 (4.000 - 8.000)",
        "2.00 (2.00 - 3.00)",
        "0.50 (0.25 - 0.50)",
    ]
    assert [row[0] for row in others] == ["keyed-purchase", "batch"]


def test_comparison_without_peer_has_no_column_for_it() -> None:
    without = {"purchase": {name: WORKLOADS["purchase"][name] for name in ("ours", "limit")}}
    heading, _purchase = report.comparison(without)
    assert not any("peer" in cell for cell in heading)


def test_import_is_compared_by_cpu_time_and_by_rate() -> None:
    *_, ratio = report.importing({"ours": rounds(4), "executemany": rounds(1)})
    assert ratio[1:] == ["0.25 (0.25 - 0.25)", "0.25 (0.25 - 0.25)"]


def test_plain_and_markdown_name_machine_and_versions() -> None:
    for text in (report.plain(RESULT), report.markdown(RESULT)):
        assert text.startswith("PostgreSQL 15.1, 10,000 products; A CPU, 2 cores; python 3.12.1; commit abc.")
    assert "| purchase | 2.000 (2.000 - 4.000) |" in report.markdown(RESULT)


def test_growth_is_relative_to_the_smallest_ledger() -> None:
    sizes = [{"ledger_rows": 1_000, "cpu_ms": {"list": 2.0}}, {"ledger_rows": 9_000, "cpu_ms": {"list": 3.0}}]
    assert report.growing({"sizes": sizes}) == [["request", "CPU ms at 1,000 rows", "9,000"], ["list", "2.000", "1.50"]]


def test_results_have_their_own_places_on_the_page() -> None:
    assert report.name_of(RESULT) == "postgresql"
    assert report.name_of(RESULT | {"kind": "limits"}) == "limits postgresql"


def test_only_the_part_between_the_markers_changes() -> None:
    page = "a\n<!-- results: x -->\nold\n<!-- end of results: x -->\nb\n"
    assert report.between_markers(page, "x", "new") == page.replace("old", "new")
    with pytest.raises(ValueError, match="lacks its markers"):
        report.between_markers(page, "y", "new")
