"""flask-smorest's blueprint, subclassed once: the decorators of views."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import flask
import flask_smorest

from inventory import errors
from inventory.database.unit_of_work import run
from inventory.dumper import dumper
from inventory.fields import Flag, TextSchema
from inventory.web.access import Access, requires
from inventory.web.addresses import QUERY
from inventory.web.conditional import condition
from inventory.web.idempotency import idempotency_key, unless_done
from inventory.web.openapi.operations import (
    IDEMPOTENCY_KEY,
    IF_MATCH,
    IF_NONE_MATCH,
    LOCATION_HEADER,
    ON_KEY,
    PAGE_HEADERS,
    annotated,
    complete,
    operation_id,
    path_parameters,
)
from inventory.web.pagination import page_headers
from inventory.web.parsing import Parser

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from apispec import APISpec
    from flask import Response
    from marshmallow import Schema

    from inventory.database.keyset import Page
    from inventory.dumper import Dump
    from inventory.fields import Values
    from inventory.web.idempotency import Earlier
    from inventory.web.openapi.json_types import JsonObject

F = TypeVar("F", bound="Callable[..., Any]")
T = TypeVar("T")


def instance_of(schema: type[Schema] | Schema) -> Schema:
    return schema() if isinstance(schema, type) else schema


def respond(returned: Any, status: int, dump: Dump | None) -> Response:
    """The response to what a view returned: a result, a tuple of a result and a status or headers, or a response."""
    if isinstance(returned, flask.Response):
        return returned
    headers = None
    if type(returned) is tuple:  # rows are tuples, too
        returned, other = returned
        status, headers = (other, None) if isinstance(other, int) else (status, other)
    response = flask.jsonify(returned if dump is None else dump(returned))
    response.status_code = status
    if headers:
        response.headers.extend(headers)
    return response


def documented_by(decorate: Callable[[Any], Any]) -> Callable[[F], F]:
    """Apply only the documentation of a flask-smorest decorator, without its wrapper."""

    def decorator(view: F) -> F:
        documented: Any = view
        documented._apidoc = decorate(view)._apidoc  # noqa: SLF001
        return view

    return decorator


class DryRunQuery(TextSchema):
    dry_run = Flag(
        load_default=False,
        metadata={"description": "Validate the request and return the result with 200, but record nothing."},
    )


@dataclass(frozen=True)
class Recorded(Generic[T]):
    """The response to a recorded movement or batch: for the first request, a replay and a dry run."""

    schema: type[Schema]
    location: Callable[[T], str]
    replay: Callable[[Earlier], T]
    without_ids: Callable[[T], Mapping[str, object]]


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc]
    """Decorators, outermost first: route, arguments, response or page, errors, writes. Or: route, records, errors."""

    ARGUMENTS_PARSER = Parser()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prepare_doc_cbks.append(self._complete_doc)

    def route(self, rule: str, *, scope: str | None, key_optional: bool = False, **options: Any) -> Callable[[F], F]:
        """Route a path to a view that requires an API key with a scope, or none."""
        required = Access(scope, key_optional)
        route: Callable[[F], F] = super().route(rule, parameters=path_parameters(rule), **options)

        def decorator(view: F) -> F:
            return route(requires(required)(annotated(view, access=[required])))

        return decorator

    def _store_endpoint_docs(self, endpoint: str, *args: Any, **options: Any) -> None:
        super()._store_endpoint_docs(endpoint, *args, **options)
        described = self._docs[endpoint]
        methods = [name for name in described if name != "parameters"]
        for method in methods:
            described[method]["operation_id"] = operation_id(endpoint, method, methods)
            if described["parameters"]:
                # A path whose id is not a number matches no route.
                described[method].setdefault("errors", []).append(errors.NotFound)

    def response(self, status_code: int, schema: Any = None, **kwargs: Any) -> Callable[[F], F]:
        """Dump what a view returns, and document it.

        A view returns a result, or a tuple of a result and a status or headers, or a response.
        """
        document = documented_by(super().response(status_code, schema, **kwargs))
        dump = None if schema is None else dumper(instance_of(schema))

        def decorator(view: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(view)
            def wrapper(*args: Any, **kwargs: Any) -> Response:
                return respond(view(*args, **kwargs), status_code, dump)

            return document(wrapper)

        return decorator  # type: ignore[return-value]

    def other_response(self, status_code: int, schema: Any = None, **kwargs: Any) -> Callable[[F], F]:
        """Document another response of a view."""
        return documented_by(super().response(status_code, schema, **kwargs))

    def doc(self, **description: Any) -> Callable[[F], F]:
        return documented_by(super().doc(**description))

    def arguments(self, schema: type[Schema] | Schema, **kwargs: Any) -> Callable[[F], F]:
        """Load the body, or another ``location``, with a schema, and pass the result to the view."""
        # An instance, because webargs would build one of a class for each request.
        loader, location = instance_of(schema), kwargs.get("location", "json")
        document = documented_by(super().arguments(schema, **kwargs))

        def decorator(view: F) -> F:
            decorated: Any = document(self.ARGUMENTS_PARSER.use_args(loader, location=location)(view))
            # Replaced by the more detailed documentation of the common errors.
            decorated._apidoc["arguments"].pop("responses")  # noqa: SLF001
            if location == "query":
                setattr(decorated, QUERY, type(loader))
            result: F = decorated
            return result

        return decorator

    def writes(self, *, moves_stock: Callable[..., bool] | None = None, conditional: bool = False) -> Callable[[F], F]:
        """Run a view in one unit of work, and pass it parts of the request as keyword arguments.

        With ``conditional`` the view gets the ``condition`` of If-Match. With ``moves_stock`` it gets the idempotency
        ``key``; the function returns, for the view's arguments, whether stock moves. The key can be required then.
        """

        def decorator(view: F) -> F:
            @wraps(view)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                if moves_stock is not None:
                    kwargs["key"] = idempotency_key(*args, moves_stock=moves_stock(*args))
                if conditional:
                    kwargs["condition"] = condition()
                return run(partial(view, *args, **kwargs))

            documented = annotated(wrapper)
            if moves_stock is not None:
                documented = annotated(documented, headers=[IDEMPOTENCY_KEY], errors=ON_KEY)
            if conditional:
                documented = annotated(documented, headers=[IF_MATCH], errors=[errors.PreconditionFailed])
            return documented  # type: ignore[return-value]

        return decorator

    def records(
        self, body: type[Schema], recorded: Recorded[T], *, body_required: bool = True, one_statement: bool = False
    ) -> Callable[[Callable[..., T]], Callable[..., Response]]:
        """Run a view that records movements in one unit of work. The view gets the loaded body and the ``key``.

        If an earlier request used the key, its result is returned again. With ``dry_run`` the result is returned
        without ids, and rolled back. With ``one_statement`` the view changes data with one statement only.
        """

        def decorator(view: Callable[..., T]) -> Callable[..., Response]:
            @wraps(view)
            def wrapper(query: Values, data: Values, **path: Any) -> Any:
                key = idempotency_key(query, data, moves_stock=not query["dry_run"])
                if query["dry_run"]:
                    return recorded.without_ids(run(partial(view, data, **path, key=None), dry_run=True)), 200
                work = partial(view, data, **path, key=key)
                unit = partial(run, work, one_statement=one_statement, has_one_effect=key is not None)
                result = unless_done(key, unit, recorded.replay)
                return result, {"Location": recorded.location(result)}

            keyed: Any = annotated(wrapper, headers=[IDEMPOTENCY_KEY], errors=ON_KEY)
            answered = self.response(201, recorded.schema, headers=LOCATION_HEADER)(keyed)
            preview = self.other_response(
                200, recorded.schema, description="Result of a dry run. Nothing was recorded."
            )
            given = self.arguments(body, required=body_required)(preview(answered))
            documented: Callable[..., Response] = self.arguments(DryRunQuery, location="query")(given)
            return documented

        return decorator

    def reads_file(self, body: JsonObject) -> Callable[[F], F]:
        """Document a view that reads a file as its body, and an Idempotency-Key."""

        def decorator(view: F) -> F:
            return annotated(self.doc(requestBody=body)(view), headers=[IDEMPOTENCY_KEY], errors=ON_KEY)

        return decorator

    def revalidated(self, view: F) -> F:
        """Document If-None-Match on a view whose responses have an ETag."""
        return annotated(view, headers=[IF_NONE_MATCH])

    def page(self, schema: type[Schema]) -> Callable[[F], F]:
        """For a view that returns a Page: the rows as a JSON array, links to the neighbouring pages in ``Link``."""

        def decorator(view: F) -> F:
            @wraps(view)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                page: Page[Any] = view(*args, **kwargs)
                return page.rows, page_headers(page)

            document: Callable[[Any], F] = self.response(200, schema(many=True), headers=PAGE_HEADERS)
            return document(wrapper)

        return decorator

    def errors(self, *classes: type[errors.ServiceError]) -> Callable[[F], F]:
        """Document the errors of a view, besides those common to all."""

        def decorator(view: F) -> F:
            return annotated(view, errors=classes)

        return decorator

    def _complete_doc(
        self, doc: JsonObject, doc_info: JsonObject, *, method: str, spec: APISpec, **_kwargs: object
    ) -> Any:
        complete(doc, doc_info, method, spec)
        return doc
