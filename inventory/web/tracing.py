"""Traces of OpenTelemetry: a span for each request, and one within it for each of its statements.

Loaded only if traces are switched on, because the SDK is optional (the extra ``otel``). Spans are made from what
``observability.py`` and ``activity.py`` note anyway. Their names and attributes are of a fixed set of values: a route
and never a path, a slug and never a message, the name of a statement and never its text.
"""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING, Protocol

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Span as RecordedSpan
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    format_trace_id,
    set_span_in_context,
)

from inventory.web.metrics import Finished
from inventory.web.trace_context import Trace

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from inventory.activity import Executed

# The collector may be slow or gone. A worker waits so long for it when it ends.
SECONDS_TO_SEND_LAST = 5.0


class Traced(Finished, Protocol):
    """A request. ``begin`` sets its span and its timeline."""

    trace: Trace | None
    span: Span | None
    timeline: list[Executed] | None
    started: float
    statements: int


class Tracing:
    """The spans of an application on an SQLite or PostgreSQL ``system``. They are sent after ``start``.

    It is not the global tracer of the process: a library that makes spans by itself could put values into them.
    """

    def __init__(self, version: str, system: str) -> None:
        own = Resource.create({SERVICE_NAME: "inventory", SERVICE_VERSION: version})
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence.
        resource = own.merge(OTELResourceDetector().detect())
        self.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.tracer, self.system = self.provider.get_tracer("inventory", version), system

    def start(self) -> None:
        """Begin to send spans. Starts a thread, so each worker calls it after the fork."""
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))

    def stop(self) -> None:
        """Send what is left. The SDK has no deadline for this that a caller could set."""
        sending = Thread(target=self.provider.shutdown, daemon=True)
        sending.start()
        sending.join(SECONDS_TO_SEND_LAST)

    def begin(self, request: Traced) -> None:
        """Begin the span of a request that has just started. Without a trace of the caller it begins a new one."""
        # The words of OpenTelemetry for methods that the service does not know.
        method, name = ("_OTHER", "HTTP") if request.method == "other" else (request.method, request.method)
        attributes = {"http.request.method": method}
        if request.route is not None:
            name, attributes["http.route"] = f"{name} {request.route}", request.route
        span = self.tracer.start_span(name, parent_of(request.trace), SpanKind.SERVER, attributes)
        context = span.get_span_context()
        request.span = span
        request.timeline = [] if span.is_recording() else None
        if request.trace is None:
            request.trace = Trace(format_trace_id(context.trace_id), None, context.trace_flags)

    def end(self, request: Traced) -> None:
        """End the span of a finished request, and make those of its statements. It may be one that is not sampled."""
        span = request.span
        if not isinstance(span, RecordedSpan) or span.start_time is None:
            return
        self.add_statements(request, span, span.start_time - nanoseconds(request.started))
        span.set_attributes({"http.response.status_code": request.status, "inventory.statements": request.statements})
        slug = request.error.slug if request.error is not None else None
        if request.has_failed:
            span.set_attribute("error.type", slug or "broken_response")
            span.set_status(StatusCode.ERROR)
        elif slug is not None:
            span.set_attribute("inventory.refusal", slug)
        span.end(span.start_time + nanoseconds(request.duration))

    def add_statements(self, request: Traced, span: Span, zero: int) -> None:
        """Make the spans of the statements. ``zero`` of ``perf_counter`` is in nanoseconds since 1970."""
        within = set_span_in_context(span, Context())
        for statement in request.timeline or ():
            began = zero + nanoseconds(statement.started)
            attributes = {"db.system.name": self.system, "db.query.summary": statement.name}
            child = self.tracer.start_span(statement.name, within, SpanKind.CLIENT, attributes, start_time=began)
            child.end(began + nanoseconds(statement.seconds))


def parent_of(trace: Trace | None) -> Context:
    """The operation of the caller. Its ``tracestate`` is left out, because it can contain anything."""
    if trace is None or trace.parent_id is None:
        return Context()
    ids = int(trace.trace_id, 16), int(trace.parent_id, 16)
    return set_span_in_context(
        NonRecordingSpan(SpanContext(*ids, is_remote=True, trace_flags=TraceFlags(trace.flags))), Context()
    )


def nanoseconds(seconds: float) -> int:
    return round(seconds * 1_000_000_000)
