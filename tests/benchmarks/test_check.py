from __future__ import annotations

from benchmarks.check import difference, normal, number


def test_times_are_compared_as_times() -> None:
    shown = {"created_at": "2026-01-01T00:00:00Z", "name": "Bolt"}
    other = {"created_at": "2026-01-01T01:00:00+01:00", "name": "Bolt"}
    assert normal(shown, without=frozenset()) == normal(other, without=frozenset())


def test_names_are_left_out_at_every_depth() -> None:
    assert normal({"id": 1, "rows": [{"id": 2, "delta": 3}]}, without=frozenset({"id"})) == {"rows": [{"delta": 3}]}


def test_amounts_in_csv_may_end_in_zeros() -> None:
    assert number("12.50") == number("12.5") != number("12.51")
    assert number("Bolt") == "Bolt"


def test_difference_names_the_first_place() -> None:
    assert difference({"rows": [1, 2]}, {"rows": [1, 3]}) == "answer.rows[1] is 3, ours 2"
    assert difference([1], [1, 2]).startswith("answer is [1, 2]")
