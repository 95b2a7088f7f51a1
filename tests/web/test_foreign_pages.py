"""Pages of other origins can use the service only if their origin is listed, tested in a real browser."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients import HttpClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.browser import Browser
    from tests.environments import Environments
    from tests.servers import Gunicorn
    from tests.web.conftest import ServeWithKeys

FORMS = {
    "an empty form": '<form method="post" action="{url}/transactions/1/reversal"></form>',
    "an upload": """
        <form method="post" action="{url}/import/products" enctype="multipart/form-data"><input type="file" name="file">
        </form>
        <script>
            const file = new DataTransfer();
            file.items.add(new File(["sku,quantity_on_hand\\nBOLT-8,1000\\n"], "products.csv", {{type: "text/csv"}}));
            document.querySelector("input").files = file.files;
        </script>""",
}
# The service is at 127.0.0.1. Sites differ by host name, origins also by port.
ORIGINS = {"another site": "localhost", "another origin of the same site": "127.0.0.1"}


class Page(BaseHTTPRequestHandler):
    content = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.content.encode())

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def cross_origin_port() -> Iterator[int]:
    """A web server of another origin, which serves Page.content."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as site:
        Thread(target=site.serve_forever).start()
        yield site.server_port
        site.shutdown()
    Page.content = ""


def ledger(server: Gunicorn) -> list[dict[str, Any]]:
    with HttpClient(server.url) as client:
        rows: list[dict[str, Any]] = client.get("/transactions").json
        return rows


@pytest.fixture(scope="module")
def stocked(environments: dict[str, Environments]) -> Iterator[Gunicorn]:
    """The service with one product, whose stock was recorded by transaction 1."""
    with environments["sqlite"].one() as environment:
        with HttpClient(environment.server.url) as client:
            client.post("/categories", {"name": "Bolts"})
            client.post("/products", {"sku": "BOLT-8", "name": "Bolt", "price": 1, "category_id": 1})
            client.post("/transactions", {"sku": "BOLT-8", "transaction_type": "purchase", "quantity": 5})
        yield environment.server


def text_after_leaving(browser: Browser, url: str) -> str:
    """The text of the page after a navigation to ``url``."""
    for _attempt in range(600):
        address, text = browser.result_of("return [location.href, document.body.innerText];")
        if address.startswith(url):
            return str(text)
        time.sleep(0.1)
    raise AssertionError(f"still at {address}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("host", ORIGINS.values(), ids=ORIGINS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_cross_origin_form_is_rejected_and_changes_nothing(
    stocked: Gunicorn, browser: Browser, cross_origin_port: int, form: str, host: str
) -> None:
    Page.content = f"{form.format(url=stocked.url)}<script>document.forms[0].submit()</script>"
    before = ledger(stocked)
    browser.open(f"http://{host}:{cross_origin_port}/")
    assert '"cross_site_request"' in text_after_leaving(browser, stocked.url)
    assert ledger(stocked) == before


@pytest.mark.slow
def test_same_origin_fetch_records_a_movement(stocked: Gunicorn, browser: Browser) -> None:
    browser.open(f"{stocked.url}/docs")
    script = "return (await fetch('/transactions/1/reversal', {method: 'POST'})).status;"
    assert browser.result_of(script) == 201
    assert [row["reason"] for row in ledger(stocked)] == ["reversal", None]


# What a page reads of the responses to its requests: status, some headers and the slug of an error. Or why it cannot.
USE = """
    const ask = async (path, options = {}) => {
        try {
            const response = await fetch(`${SERVICE}${path}`, options);
            const named = ["Link", "ETag", "X-Total-Count", "Location", "WWW-Authenticate"];
            const found = Object.fromEntries(named.map(name => [name, response.headers.get(name)]));
            return [response.status, found, (await response.json()).error];
        } catch (error) {
            return error.name;
        }
    };
    const headers = {"Authorization": `Bearer ${KEY}`, "Content-Type": "application/json", "Idempotency-Key": "sale"};
    const body = JSON.stringify({product_id: 1, transaction_type: "sale", quantity: 4});
    return {
        feed: await ask("/transactions/feed", {headers}),
        list: await ask("/products?include_total=true", {headers}),
        product: await ask("/products/1", {headers}),
        sale: await ask("/transactions", {method: "POST", headers, body}),
        withoutKey: await ask("/products"),
        wrongUrl: await ask("/nothing", {headers}),
        // Such a response cannot be read, but it could be embedded, for example as an image.
        embedded: await ask("/health/live", {mode: "no-cors"}),
    };
"""


def use(browser: Browser, service: Gunicorn, key: str) -> dict[str, Any]:
    constants = f"const SERVICE = {json.dumps(service.url)}, KEY = {json.dumps(key)};"
    results: dict[str, Any] = browser.result_of(constants + USE)
    return results


def quantity(service: Gunicorn, key: str) -> int:
    with HttpClient(service.url) as client:
        found: int = client.request("GET", "/products/1", headers={"X-API-Key": key}).json["quantity_on_hand"]
        return found


@pytest.mark.slow
def test_page_of_listed_origin_reads_headers_and_errors_and_records_a_sale(
    serve_with_keys: ServeWithKeys, browser: Browser, cross_origin_port: int
) -> None:
    origin = f"http://localhost:{cross_origin_port}"
    with serve_with_keys(INVENTORY_CORS_ORIGINS=f"https://another.example,{origin}") as (service, key):
        browser.open(f"{origin}/")
        found = use(browser, service, key)
        left = quantity(service, key)
    statuses = {name: result[0] for name, result in found.items() if name != "embedded"}
    assert statuses == {"feed": 200, "list": 200, "product": 200, "sale": 201, "withoutKey": 401, "wrongUrl": 404}
    assert 'rel="next"' in found["feed"][1]["Link"]
    assert found["list"][1]["X-Total-Count"] == "1"
    assert found["product"][1]["ETag"].startswith('"')
    assert (found["sale"][1]["Location"], left) == ("/transactions/2", 6)
    assert (found["withoutKey"][1]["WWW-Authenticate"], found["withoutKey"][2]) == (
        'Bearer realm="inventory"',
        "unauthorized",
    )
    assert found["wrongUrl"][2] == "not_found"
    assert found["embedded"] == "TypeError"


@pytest.mark.slow
@pytest.mark.parametrize("host", ORIGINS.values(), ids=ORIGINS)
def test_page_of_unlisted_origin_reads_nothing_and_records_nothing(
    serve_with_keys: ServeWithKeys, browser: Browser, cross_origin_port: int, host: str
) -> None:
    with serve_with_keys(INVENTORY_CORS_ORIGINS="https://another.example") as (service, key):
        browser.open(f"http://{host}:{cross_origin_port}/")
        assert set(use(browser, service, key).values()) == {"TypeError"}
        assert quantity(service, key) == 10
