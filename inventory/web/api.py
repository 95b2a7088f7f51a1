"""flask-smorest's API, subclassed once: it registers blueprints, and builds the OpenAPI document of them."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

import flask_smorest

from inventory.fields import MAX_ID
from inventory.web import addresses
from inventory.web.addresses import IdConverter
from inventory.web.conditional import answer_conditionally
from inventory.web.idempotency import mark_replay
from inventory.web.openapi.operations import HEADERS
from inventory.web.openapi.schemas import Plugin, schema_name
from inventory.web.parsing import OrjsonProvider

if TYPE_CHECKING:
    from apispec import APISpec
    from flask import Flask

    from inventory.web.blueprint import Blueprint


class Api(flask_smorest.Api):  # type: ignore[misc]
    """Without flask-smorest's own error handlers, documentation pages and page headers.

    ``handlers.py``, ``docs.py`` and ``HEADERS`` replace them.
    """

    DEFAULT_ERROR_RESPONSE_NAME = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._undocumented: list[Blueprint] = []
        self._lock = Lock()
        super().__init__(*args, **kwargs)

    def register_blueprint(self, blueprint: Blueprint) -> None:
        """Register the routes. The document gets them when it is first read, because most processes never read it."""
        self._app.register_blueprint(blueprint)
        self._undocumented.append(blueprint)

    @property
    def spec(self) -> APISpec:
        """The OpenAPI document of all registered blueprints."""
        with self._lock:
            while self._undocumented:
                blueprint = self._undocumented[0]
                blueprint.register_views_in_doc(self, self._app, self._spec, name=blueprint.name, parameters=None)
                self._spec.tag({"name": blueprint.name, "description": blueprint.description})
                del self._undocumented[0]  # last, so that a document that failed is never served in part
        return self._spec

    @spec.setter
    def spec(self, spec: APISpec) -> None:
        self._spec = spec

    def _register_error_handlers(self) -> None:
        pass

    def _register_responses(self) -> None:
        pass

    def _register_etag_headers(self) -> None:
        pass

    def _register_pagination_header(self) -> None:
        for name, header in HEADERS.items():
            self.spec.components.header(name, header, lazy=True)

    def _register_doc_blueprint(self) -> None:
        pass


def init_app(app: Flask) -> Api:
    app.json = OrjsonProvider(app)
    addresses.init_app(app)
    app.after_request(mark_replay)
    app.after_request(answer_conditionally)
    api = Api(app, spec_kwargs={"marshmallow_plugin": Plugin(schema_name_resolver=schema_name)})
    api.register_converter(
        IdConverter, lambda _: {"type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_ID}
    )
    return api
