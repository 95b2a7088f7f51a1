"""Traces of a real gunicorn, as a collector receives them."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Self

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from inventory import create_app
from inventory.auth import keys
from inventory.auth.secrets import Pepper
from inventory.database.base import db
from tests.clients import HttpClient
from tests.servers import ROOT, Gunicorn, checkout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Eventually = Callable[[Callable[[], bool]], None]

pytestmark = pytest.mark.slow

PEPPER = "a pepper of the tests, which is long"
SECRET = "hidden8153"  # noqa: S105
NUMBER = 81538153
PARENT_ID = "b7ad6b7169203331"


class Collector:
    """Receives OTLP over HTTP, as the collector of OpenTelemetry does, and keeps what it receives."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.answers = Event()
        self.answers.set()
        bodies, answers = self.bodies, self.answers

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                bodies.append(body)
                answers.wait()
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = Thread(target=self.server.serve_forever)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.answers.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> dict[str, list[Span]]:
        """By the id of the trace."""
        found: dict[str, list[Span]] = defaultdict(list)
        for body in tuple(self.bodies):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        found[span.trace_id.hex()].append(span)
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture
def key(database_url: str) -> str:
    app = create_app({"DATABASE_URL": database_url, "INVENTORY_AUTH": "keys", "INVENTORY_KEY_PEPPER": PEPPER})
    with app.app_context():
        key = keys.create(Pepper(PEPPER), "till-3", ("read", "stock", "catalogue")).text
        db.engine.dispose()
    return key


def gunicorn(database_url: str, collector: Collector, delay: int, folder: Path = ROOT) -> Gunicorn:
    """Two workers, which send spans after so many milliseconds, or at their end."""
    return Gunicorn(
        database_url,
        folder=folder,
        workers=2,
        INVENTORY_AUTH="keys",
        INVENTORY_KEY_PEPPER=PEPPER,
        INVENTORY_LOG_FORMAT="json",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY=str(delay),
        # They are sent when the time comes, and not because there are many.
        OTEL_BSP_MAX_QUEUE_SIZE="100000",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="100000",
        NO_PROXY="127.0.0.1",
    )


def send(server: Gunicorn, key: str, path: str, body: dict[str, object] | None = None) -> tuple[int, str]:
    """On a connection of its own, so that any worker can get it. Returns the status, and the id of a new trace."""
    trace_id = os.urandom(16).hex()
    headers = {"X-API-Key": key, "traceparent": f"00-{trace_id}-{PARENT_ID}-01", "User-Agent": SECRET}
    headers["Idempotency-Key"] = f"{SECRET}/{trace_id}"
    method, content = ("GET", None) if body is None else ("POST", json.dumps(body).encode())
    with HttpClient(server.url) as client:
        return client.request(method, path, content, headers=headers).status, trace_id


def pids(server: Gunicorn, trace_ids: Sequence[str]) -> set[int]:
    """The workers that have logged requests of these traces."""
    # What follows the last line break may be half a line.
    lines: list[dict[str, Any]] = [json.loads(line) for line in server.output().split("\n")[:-1]]
    return {line["pid"] for line in lines if line["message"] == "request" and line.get("trace_id") in trace_ids}


def sell(server: Gunicorn, key: str, eventually: Eventually) -> list[str]:
    """Send requests of several kinds, then sales until both workers have done some. Returns the ids of the sales."""
    assert send(server, key, "/categories", {"name": SECRET})[0] == 201
    item = {"sku": SECRET, "name": SECRET, "price": NUMBER, "quantity_on_hand": NUMBER, "category_id": 1}
    assert send(server, key, "/products", item)[0] == 201
    assert send(server, key, f"/products?search={SECRET}")[0] == 200
    assert send(server, key, f"/{SECRET}")[0] == 404
    return sell_more(server, key, eventually)


def sell_more(server: Gunicorn, key: str, eventually: Eventually) -> list[str]:
    """Send sales until both workers have done some, and return the ids of their traces."""
    trace_ids: list[str] = []

    def sell_one() -> bool:
        sale = {"sku": SECRET, "transaction_type": "sale", "quantity": 1, "reference": SECRET}
        status, trace_id = send(server, key, "/transactions", sale)
        assert status == 201
        trace_ids.append(trace_id)
        return len(pids(server, trace_ids)) == 2

    eventually(sell_one)
    return trace_ids


def assert_sale(spans: list[Span]) -> None:
    (request,) = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    assert request.name == "POST /transactions"
    assert request.parent_span_id.hex() == PARENT_ID
    shown = {attribute.key: attribute.value for attribute in request.attributes}
    assert shown["http.route"].string_value == "/transactions"
    assert shown["http.response.status_code"].int_value == 201
    statements = [span for span in spans if span is not request]
    assert len(statements) == shown["inventory.statements"].int_value
    assert any("UPDATE products" in span.name for span in statements)
    assert {(span.kind, span.parent_span_id) for span in statements} == {(Span.SPAN_KIND_CLIENT, request.span_id)}


def assert_no_values(collector: Collector, key: str) -> None:
    received = b"".join(collector.bodies)
    assert b"inventory" in received
    for value in (SECRET, key, key.split("_", 2)[2], str(NUMBER), "till-3", PEPPER):
        assert value.encode() not in received


def test_both_workers_send_the_spans_of_sales(
    database_url: str, collector: Collector, key: str, eventually: Eventually
) -> None:
    with gunicorn(database_url, collector, delay=100) as server:
        trace_ids = sell(server, key, eventually)
        eventually(lambda: collector.spans().keys() >= set(trace_ids))
    spans = collector.spans()
    for trace_id in trace_ids:
        assert_sale(spans[trace_id])
    assert_no_values(collector, key)


def test_workers_send_what_is_left_when_they_end(
    database_url: str, collector: Collector, key: str, eventually: Eventually, tmp_path: Path
) -> None:
    # On a slow machine they may need longer than in production.
    source = checkout(tmp_path) / "inventory" / "web" / "tracing.py"
    text = source.read_text()
    assert "SECONDS_TO_SEND_LAST = 5.0\n" in text
    source.write_text(text.replace("SECONDS_TO_SEND_LAST = 5.0\n", "SECONDS_TO_SEND_LAST = 60.0\n"))
    with gunicorn(database_url, collector, delay=3_600_000, folder=tmp_path) as server:
        trace_ids = sell(server, key, eventually)
        assert collector.bodies == []
    spans = collector.spans()
    for trace_id in trace_ids:
        assert_sale(spans[trace_id])


def test_requests_do_not_wait_for_a_collector_that_does_not_answer(
    database_url: str, collector: Collector, key: str, eventually: Eventually
) -> None:
    collector.answers.clear()
    with gunicorn(database_url, collector, delay=100) as server:
        sell(server, key, eventually)
        eventually(lambda: len(collector.bodies) == 2)
        # Both workers wait for the collector now. It answers only after these requests.
        sell_more(server, key, eventually)
        collector.answers.set()


def test_requests_do_not_need_a_collector(database_url: str, key: str, eventually: Eventually) -> None:
    with Collector() as stopped:
        pass
    with gunicorn(database_url, stopped, delay=1) as server:
        sell(server, key, eventually)
        eventually(lambda: "refused" in server.output())
        sell_more(server, key, eventually)
