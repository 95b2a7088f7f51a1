from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from benchmarks.catalogue import HISTORY, QUIET_HISTORY, QUIET_PRODUCT, Catalogue, Size
from benchmarks.databases import new_database
from benchmarks.workloads import WORKLOADS, sample

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue(Size(1_000), NOW)


def test_stock_is_the_sum_of_the_ledger(catalogue: Catalogue) -> None:
    stock: Counter[int] = Counter()
    for row in catalogue.transactions():
        stock[row["product_id"]] += row["delta"]
        assert row["balance_after"] == stock[row["product_id"]]
    assert stock == {row["id"]: row["quantity_on_hand"] for row in catalogue.products()}


def test_history_is_as_long_as_announced(catalogue: Catalogue) -> None:
    rows = Counter(row["product_id"] for row in catalogue.transactions())
    assert rows.pop(QUIET_PRODUCT) == QUIET_HISTORY
    assert set(rows.values()) == {HISTORY}
    assert {row["last_seq"] for row in catalogue.products()} == {HISTORY, QUIET_HISTORY}


def test_ledger_is_in_order_of_time(catalogue: Catalogue) -> None:
    times = [row["created_at"] for row in catalogue.transactions()]
    assert times == sorted(times)
    assert catalogue.start < times[0] <= times[-1] <= catalogue.end < NOW


@pytest.mark.parametrize("products", [10_000, 30_000])
def test_one_product_in_a_hundred_is_low(products: int) -> None:
    low = sum(row["quantity_on_hand"] <= row["reorder_point"] for row in Catalogue(Size(products), NOW).products())
    assert low == pytest.approx(products / 100, rel=0.1)
    assert low >= 100


def test_search_finds_more_than_a_page_in_each_category() -> None:
    found = Counter(row["category_id"] for row in Catalogue(Size(), NOW).products() if "copper" in row["name_folded"])
    assert len(found) == 50
    assert min(found.values()) >= 20


def test_sample_fills_every_place() -> None:
    for workload in WORKLOADS.values():
        request = sample(workload.template)
        places = {place for place in ("{product}", "{category}", "{word}", "{key}") if place in str(request)}
        assert places == set()


@pytest.mark.slow
def test_filled_database_passes_verification_and_can_be_emptied() -> None:
    with new_database("sqlite") as database:
        database.fill(Size(200))
        database.verify()
        database.empty()
        database.fill(Size(100))
        database.verify()
