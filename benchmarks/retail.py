"""The year of real sales that online_retail.py loads, as a step of the comparison."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.cpu import metered
from benchmarks.databases import ROOT, new_database
from tests import realdata, retail

if TYPE_CHECKING:
    from collections.abc import Callable


def load(engine: str, say: Callable[[str], None]) -> dict[str, float] | None:
    """Load the year into a new database. None if the data is absent."""
    if not realdata.has("online-retail"):
        say(f"  retail: skipped, {realdata.absence('online-retail')}")
        return None
    with new_database(engine) as database, metered(os.getpid(), database) as meter:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "benchmarks.online_retail", database.url], cwd=ROOT, check=True)
        seconds = time.perf_counter() - start
    figures = {"lines": retail.LINES, "cpu_ms": 1000 * meter.spent / retail.LINES, "per_second": retail.LINES / seconds}
    say(f"  retail: CPU ms per line: {figures['cpu_ms']:.3f}")
    return figures
