"""The session in docs/access.md prints what the page says."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from inventory.caller import SCOPES
from tests.servers import ROOT
from tests.sessions import normalized, outputs, steps

if TYPE_CHECKING:
    from flask import Flask

    from tests.servers import Gunicorn

PAGE = (ROOT / "docs" / "access.md").read_text()
KEY_ID = re.compile(r"\b[0-9a-f]{12}\b")
MINUTE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("curl") is None, reason="the session needs curl")]


def stable(answer: str) -> object:
    return normalized(MINUTE.sub("a minute", KEY_ID.sub("an-id", answer)))


def test_session_prints_the_documented_output(keyed: Flask, keyed_server: Gunicorn) -> None:
    assert keyed.test_cli_runner().invoke(args=["seed"]).exit_code == 0
    address = f"127.0.0.1:{keyed_server.port}"
    commands = [command.replace("localhost:8000", address) for command, _answer in steps(PAGE)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    got = outputs(commands, keyed_server.environment | {"PATH": path})
    assert [stable(answer) for answer in got] == [stable(answer) for _command, answer in steps(PAGE)]


def test_page_lists_the_scopes() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(SCOPES)
