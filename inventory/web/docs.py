"""The welcome page, the OpenAPI document, and Swagger UI with the files of its package."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import flask
import flask_swagger_ui
import orjson

from inventory.errors import NotFound
from inventory.web.access import PUBLIC, requires
from inventory.web.browsers import content_security_policy
from inventory.web.prepared import Prepared, prepare

if TYPE_CHECKING:
    from flask import Flask, Response

    from inventory.web.api import Api

SWAGGER_UI = Path(flask_swagger_ui.__file__).parent / "dist"
TEMPLATES = Path(__file__).parent.parent / "templates"
OWN_FILES = [TEMPLATES / "docs.css", TEMPLATES / "docs.js"]
FILES = {path.name: path for path in (*SWAGGER_UI.iterdir(), *OWN_FILES)}
# The URL of the files changes with their content, so that browsers can cache them.
DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in OWN_FILES)).hexdigest()[:8]
RELEASE = f"{version('flask-swagger-ui')}-{DIGEST}"
# The icons in the style sheet of Swagger UI are data: URLs.
POLICY = content_security_policy(
    script_src="'self'", style_src="'self'", connect_src="'self'", font_src="'self'", img_src="'self' data:"
)
KEEP, CHECK = "public, max-age=31536000, immutable", "no-cache"


@cache
def prepared_file(name: str) -> Prepared:
    return prepare(FILES[name].read_bytes(), mimetypes.guess_type(name)[0] or "text/plain")


def file(path: str) -> Response:
    """A file of the page. Under a URL with the release it is immutable."""
    name = path.removeprefix(f"{RELEASE}/")
    if name not in FILES:
        raise NotFound
    return prepared_file(name).respond(CHECK if name == path else KEEP)


def init_app(app: Flask, api: Api) -> None:
    """Register the routes. Call it after all blueprints are registered."""
    name, release = app.config["API_TITLE"], app.config["API_VERSION"]

    @app.get("/")
    @requires(PUBLIC)
    def welcome() -> Response:
        links = {"docs": "/docs", "openapi": "/openapi.json", "health": "/health"}
        return flask.jsonify({"name": name, "version": release, **links})

    @cache
    def document() -> Prepared:
        return prepare(orjson.dumps(api.spec.to_dict()), "application/json")

    @app.get("/openapi.json")
    @requires(PUBLIC)
    def openapi() -> Response:
        return document().respond(CHECK)

    @app.get("/docs/")
    @app.get("/docs/<path:path>")
    @requires(PUBLIC)
    def docs(path: str = "index.html") -> Response:
        if path != "index.html":
            return file(path)
        files = flask.url_for("docs", path=RELEASE)
        page = flask.render_template("docs.html", title=f"{name} API", files=files, document=flask.url_for("openapi"))
        response = prepare(page.encode(), "text/html; charset=utf-8").respond(CHECK)
        response.headers["Content-Security-Policy"] = POLICY
        return response
