from __future__ import annotations

import os

import pytest

from benchmarks.cpu import Meter, cpu_of, tree

WORKER, BACKEND, LATER = (1, 10.0), (2, 10.0), (3, 20.0)


def test_processes_count_from_the_first_reading() -> None:
    meter = Meter()
    meter.read({WORKER: 5.0, BACKEND: 1.0})
    meter.read({WORKER: 5.5, BACKEND: 1.25})
    assert meter.spent == pytest.approx(0.75)


def test_process_that_starts_later_counts_in_full() -> None:
    meter = Meter()
    meter.read({WORKER: 5.0})
    meter.read({WORKER: 5.0, LATER: 0.5})
    assert meter.spent == pytest.approx(0.5)


def test_process_that_ends_counts_up_to_its_last_reading() -> None:
    meter = Meter()
    meter.read({WORKER: 5.0, BACKEND: 1.0})
    meter.read({WORKER: 5.0, BACKEND: 1.5})
    meter.read({WORKER: 6.0})
    assert meter.spent == pytest.approx(1.5)


def test_process_with_a_reused_id_is_another_process() -> None:
    meter = Meter()
    meter.read({(1, 10.0): 5.0})
    meter.read({(1, 30.0): 0.25})
    assert meter.spent == pytest.approx(0.25)


def test_meter_without_readings_is_zero() -> None:
    assert Meter().spent == 0


def test_ended_processes_are_left_out() -> None:
    found = cpu_of(iter([os.getpid(), 2**22 + 1]))
    assert [pid for pid, _start in found] == [os.getpid()]
    assert all(seconds > 0 for seconds in found.values())


def test_tree_begins_with_the_process_itself() -> None:
    assert tree(os.getpid())[0] == os.getpid()
