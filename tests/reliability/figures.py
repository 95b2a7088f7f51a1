"""The size of the reliability tests, and their figures: in the summary of the run, and as JSON lines in a file."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

SCALE = float(os.environ.get("TEST_RELIABILITY_SCALE", "1"))
FILE = os.environ.get("TEST_RELIABILITY_FIGURES")
PROPERTY = "reliability"


def scaled(count: int) -> int:
    """The size for CI, multiplied by TEST_RELIABILITY_SCALE."""
    return max(1, round(count * SCALE))


class Report:
    """Called by a test with its figures, before its assertions."""

    def __init__(self, request: pytest.FixtureRequest, engine: str) -> None:
        self.engine = engine
        self.expected_result = " ".join((request.function.__doc__ or "").split())
        self.properties: list[tuple[str, object]] = request.node.user_properties
        self.started = time.monotonic()

    def __call__(self, test: str, **figures: float) -> None:
        seen = figures | {"seconds": round(time.monotonic() - self.started, 1)}
        self.properties.append((PROPERTY, f"{test} [{self.engine}]: {in_words(seen)}"))
        if FILE is not None:
            line = {"test": test, "expected_result": self.expected_result, "engine": self.engine, "figures": seen}
            with Path(FILE).open("a") as file:
                file.write(json.dumps(line) + "\n")


def in_words(figures: dict[str, float]) -> str:
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in figures.items())


def lines(reports: Iterable[object]) -> list[str]:
    """The figures in pytest's reports, also in those from other processes."""
    called = [report for report in reports if isinstance(report, pytest.TestReport) and report.when == "call"]
    return [str(value) for report in called for name, value in report.user_properties if name == PROPERTY]


def summarise(terminalreporter: pytest.TerminalReporter) -> None:
    found = lines(report for reports in terminalreporter.stats.values() for report in reports)
    if found:
        terminalreporter.write_sep("=", "reliability")
        for line in sorted(found):
            terminalreporter.write_line(line)
