"""The command line as users run it: in a process of its own, whose memory is watched."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from typing import NamedTuple

import psutil

from tests.servers import ROOT


class Run(NamedTuple):
    output: str
    peak: int


def flask(database_url: str, *arguments: str) -> Run:
    """Run ``flask --app wsgi …``; what it printed and the most memory it was seen to have, in bytes."""
    command = [sys.executable, "-m", "flask", "--app", "wsgi", *arguments]
    environment = os.environ | {"DATABASE_URL": database_url}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        watched, peak = psutil.Process(process.pid), 0
        while True:
            with suppress(psutil.Error):
                peak = max(peak, watched.memory_info().rss)
            with suppress(subprocess.TimeoutExpired):
                output, _errors = process.communicate(timeout=0.02)
                break
    assert process.returncode == 0
    return Run(output, peak)
