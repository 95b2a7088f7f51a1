"""Flame graphs of a worker under a workload."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.catalogue import Size
from benchmarks.cpu import tree
from benchmarks.databases import new_database
from benchmarks.servers import running
from benchmarks.workloads import measure

if TYPE_CHECKING:
    from benchmarks.workloads import Workload

# Samples per second.
RATE = 500


def profile(engine: str, workload: Workload, seconds: int, path: Path) -> None:
    """Write the graph of our only worker, with native frames left out, as SVG."""
    size = Size()
    with new_database(engine) as database:
        database.fill(size)
        with running("ours", database, INVENTORY_WORKERS="1") as server:
            measure(workload, server, size, 2)
            recorder = subprocess.Popen(recording(tree(server.pid)[-1], seconds, path), stdout=subprocess.DEVNULL)
            measure(workload, server, size, seconds + 2)
            if recorder.wait():
                raise RuntimeError("py-spy failed; it may have to run as root.")


def recording(pid: int, seconds: int, path: Path) -> list[str]:
    beside_python = Path(sys.executable).with_name("py-spy")
    program = str(beside_python) if beside_python.exists() else shutil.which("py-spy") or "py-spy"
    options = ("--pid", str(pid), "--duration", str(seconds), "--rate", str(RATE), "--output", str(path))
    return [program, "record", *options]
