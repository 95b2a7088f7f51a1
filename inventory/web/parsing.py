"""Request bodies and parameters: orjson, and webargs subclassed once."""

from __future__ import annotations

import typing
from contextlib import nullcontext
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, NoReturn

import flask
import orjson
from flask.json.provider import DefaultJSONProvider
from marshmallow import RAISE, ValidationError
from webargs.flaskparser import FlaskParser

from inventory import errors
from inventory.fields import Several
from inventory.web.problems import validation_failed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flask import Request
    from marshmallow import Schema
    from werkzeug.wrappers import Response

PLAIN_JSON = {"application/json"}
# PATCH is a merge patch (RFC 7396): absent fields stay, and null clears.
JSON_TYPES = {"PATCH": {*PLAIN_JSON, "application/merge-patch+json"}}

# Parsed JSON takes up to forty times its size. Large bodies are parsed one at a time, so that a worker's memory does
# not depend on how many arrive at once. With Python's global lock this takes no longer.
LARGE_BODY = 64 * 1024
LARGE_BODIES_IN_TURN = Lock()


class OrjsonProvider(DefaultJSONProvider):
    """JSON by orjson, which rejects NaN, lone surrogates and deep nesting."""

    def loads(self, s: str | bytes, **_kwargs: object) -> object:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        body = orjson.dumps(self._prepare_response_obj(args, kwargs)) + b"\n"
        return flask.Response(body, mimetype=self.mimetype)


def refuse_encodings(request: Request) -> None:
    """Raise UnsupportedEncoding for a compressed body, or a charset other than UTF-8."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise errors.UnsupportedEncoding
    refuse_other_charset(request.mimetype_params)


def refuse_other_charset(parameters: Mapping[str, str]) -> None:
    if parameters.get("charset", "utf-8").lower() not in {"utf-8", "utf8"}:
        raise errors.UnsupportedEncoding


def refuse_deep_nesting(loaded: object, depth: int) -> None:
    """Raise ValidationFailed if arrays and objects are nested deeper. orjson rejects what is too deep for Python."""
    level = containers([loaded])
    for _ in range(depth):
        if not level:
            return
        level = [inner for outer in level for inner in containers(outer.values() if type(outer) is dict else outer)]
    if level:
        raise validation_failed({"json": {"_schema": [f"Must be nested at most {depth} levels deep."]}})


def containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if type(value) in {dict, list}]


@cache
def defaults(schema: Schema) -> dict[str, object] | None:
    """What a schema loads from an empty query, as most requests have. None if a parameter is required."""
    try:
        return typing.cast("dict[str, object]", schema.load({}))
    except ValidationError:
        return None


class Parser(FlaskParser):
    """Reads bodies with orjson and raises the service's errors."""

    DEFAULT_UNKNOWN_BY_LOCATION = dict.fromkeys(["json", "query", "headers"], RAISE)

    def parse(self, argmap: Any, req: Request | None = None, *, location: str | None = None, **kwargs: Any) -> object:
        request = req or flask.request
        if location == "query" and not request.args and (loaded := defaults(argmap)) is not None:
            return dict(loaded)
        # Read before the lock is taken, so that no request waits for a slow client.
        large = location == "json" and len(request.get_data(cache=True)) > LARGE_BODY
        with LARGE_BODIES_IN_TURN if large else nullcontext():
            try:
                return super().parse(argmap, request, location=location, **kwargs)
            except errors.ServiceError as error:
                # They would keep the parsed body until the response is sent, when the next ones are parsed.
                error.__context__ = None
                raise error.with_traceback(None)  # noqa: B904 - it is the same error

    def load_querystring(self, req: Request, schema: Schema) -> dict[str, object]:
        # A plain dict, because marshmallow looks for every field, which takes twice as long in the proxy of webargs.
        return {
            name: req.args.getlist(name) if isinstance(schema.fields.get(name), Several) else value
            for name, value in req.args.items()
        }

    def load_json(self, req: Request, schema: Schema) -> object:
        body = req.get_data(cache=True)
        # A body without a Content-Length is truncated at the limit; the next read raises 413.
        req.stream.read(1)
        if not body and getattr(schema, "body_optional", False):
            return {}
        if body and req.mimetype not in JSON_TYPES.get(req.method, PLAIN_JSON):
            raise errors.UnsupportedMediaType
        refuse_encodings(req)
        try:
            loaded = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise errors.MalformedJson from None
        refuse_deep_nesting(loaded, flask.current_app.config["INVENTORY_MAX_JSON_DEPTH"])
        return loaded

    def handle_error(self, error: ValidationError, *_args: object, **_kwargs: object) -> NoReturn:
        raise validation_failed(error.messages_dict)
