"""Runs the third-party tools that ``make tools`` installs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.servers import ROOT

FOLDER = Path(__file__).parent
ENVIRONMENT = ROOT / ".venv-tools"
INSTALLED = ENVIRONMENT / ".installed"
PROGRAMS = [ENVIRONMENT / "bin", FOLDER / "node_modules" / ".bin"]

# Disables telemetry and update checks.
SILENCE = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "NO_COLOR": "1"}


def run(folder: Path, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a tool in a folder. The caller checks the exit code."""
    path = os.pathsep.join([*map(str, PROGRAMS), os.environ["PATH"]])
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | SILENCE | {"PATH": path} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def assert_succeeded(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.stdout[-10_000:]}\n{done.stderr[-10_000:]}"
