"""Settings: defaults, then the environment, then the mapping that tests pass in; checked once, at start.

The schema below is the whole list. An unknown ``INVENTORY_…`` variable or a value out of bounds stops the
start with one line that names it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from marshmallow import ValidationError, fields, validate
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from inventory.fields import Choice, Flag, Integer, TextSchema

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "INVENTORY_"
MEBIBYTE = 1024 * 1024
DRIVERS = frozenset({"sqlite", "sqlite+pysqlite", "postgres", "postgresql", "postgresql+psycopg"})


class ConfigError(SystemExit):
    """A setting is unknown or invalid. Raised at start; as a SystemExit it ends the process with its one line."""


def check_database_url(value: str) -> None:
    try:
        driver = make_url(value).drivername
    except (ArgumentError, ValueError):  # a port that is no number is a ValueError
        driver = ""
    if driver not in DRIVERS:
        raise ValidationError("Not a sqlite:///… or postgresql://… URL.")


class Settings(TextSchema):
    DATABASE_URL = fields.String(
        load_default="sqlite:///inventory.db",
        validate=check_database_url,
        metadata={"description": "SQLite file (a relative one lies in Flask's instance folder) or PostgreSQL URL"},
    )
    INVENTORY_AUTH = Choice(
        ["keys", "off"], load_default="keys", metadata={"description": "whether API keys are required"}
    )
    INVENTORY_WORKERS = Integer(
        load_default=os.cpu_count() or 1,
        validate=validate.Range(1, 256),
        metadata={"description": "gunicorn worker processes"},
    )
    INVENTORY_THREADS = Integer(
        load_default=8,
        validate=validate.Range(1, 256),
        metadata={"description": "threads in each worker, and so database connections"},
    )
    INVENTORY_BUSY_TIMEOUT_MS = Integer(
        load_default=5_000,
        validate=validate.Range(1, 60_000),
        metadata={"description": "how long a request waits for a lock before 503 database_busy"},
    )
    INVENTORY_STATEMENT_TIMEOUT_MS = Integer(
        load_default=30_000,
        validate=validate.Range(1, 3_600_000),
        metadata={"description": "how long one PostgreSQL statement may run"},
    )
    INVENTORY_REQUIRE_IDEMPOTENCY_KEY = Flag(
        load_default=False,
        metadata={"description": "whether every POST that moves stock must carry an Idempotency-Key"},
    )
    INVENTORY_MAX_BODY_BYTES = Integer(
        load_default=8 * MEBIBYTE,  # a batch of the longest lines, each letter written as two escapes
        validate=validate.Range(1_024, 64 * MEBIBYTE),
        metadata={"description": "largest JSON body"},
    )
    INVENTORY_MAX_IMPORT_BYTES = Integer(
        load_default=256 * MEBIBYTE,
        validate=validate.Range(1_024, 4_096 * MEBIBYTE),
        metadata={"description": "largest CSV file for the import"},
    )


def sqlalchemy_url(database_url: str) -> str:
    """The same URL with the driver named: psycopg 3 for ``postgres://`` and ``postgresql://``."""
    url = make_url(database_url)
    if url.drivername in {"postgres", "postgresql"}:
        url = url.set(drivername="postgresql+psycopg")
    return url.render_as_string(hide_password=False)


def load(overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read and check the settings.

    Returns Flask's configuration keys. ``overrides`` may hold settings by their names here and any key of Flask
    or of an extension, which passes through unchecked. Raises ConfigError.
    """
    environ = os.environ if environ is None else environ
    declared = Settings._declared_fields  # noqa: SLF001
    given = {key: value for key, value in environ.items() if key in declared or key.startswith(PREFIX)}
    others = {}
    for key, value in (overrides or {}).items():
        if key in declared or key.startswith(PREFIX):
            given[key] = str(value)
        else:
            others[key] = value
    try:
        settings: dict[str, Any] = Settings().load(given)
    except ValidationError as error:
        problems = "; ".join(f"{name}: {' '.join(messages)}" for name, messages in sorted(error.messages_dict.items()))
        raise ConfigError(f"inventory: cannot start, wrong setting: {problems}") from None
    return {
        **settings,
        "SQLALCHEMY_DATABASE_URI": sqlalchemy_url(settings["DATABASE_URL"]),
        "MAX_CONTENT_LENGTH": settings["INVENTORY_MAX_BODY_BYTES"],
        **others,
    }
