"""/docs in a real browser that can reach only the service."""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import pytest

from inventory import create_app
from inventory.web import docs
from inventory.web.blueprint import Blueprint
from tests import builders
from tests.browser import CHROMIUM, OPTIONS, Browser
from tests.conftest import on_sqlite
from tests.contract import DOCUMENT, OPERATIONS
from tests.servers import ROOT, Gunicorn

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

    from tests.environments import Environments
    from tests.web.conftest import ServeWithKeys

# Milliseconds of the page's own clock, which advances while the page is idle.
TIME_BUDGET = "--virtual-time-budget=30000"
# Error messages of Swagger UI for a document that it cannot read.
ERRORS = ["Unable to render", "Failed to load", "Fetch error", "errors-wrapper", "No operations defined"]


@pytest.fixture(scope="module")
def rendered(environments: dict[str, Environments], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The DOM of the page after its scripts have run. It needs no database."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    folder = tmp_path_factory.mktemp("browser")
    with environments["sqlite"].one() as environment:
        command = [
            CHROMIUM,
            *OPTIONS,
            TIME_BUDGET,
            f"--user-data-dir={folder / 'profile'}",
            "--dump-dom",
            f"{environment.server.url}/docs",
        ]
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


def test_no_error_is_rendered(rendered: str) -> None:
    assert [error for error in ERRORS if error in rendered] == []
    assert "Inventory" in rendered


@pytest.fixture
def client() -> FlaskClient:
    """The documentation needs no database."""
    return create_app({"DATABASE_URL": "sqlite://"}).test_client()


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/docs/index.html"])
def test_page_loads_only_its_own_resources(client: FlaskClient, path: str) -> None:
    page = client.get(path).text
    needed = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(needed) >= 3
    for address in needed:
        assert not re.match(r"\w+:|//", address), address
        served = client.get(urljoin(path, address))
        assert served.status_code == 200, address
        served.close()


# Waits for a condition, at most 20 seconds, which is less than the limit of the driver.
WAIT = """
    const until = async condition => {
        for (let i = 0; i < 200 && !condition(); i++) await new Promise(done => setTimeout(done, 100));
        return condition();
    };
"""
TRY_IT_OUT = """
    const shown = selector => document.querySelector(`#operations-transactions-record_transaction ${selector}`);
    const press = async selector => (await until(() => shown(selector))).click();
    await press(".opblock-summary-control");
    await press(".try-out__btn");
    const sent = (await until(() => shown(".body-param__text"))).value;
    await press(".execute");
    const status = (await until(() => shown(".live-responses-table tbody .response-col_status"))).innerText;
"""


@pytest.mark.slow
@on_sqlite
def test_try_it_out_records_the_example(app: Flask, server: Gunicorn, browser: Browser) -> None:
    builders.product(app.test_client(), quantity_on_hand=10)
    browser.open(f"{server.url}/docs")
    sent, status = browser.result_of(WAIT + TRY_IT_OUT + "return [sent, status];")
    movement = json.loads(sent)
    (row, *_) = app.test_client().get("/transactions").get_json()
    assert status.strip() == "201"
    assert (row["product_id"], row["transaction_type"]) == (movement["product_id"], movement["transaction_type"])
    assert row["delta"] == -movement["quantity"]


@pytest.mark.slow
@on_sqlite
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
def test_page_is_not_wider_than_the_screen(server: Gunicorn, browser: Browser, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.command("/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})
    browser.open(f"{server.url}/docs")
    opened = """
        (await until(() => document.querySelector("#operations-transactions-record_transaction button"))).click();
        await until(() => document.querySelector(".responses-table"));
        return document.documentElement.scrollWidth;
    """
    assert browser.result_of(WAIT + opened) <= width


def files_of(page: str) -> list[str]:
    return re.findall(r'(?:src|href)="([^"]+)"', page)


def test_page_has_viewport_meta_tag(client: FlaskClient) -> None:
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in client.get("/docs").text


def test_versioned_assets_are_cached_as_immutable(client: FlaskClient) -> None:
    for address in files_of(client.get("/docs").text):
        assert client.get(address).headers["Cache-Control"] == "public, max-age=31536000, immutable"
        plain = client.get(address.replace(f"/{docs.RELEASE}/", "/"))
        assert plain.status_code == 200
        assert plain.headers["Cache-Control"] == "no-cache"


def test_release_names_the_content_of_own_files(client: FlaskClient) -> None:
    """Otherwise browsers would keep an old file for a year."""
    served = b"".join(client.get(f"/docs/{docs.RELEASE}/{name}").data for name in ("docs.css", "docs.js"))
    assert f"{version('flask-swagger-ui')}-{hashlib.sha256(served).hexdigest()[:8]}" == docs.RELEASE


def test_policy_of_the_page_allows_only_its_own_resources(client: FlaskClient) -> None:
    policy = dict(part.split(" ", 1) for part in client.get("/docs").headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "font-src": "'self'",
        "img-src": "'self' data:",
    }


# Returns what the policy of the page has blocked, directives and origins, as soon as all that is expected is reported.
BLOCKED = """
    const blocked = async expected => {
        const reports = [];
        const origin = report => report.body.blockedURL.replace(/(:[0-9]+)[/].*/, "$1");
        const add = report => reports.push(`${report.body.effectiveDirective} ${origin(report)}`);
        new ReportingObserver(news => news.forEach(add), {types: ["csp-violation"], buffered: true}).observe();
        await until(() => expected.every(report => reports.includes(report)));
        return reports;
    };
    const insert = (name, properties) => {
        return document.body.appendChild(Object.assign(document.createElement(name), properties));
    };
"""
# React notices only what is set by the setter of the element's class.
AUTHORIZE = """
    const found = selector => until(() => document.querySelector(selector));
    (await found(".scheme-container .authorize")).click();
    const field = await found(".modal-ux input[aria-label=auth-bearer-value]");
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(field, KEY);
    field.dispatchEvent(new Event("input", {bubbles: true}));
    (await found(".modal-ux button[type=submit]")).click();
    (await found(".modal-ux .btn-done")).click();
"""
# Attempts to load or run what is not part of the page, by the reports of their failure.
ATTEMPTS = {
    "script-src-elem inline": "insert('script', {textContent: 'window.injected = true'})",
    "script-src-attr inline": "insert('a').setAttribute('onclick', 'window.injected = true')",
    "script-src-elem http://localhost:1": "insert('script', {src: 'http://localhost:1/x.js'})",
    "script-src-elem data": "insert('script', {src: 'data:text/javascript,window.injected=true'})",
    # Not in the call of the driver, which may evaluate text.
    "script-src eval": "setTimeout(() => new Function('window.injected = true')())",
    "style-src-elem inline": "insert('style', {textContent: 'body {color: red}'})",
    "style-src-elem http://localhost:1": "insert('link', {rel: 'stylesheet', href: 'http://localhost:1/x.css'})",
    "style-src-attr inline": "insert('a').setAttribute('style', 'color: red')",
    "img-src http://localhost:1": "insert('img', {src: 'http://localhost:1/x.png'})",
    "connect-src http://localhost:1": "fetch('http://localhost:1/x').catch(() => null)",
    "frame-src http://localhost:1": "insert('iframe', {src: 'http://localhost:1/x'})",
    "form-action http://localhost:1": "insert('form', {action: 'http://localhost:1/x'}).submit()",
    "base-uri http://localhost:1": "insert('base', {href: 'http://localhost:1/'})",
}


@pytest.mark.slow
def test_authorize_and_execute_work_under_the_policy(serve_with_keys: ServeWithKeys, browser: Browser) -> None:
    with serve_with_keys() as (server, key):
        browser.open(f"{server.url}/docs")
        authorize = AUTHORIZE.replace("KEY", json.dumps(key))
        # Everything that the page caused is reported before the style that is inserted last.
        last = "insert('style', {textContent: '/**/'}); return [status, await blocked(['style-src-elem inline'])];"
        status, blocked = browser.result_of(WAIT + BLOCKED + authorize + TRY_IT_OUT + last)
        assert status.strip() == "201"
        assert blocked == ["style-src-elem inline"]


@pytest.mark.slow
@on_sqlite
def test_policy_blocks_what_is_not_part_of_the_page(server: Gunicorn, browser: Browser) -> None:
    browser.open(f"{server.url}/docs")
    attempts, expected = "; ".join(ATTEMPTS.values()), json.dumps([*ATTEMPTS])
    reports, ran = browser.result_of(
        f"{WAIT}{BLOCKED}{attempts}; return [await blocked({expected}), 'injected' in window];"
    )
    assert sorted(reports) == sorted(ATTEMPTS)
    assert not ran


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", f"/docs/{docs.RELEASE}/swagger-ui-bundle.js"])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_if_none_match_returns_304_when_unchanged(client: FlaskClient, path: str, coding: str) -> None:
    headers = {"Accept-Encoding": coding}
    tag = client.get(path, headers=headers).headers["ETag"]
    assert not tag.startswith("W/")
    again = client.get(path, headers=headers | {"If-None-Match": tag})
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", tag)
    assert client.get(path, headers=headers | {"If-None-Match": '"another"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/openapi.json", f"/docs/{docs.RELEASE}/swagger-ui-bundle.js", f"/docs/{docs.RELEASE}/swagger-ui.css"],
)
def test_large_files_are_gzipped_when_accepted(client: FlaskClient, path: str) -> None:
    plain = client.get(path, headers={"Accept-Encoding": "br, gzip;q=0"})
    compressed = client.get(path, headers={"Accept-Encoding": "br, gzip"})
    assert "Content-Encoding" not in plain.headers
    assert compressed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(compressed.data) == plain.data
    assert len(compressed.data) < len(plain.data) / 3
    assert plain.headers["Vary"] == compressed.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["ETag"] != compressed.headers["ETag"]


@pytest.mark.slow
def test_document_etag_is_the_same_in_every_process() -> None:
    """Each worker has its own hash seed. If ETags differed between workers, caches would never match."""
    script = "from inventory import create_app; app = create_app({'DATABASE_URL': 'sqlite://'})"
    script += "; print(app.test_client().get('/openapi.json').headers['ETag'])"
    tags = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(tags) == 1
    assert tags != {""}


@pytest.mark.parametrize("path", ["nothing", f"{docs.RELEASE}/nothing", f"{docs.RELEASE}/../../docs.py", "../docs.py"])
def test_unknown_docs_file_returns_404(client: FlaskClient, path: str) -> None:
    assert client.get(f"/docs/{path}").status_code == 404


def test_document_is_complete_after_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app({"DATABASE_URL": "sqlite://"})
    document_views = Blueprint.register_views_in_doc
    attempts = []

    def fail_once(blueprint: Blueprint, *args: object, **options: object) -> None:
        attempts.append(blueprint.name)
        if len(attempts) == 2:
            raise ValueError
        document_views(blueprint, *args, **options)

    monkeypatch.setattr(Blueprint, "register_views_in_doc", fail_once)
    client = app.test_client()
    assert client.get("/openapi.json").status_code == 500
    assert client.get("/openapi.json").json == DOCUMENT
