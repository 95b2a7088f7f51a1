"""The front door: welcome, the OpenAPI document, and Swagger UI from its package's own files."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flask
from flask_swagger_ui import get_swaggerui_blueprint

if TYPE_CHECKING:
    from flask import Flask, Response

    from inventory.web.api import Api

DESCRIPTION = """\
Categories, products, and an append-only ledger of stock movements from which every quantity follows.

Lists are bare arrays; a page's neighbours stand in the `Link` header. Every error has one envelope:
`{"error": slug, "message": for people, "code": HTTP status}`, with `details` where there are facts.
Times are UTC, ISO 8601 with offset. Money is a JSON number with up to 4 decimals.
"""


def project_version() -> str:
    """The installed distribution's version, or the one in pyproject.toml when run from a checkout."""
    try:
        return version("inventory")
    except PackageNotFoundError:
        pyproject = Path(__file__).parent.parent.parent / "pyproject.toml"
        return str(tomllib.loads(pyproject.read_text())["project"]["version"])


def openapi_settings() -> dict[str, Any]:
    return {
        "API_TITLE": "Inventory",
        "API_VERSION": project_version(),
        "OPENAPI_VERSION": "3.1.0",
        "API_SPEC_OPTIONS": {"info": {"description": DESCRIPTION}, "servers": [{"url": "/"}]},
    }


def init_app(app: Flask, api: Api) -> None:
    """Serve the document as it is once all blueprints are registered."""
    name, release = app.config["API_TITLE"], app.config["API_VERSION"]

    @app.get("/")
    def welcome() -> Response:
        links = {"docs": "/docs", "openapi": "/openapi.json", "health": "/health"}
        return flask.jsonify({"name": name, "version": release, **links})

    @app.get("/openapi.json")
    def openapi() -> Response:
        return flask.jsonify(api.spec.to_dict())

    config = {
        "app_name": f"{name} API",
        "layout": "BaseLayout",
        "validatorUrl": None,  # the online validator would be a call to somebody else's server
        "oauth2RedirectUrl": "/docs/oauth2-redirect.html",
    }
    app.register_blueprint(get_swaggerui_blueprint("/docs", "/openapi.json", config=config))
