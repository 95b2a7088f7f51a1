"""The machine and the versions of a run."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.databases import ROOT

if TYPE_CHECKING:
    from benchmarks.databases import Database

PACKAGES = ("flask", "gunicorn", "sqlalchemy", "psycopg", "fastapi", "uvicorn", "asyncpg", "pydantic")


def describe(database: Database) -> dict[str, str | int]:
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        "database": database.version(),
        "commit": commit(),
        **{name: version(name) for name in PACKAGES},
    }


def cpu_model() -> str:
    """The first model name in /proc/cpuinfo, or the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def commit() -> str:
    """The checked out commit, with ``+`` if files were changed since."""
    described = subprocess.run(
        ["git", "describe", "--always", "--exclude=*", "--dirty=+"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"
