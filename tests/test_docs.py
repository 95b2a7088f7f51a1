"""/docs as a person sees it, in a real browser that can reach nothing but the service."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import pytest

from tests.contract import DOCUMENT, OPERATIONS
from tests.servers import Gunicorn

if TYPE_CHECKING:
    from flask.testing import FlaskClient

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    # Milliseconds of the page's own clock, which runs on while nothing is under way.
    "--virtual-time-budget=30000",
]
# What Swagger UI shows in place of a document that it cannot read.
COMPLAINTS = ["Unable to render", "Failed to load", "Fetch error", "errors-wrapper", "No operations defined"]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page's elements once its scripts have run. The documentation needs no database."""
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    folder = tmp_path_factory.mktemp("browser")
    with Gunicorn(f"sqlite:///{folder / 'unused.db'}") as server:
        command = [BROWSER, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", f"{server.url}/docs"]
        dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return html.unescape(dumped.stdout)


def test_every_operation_is_rendered(rendered: str) -> None:
    shown = re.findall(r'class="opblock-summary-method">([A-Z]+)<.*?data-path="([^"]+)"', rendered, re.DOTALL)
    assert set(shown) == {(operation.method, operation.path) for operation in OPERATIONS}
    assert ("POST", "/transactions") in shown


def test_every_operation_is_rendered_with_its_summary(rendered: str) -> None:
    missing = [str(operation) for operation in OPERATIONS if operation.description["summary"] not in rendered]
    assert missing == []


def test_every_schema_is_rendered(rendered: str) -> None:
    missing = [name for name in DOCUMENT["components"]["schemas"] if f">{name}<" not in rendered]
    assert missing == []


def test_no_complaint_is_rendered(rendered: str) -> None:
    assert [complaint for complaint in COMPLAINTS if complaint in rendered] == []
    assert "Inventory" in rendered


@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
@pytest.mark.parametrize("path", ["/docs", "/docs/", "/docs/index.html"])
def test_the_page_takes_all_it_needs_from_the_service_itself(client: FlaskClient, path: str) -> None:
    page = client.get(path).text
    needed = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(needed) >= 3
    for address in needed:
        assert not re.match(r"\w+:|//", address), address
        served = client.get(urljoin(path, address))
        assert served.status_code == 200, address
        served.close()
