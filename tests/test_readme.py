"""The documentation is accurate: settings, make targets, links, and every output of the README's tour."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from inventory.config import Settings
from tests.servers import ROOT, Gunicorn
from tests.sessions import fenced, normalized, steps

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Flask

README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

DEFAULTS_IN_WORDS = {
    "INVENTORY_KEY_PEPPER": "none",
    "INVENTORY_JWT_ISSUER": "none",
    "INVENTORY_JWT_AUDIENCE": "none",
    "INVENTORY_JWT_KEYS": "none",
    "INVENTORY_JWT_ALGORITHMS": "`RS256,ES256`",
    "INVENTORY_JWT_SCOPE_PREFIX": "empty",
    "REDIS_URL": "none",
    "INVENTORY_MAX_TRANSFERS": "one less than the threads",
    "INVENTORY_WORKERS": "one per processor, fewer if PostgreSQL lacks [connections](docs/operations.md#sizing)",
    "INVENTORY_PGBOUNCER": "`false`",
    "INVENTORY_REQUIRE_IDEMPOTENCY_KEY": "`false`",
    "INVENTORY_TRUSTED_HOSTS": "any",
    "OTEL_TRACES_EXPORTER": "`otlp` if an endpoint is set, otherwise `none`",
    "INVENTORY_LOG_FORMAT": "`text` on a terminal, otherwise `json`",
    "INVENTORY_CORS_ORIGINS": "none",
    "INVENTORY_TEMP_DIR": "the system's",
}

pytestmark = pytest.mark.slow


def code(text: str) -> list[str]:
    return [*re.findall(r"`([^`\n]+)`", text), *fenced(text, "sh"), *fenced(text, "console")]


def settings_table() -> list[tuple[str, str, str]]:
    return re.findall(r"^\| `([A-Z_]+)` \| (.+?) \| (.+) \|$", README, re.MULTILINE)


@pytest.fixture
def demo_server(app: Flask, server: Gunicorn) -> Gunicorn:
    """The service as ``make run`` leaves it on a fresh machine."""
    assert app.test_cli_runner().invoke(args=["seed", "--if-empty"]).exit_code == 0
    return server


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour needs curl")
def test_tour_commands_print_the_documented_output(demo_server: Gunicorn, engine_name: str) -> None:
    # On PostgreSQL the sale that is sent again, row 349, uses up an id.
    later = int(engine_name == "postgresql")
    answers = [
        (command, re.sub(r'"id": (35\d)', lambda row: f'"id": {int(row[1]) + later}', answer))
        for command, answer in steps(README)
    ]
    shown = [(command, normalized(answer)) for command, answer in answers]
    got = []
    for command, _answer in shown:
        port = f"127.0.0.1:{demo_server.port}"
        there = command.replace("localhost:8000", port)
        done = subprocess.run(
            ["bash", "-c", there], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
        )
        got.append((command, normalized(done.stdout.replace(port, "localhost:8000"))))
    assert got == shown


def test_tour_covers_the_main_endpoints() -> None:
    commands = "".join(command for command, _answer in steps(README))
    for address in ("/categories", "/products", "/transactions", "/low-stock", "/export/", "/import/"):
        assert address in commands


def test_settings_table_lists_all_settings_with_defaults() -> None:
    documented = [(name, default) for name, default, _meaning in settings_table()]
    assert documented == [
        (name, DEFAULTS_IN_WORDS.get(name, f"`{field.load_default}`")) for name, field in Settings().fields.items()
    ]


def test_settings_table_matches_the_setting_descriptions() -> None:
    for name, _default, meaning in settings_table():
        plain = meaning.replace("`", "").casefold()
        assert plain.startswith(Settings().fields[name].metadata["description"].casefold())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for text in code(page.read_text()) for target in make_targets(text)}
    assert named <= targets


def make_targets(text: str) -> list[str]:
    """``make PYTHON=python3.12 lint types`` names two."""
    calls = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("make ")]
    return [word for call in calls for word in call[1:] if "=" not in word]


def test_quick_start_names_make_run_and_make_test() -> None:
    named = make_targets(fenced(README, "sh")[0])
    assert named == ["run", "test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_point_to_existing_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
