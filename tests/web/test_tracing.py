"""Which spans a request makes, what they contain, and when there are any."""

from __future__ import annotations

import sys
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from inventory import activity, create_app
from inventory.config import load
from inventory.database.base import db
from inventory.errors import ConfigError
from inventory.web import tracing
from tests.builders import product
from tests.logged import logged
from tests.web.secret_values import send_everywhere

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "hidden8153"  # noqa: S105
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.fixture
def app(database_url: str) -> Iterator[Flask]:
    """The application with traces, on the same database."""
    app = create_app({"DATABASE_URL": database_url, "OTEL_TRACES_EXPORTER": "otlp"})
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def exporter(app: Flask) -> InMemorySpanExporter:
    found = InMemorySpanExporter()
    app.extensions["tracing"].provider.add_span_processor(SimpleSpanProcessor(found))
    return found


def of_requests(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER]


def of_request(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = of_requests(exporter)
    return span


def ids(span: ReadableSpan) -> tuple[str, str | None]:
    """The ids of the trace and of the parent."""
    assert span.context is not None
    return format_trace_id(span.context.trace_id), span.parent and format_span_id(span.parent.span_id)


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def test_request_and_its_statements_are_spans_of_one_trace(
    client: FlaskClient, exporter: InMemorySpanExporter, engine_name: str
) -> None:
    row = product(client, quantity_on_hand=5)
    exporter.clear()
    sale = {"product_id": row["id"], "transaction_type": "sale", "quantity": 1}
    assert client.post("/transactions", json=sale).status_code == 201
    *statements, request = exporter.get_finished_spans()
    assert (request.name, request.kind) == ("POST /transactions", SpanKind.SERVER)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/transactions",
        "http.response.status_code": 201,
        "inventory.statements": len(statements),
    }
    assert any("UPDATE products" in span.name for span in statements)
    assert request.context is not None
    begin, end = times(request)
    for span in statements:
        assert ids(span) == (ids(request)[0], format_span_id(request.context.span_id))
        assert (span.kind, span.attributes) == (
            SpanKind.CLIENT,
            {"db.system.name": engine_name, "db.query.summary": span.name},
        )
        # Times are rounded to nanoseconds.
        assert begin - 1 <= times(span)[0] <= times(span)[1] <= end + 1


def test_begin_commit_and_statements_of_the_orm_are_spans(client: FlaskClient, exporter: InMemorySpanExporter) -> None:
    assert client.post("/categories", json={"name": "Kitchen"}).status_code == 201
    names = {span.name.removesuffix(" IMMEDIATE") for span in exporter.get_finished_spans()}
    assert names >= {"BEGIN", "INSERT categories", "COMMIT"}


def test_operation_of_the_caller_is_the_parent(client: FlaskClient, exporter: InMemorySpanExporter) -> None:
    with logged() as log:
        client.get("/health/live", headers={"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "a=b"})
    span = of_request(exporter)
    assert ids(span) == (TRACE_ID, PARENT_ID)
    assert span.parent is not None
    assert span.parent.is_remote
    assert span.context is not None
    assert not span.context.trace_state
    line = log.one("request")
    assert (line["trace_id"], line["parent_id"]) == (TRACE_ID, PARENT_ID)


@pytest.mark.parametrize("headers", [{}, {"traceparent": f"ff-{TRACE_ID}-{PARENT_ID}-01"}], ids=["none", "invalid"])
def test_request_without_a_trace_begins_one_that_is_logged(
    client: FlaskClient, exporter: InMemorySpanExporter, headers: dict[str, str]
) -> None:
    with logged() as log:
        client.get("/health/live", headers=headers)
        client.get("/health/live")
    spans, lines = of_requests(exporter), log.lines("request")
    assert [ids(span) for span in spans] == [(line["trace_id"], None) for line in lines]
    assert len({line["trace_id"] for line in lines} - {TRACE_ID}) == 2


def test_caller_that_does_not_sample_gets_no_span(client: FlaskClient, exporter: InMemorySpanExporter) -> None:
    with logged() as log:
        client.get("/products", headers={"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"})
    assert exporter.get_finished_spans() == ()
    assert log.one("request")["trace_id"] == TRACE_ID


def test_refusal_has_its_slug_and_is_no_error(client: FlaskClient, exporter: InMemorySpanExporter) -> None:
    assert client.get("/products/1").status_code == 404
    span = of_request(exporter)
    assert span.name == "GET /products/<id:product_id>"
    assert span.attributes is not None
    assert span.attributes["inventory.refusal"] == "product_not_found"
    assert "error.type" not in span.attributes
    assert span.status.status_code is StatusCode.UNSET


def test_failure_is_an_error(app: Flask, client: FlaskClient, exporter: InMemorySpanExporter) -> None:
    @app.get("/broken")
    def broken() -> str:
        raise ValueError(SECRET)

    assert client.get("/broken").status_code == 500
    span = of_request(exporter)
    assert span.attributes is not None
    assert span.attributes["error.type"] == "internal_error"
    assert (span.status.status_code, span.status.description, span.events) == (StatusCode.ERROR, None, ())


@pytest.mark.parametrize(
    ("method", "path", "name", "shown"),
    [
        ("GET", f"/{SECRET}", "GET", "GET"),
        (SECRET, "/health/live", "HTTP", "_OTHER"),
        (SECRET, f"/{SECRET}", "HTTP", "_OTHER"),
    ],
)
def test_names_are_of_a_fixed_set(  # noqa: PLR0917
    client: FlaskClient, exporter: InMemorySpanExporter, method: str, path: str, name: str, shown: str
) -> None:
    client.open(path, method=method)
    span = of_request(exporter)
    assert span.name == name
    assert span.attributes is not None
    assert span.attributes["http.request.method"] == shown


def test_values_are_in_no_span(app: Flask, exporter: InMemorySpanExporter) -> None:
    assert send_everywhere(app, SECRET) >= {404, 405, 422, 500}
    spans = exporter.get_finished_spans()
    assert len(of_requests(exporter)) > 30
    assert len(spans) > 60
    assert SECRET not in "".join(span.to_json() for span in spans)


def test_span_of_an_export_ends_when_it_is_sent(client: FlaskClient, exporter: InMemorySpanExporter) -> None:
    response = client.get("/export/products")
    assert of_requests(exporter) == []
    assert response.text
    response.close()
    names = [span.name for span in exporter.get_finished_spans()]
    assert names[-1] == "GET /export/products"
    assert any("products" in name for name in names[:-1])


def test_number_of_spans_of_a_request_is_bounded(
    client: FlaskClient, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "MAX_TIMELINE", 1)
    product(client)
    assert len(exporter.get_finished_spans()) - len(of_requests(exporter)) == len(of_requests(exporter))
    assert any(
        span.attributes and int(str(span.attributes["inventory.statements"])) > 1 for span in of_requests(exporter)
    )


def test_service_is_named_by_the_variables_of_opentelemetry(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def resource() -> dict[str, Any]:
        app = create_app({"DATABASE_URL": database_url, "OTEL_TRACES_EXPORTER": "otlp"})
        return dict(app.extensions["tracing"].provider.resource.attributes)

    assert (resource()["service.name"], resource()["service.version"]) == ("inventory", "0.1.0")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop,host.name=till")
    assert resource().items() >= {"service.name": "shop", "host.name": "till", "service.version": "0.1.0"}.items()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "stock")
    assert resource()["service.name"] == "stock"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "none"),
        ({"OTEL_SERVICE_NAME": "stock"}, "none"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, "none"),
        (ENDPOINT, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": ""}, "otlp"),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, "none"),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "True"}, "none"),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "false"}, "otlp"),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "otlp"),
        (
            ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            "otlp",
        ),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "none"),
    ],
)
def test_variables_of_opentelemetry_switch_traces_on(environ: dict[str, str], expected: str) -> None:
    assert load(environ=environ)["OTEL_TRACES_EXPORTER"] == expected


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: Must be one of: otlp, none."),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: Must be http/protobuf."),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: Must be http/protobuf."),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT: Must be an http:// or"),
    ],
)
def test_unsupported_exporter_is_refused(setting: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(environ=ENDPOINT | setting)


def test_missing_extra_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "inventory.web.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(ConfigError) as raised:
        create_app({"DATABASE_URL": "sqlite://", "OTEL_TRACES_EXPORTER": "otlp"})
    assert str(raised.value) == (
        "inventory: cannot start: the OTEL_… variables switch traces on, but opentelemetry.sdk.resources is not "
        "installed. Run: pip install --require-hashes -r requirements-otel.lock"
    )


def test_worker_does_not_wait_forever_for_the_collector(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test ends only if ``stop`` gives up."""
    asked, answers = Event(), Event()

    class Unreachable(SpanProcessor):
        def shutdown(self) -> None:
            asked.set()
            answers.wait()

    monkeypatch.setattr(tracing, "SECONDS_TO_SEND_LAST", 0.01)
    app.extensions["tracing"].provider.add_span_processor(Unreachable())
    app.extensions["tracing"].stop()
    assert asked.wait(60)
    answers.set()
