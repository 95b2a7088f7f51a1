"""flask-smorest and webargs, subclassed once: how requests are read, and what decorates a view."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import flask
import flask_smorest
import orjson
from apispec.ext.marshmallow import MarshmallowPlugin
from flask.json.provider import DefaultJSONProvider
from marshmallow import RAISE, ValidationError, fields, post_load, validate
from webargs import core
from webargs.flaskparser import FlaskParser
from werkzeug.routing import IntegerConverter

from inventory import errors
from inventory.database.keyset import Page, PageRequest
from inventory.fields import MAX_ID, Flag, Integer, TextSchema
from inventory.web.headers import answer_conditionally, idempotency_key, mark_replay, page_headers
from inventory.web.openapi import (
    ALWAYS,
    IDEMPOTENCY_KEY,
    IF_MATCH,
    IF_NONE_MATCH,
    ON_BODY,
    ON_KEY,
    ON_WRITE,
    PAGE_HEADERS,
    ErrorSchema,
    annotated,
    describe_error,
    schema_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flask import Flask, Request
    from marshmallow import Schema
    from werkzeug.wrappers import Response

F = TypeVar("F", bound="Callable[..., Any]")

TAKES_QUERY = "takes_query"


class OrjsonProvider(DefaultJSONProvider):
    """Reads and answers through orjson, which refuses NaN, lone surrogates and deep nesting."""

    def loads(self, s: str | bytes, **_kwargs: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        body = orjson.dumps(self._prepare_response_obj(args, kwargs)) + b"\n"
        return flask.Response(body, mimetype=self.mimetype)


class IdConverter(IntegerConverter):
    """An id in a path. Numbers past the largest BIGINT name no row, so they are read as that largest one."""

    regex = "[0-9]+"  # the base class takes the digits of every script

    def to_python(self, value: str) -> int:
        return min(int(value[:40]), MAX_ID)


def refuse_encodings(request: Request) -> None:
    """Raise UnsupportedEncoding for a body that says it is compressed, or text in anything but UTF-8."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise errors.UnsupportedEncoding
    refuse_other_charset(request.mimetype_params)


def refuse_other_charset(parameters: Mapping[str, str]) -> None:
    if parameters.get("charset", "utf-8").lower() not in {"utf-8", "utf8"}:
        raise errors.UnsupportedEncoding


class Parser(FlaskParser):
    """Reads bodies with orjson and reports every problem as an error of ours."""

    DEFAULT_UNKNOWN_BY_LOCATION = dict.fromkeys(["json", "query", "headers"], RAISE)

    def load_json(self, req: Request, schema: Schema) -> Any:
        body = req.get_data(cache=True)
        # A body without a Content-Length is cut off at the limit; reading on is what raises 413.
        req.stream.read(1)
        if not body and getattr(schema, "body_optional", False):
            return {}
        if body and not core.is_json(req.mimetype):
            raise errors.UnsupportedMediaType
        refuse_encodings(req)
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            raise errors.MalformedJson from None

    def handle_error(self, error: ValidationError, *_args: Any, **_kwargs: Any) -> NoReturn:
        # Positions in a list are numbers in marshmallow's messages; a JSON object's keys are text.
        details = orjson.loads(orjson.dumps(error.messages_dict, option=orjson.OPT_NON_STR_KEYS))
        raise errors.ValidationFailed(details=details)


class PageQuery(TextSchema):
    """Query parameters of every list. Subclasses add a ``sort`` field and their filters."""

    skip = Integer(
        load_default=0,
        validate=validate.Range(0, 10**9),
        metadata={"description": "How many rows to pass over."},
    )
    limit = Integer(
        load_default=100,
        validate=validate.Range(1, 1000),
        metadata={"description": "How many rows to return at most."},
    )
    cursor = fields.String(
        load_default=None,
        validate=validate.Length(max=4000),
        metadata={"description": "Where to go on, as given in a `Link`; opaque. Not together with `skip`."},
    )
    include_total = Flag(
        load_default=False, metadata={"description": "Whether to count all rows into `X-Total-Count`."}
    )

    @post_load
    def collect_page(self, data: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """Gather the page's own parameters under ``page``; what is left are filters."""
        if data["cursor"] is not None and data["skip"]:
            raise ValidationError("Not together with skip.", "cursor")
        names = ["sort", "skip", "limit", "cursor", "include_total"]
        data["page"] = PageRequest(**{name: data.pop(name) for name in names if name in data})
        return data


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc]
    """Decorators, from the outside in: route, arguments, response or page, errors, unit_of_work."""

    ARGUMENTS_PARSER = Parser()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prepare_doc_cbks.append(self._prepare_headers_and_errors_doc)

    def route(self, rule: str, **options: Any) -> Callable[[F], F]:
        decorator: Callable[[F], F] = super().route(rule, **options)
        return decorator

    def response(self, status_code: int, schema: Any = None, **kwargs: Any) -> Callable[[F], F]:
        decorator: Callable[[F], F] = super().response(status_code, schema, **kwargs)
        return decorator

    def doc(self, **description: Any) -> Callable[[F], F]:
        decorator: Callable[[F], F] = super().doc(**description)
        return decorator

    def arguments(self, schema: type[Schema] | Schema, **kwargs: Any) -> Callable[[F], F]:
        decorate = super().arguments(schema, **kwargs)

        def decorator(view: F) -> F:
            decorated = decorate(view)
            # The errors' own documentation below says more than this reference would.
            decorated._apidoc["arguments"].pop("responses")  # noqa: SLF001
            if kwargs.get("location") == "query":
                setattr(decorated, TAKES_QUERY, True)
            result: F = decorated
            return result

        return decorator

    def idempotent(self, moves_stock: Callable[..., bool] = lambda *_args: True) -> Callable[[F], F]:
        """Hand the view the request's idempotency key, with a fingerprint of its arguments, as ``key``.

        A key can only be demanded of what ``moves_stock``, by the same arguments. A dry run moves none, and uses none.
        """

        def decorator(view: F) -> F:
            @wraps(view)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                rehearsal = args[0].get("dry_run", False)
                key = idempotency_key(*args, moves_stock=not rehearsal and moves_stock(*args))
                return view(*args, **kwargs, key=None if rehearsal else key)

            return self.document(IDEMPOTENCY_KEY, *ON_KEY)(wrapper)  # type: ignore[return-value]

        return decorator

    def document(self, parameter: Mapping[str, Any], *classes: type[errors.ServiceError]) -> Callable[[F], F]:
        """Document a header that a view reads, and what it may raise on its account."""

        def decorator(view: F) -> F:
            return annotated(view, headers=[parameter], errors=classes)

        return decorator

    def conditional(self, view: F) -> F:
        """Document If-Match on a view that changes something; the view asks ``if_match`` for it."""
        return self.document(IF_MATCH, errors.PreconditionFailed)(view)

    def revalidated(self, view: F) -> F:
        """Document If-None-Match on a view whose answer has an ETag."""
        document: Callable[[F], F] = self.alt_response(304, description="Unchanged")
        return document(self.document(IF_NONE_MATCH)(view))

    def page(self, schema: type[Schema]) -> Callable[[F], F]:
        """For a view that returns a Page: the rows as a bare array, the neighbours in ``Link``."""

        def decorator(view: F) -> F:
            @wraps(view)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                page: Page = view(*args, **kwargs)
                return page.rows, page_headers(page)

            document: Callable[[Any], F] = self.response(200, schema(many=True), headers=PAGE_HEADERS)
            return document(wrapper)

        return decorator

    def errors(self, *classes: type[errors.ServiceError]) -> Callable[[F], F]:
        """Document what a view may raise besides what any request can meet."""

        def decorator(view: F) -> F:
            return annotated(view, errors=classes)

        return decorator

    def _prepare_headers_and_errors_doc(
        self, doc: dict[str, Any], doc_info: dict[str, Any], *, method: str, **_kwargs: Any
    ) -> Any:
        if "headers" in doc_info:
            doc.setdefault("parameters", []).extend(doc_info["headers"])
        classes = [*doc_info.get("errors", ()), *ALWAYS]
        if "requestBody" in doc:
            classes += ON_BODY
        if method != "get":
            classes += ON_WRITE
        for error in classes:
            describe_error(doc.setdefault("responses", {}), error)
        return doc


class Api(flask_smorest.Api):  # type: ignore[misc]
    """Leaves errors to handlers.py and the documentation's pages to docs.py; pages have headers of our own."""

    DEFAULT_ERROR_RESPONSE_NAME = None
    ERROR_SCHEMA = ErrorSchema

    def _register_error_handlers(self) -> None:
        pass

    def _register_pagination_header(self) -> None:
        pass

    def _register_doc_blueprint(self) -> None:
        pass


def refuse_stray_parameters() -> None:
    """A query parameter that does not exist, or stands twice, is refused, also where none is taken at all."""
    if flask.request.routing_exception is not None:
        return
    view = flask.current_app.view_functions.get(flask.request.endpoint or "")
    problems = {name: ["Given more than once."] for name, values in flask.request.args.lists() if len(values) > 1}
    if view is not None and not hasattr(view, TAKES_QUERY):
        problems = {name: ["Unknown field."] for name in flask.request.args}
    if problems:
        raise errors.ValidationFailed(details={"query": problems})


def init_app(app: Flask) -> Api:
    app.json = OrjsonProvider(app)
    app.url_map.converters["id"] = IdConverter
    app.url_map.strict_slashes = False
    app.before_request(refuse_stray_parameters)
    app.after_request(mark_replay)
    app.after_request(answer_conditionally)
    return Api(app, spec_kwargs={"marshmallow_plugin": MarshmallowPlugin(schema_name_resolver=schema_name)})
