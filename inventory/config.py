"""Settings: defaults, then environment variables, then the overrides of tests. They are validated once, at start.

The schema below lists all settings. An unknown ``INVENTORY_…`` variable or an invalid value stops the start with a
message that names it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marshmallow import ValidationError, fields, validate, validates_schema
from sqlalchemy.engine import make_url

from inventory.config_fields import (
    OFF,
    HostNames,
    Origins,
    Rate,
    Words,
    check_database_url,
    check_folder,
    check_key_set,
    check_redis_url,
)
from inventory.errors import ConfigError
from inventory.fields import Choice, Flag, Integer, TextSchema

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "INVENTORY_"
MEBIBYTE = 1024 * 1024
# Each can be given as the name of a file, too, in NAME_FILE.
SECRETS = ("DATABASE_URL", "INVENTORY_KEY_PEPPER", "REDIS_URL")
# Not applied without API keys, unless they are set.
RATES = ("INVENTORY_LIMIT_READS", "INVENTORY_LIMIT_WRITES", "INVENTORY_LIMIT_INVALID_KEYS")
TRACES = "OTEL_TRACES_EXPORTER"
OTLP_PREFIXES = ("OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_")


class Settings(TextSchema):
    error_messages = {"unknown": "Unknown setting."}  # noqa: RUF012 - marshmallow's own form

    @validates_schema
    def check_identity_provider(self, data: Mapping[str, Any], **_kwargs: object) -> None:
        """An issuer, an audience and keys belong together: tokens for other services must not be accepted here."""
        together = ("INVENTORY_JWT_ISSUER", "INVENTORY_JWT_AUDIENCE", "INVENTORY_JWT_KEYS")
        missing = [name for name in together if data.get(name) is None]
        if 0 < len(missing) < len(together):
            raise ValidationError(
                {name: [f"Required with {' and '.join(sorted({*together} - {*missing}))}."] for name in missing}
            )

    DATABASE_URL = fields.String(
        load_default="sqlite:///inventory.db",
        validate=check_database_url,
        metadata={
            "description": "SQLite or PostgreSQL URL; a relative SQLite path is resolved in Flask's instance folder"
        },
    )
    INVENTORY_AUTH = Choice(
        ["keys", "off"], load_default="keys", metadata={"description": "whether API keys are required"}
    )
    INVENTORY_KEY_PEPPER = fields.String(
        load_default=None,
        validate=validate.Length(min=1),
        metadata={"description": "secret with which API keys are hashed; required unless INVENTORY_AUTH is off"},
    )
    INVENTORY_JWT_ISSUER = fields.String(
        load_default=None,
        validate=validate.Length(min=1),
        metadata={"description": "issuer (iss) of accepted JSON Web Tokens; without it only API keys are accepted"},
    )
    INVENTORY_JWT_AUDIENCE = fields.String(
        load_default=None,
        validate=validate.Length(min=1),
        metadata={"description": "audience (aud) that tokens must name; required with an issuer"},
    )
    INVENTORY_JWT_KEYS = fields.String(
        load_default=None,
        validate=check_key_set,
        metadata={"description": "file or https:// URL of the JSON Web Key Set of the issuer; required with an issuer"},
    )
    INVENTORY_JWT_ALGORITHMS = Words(
        choices=("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"),
        load_default=("RS256", "ES256"),
        metadata={"description": "comma-separated list of accepted algorithms of tokens"},
    )
    INVENTORY_JWT_SCOPE_CLAIM = fields.String(
        load_default="scope",
        validate=validate.Length(min=1),
        metadata={"description": "claim with the scopes of a token: words separated by spaces, or an array"},
    )
    INVENTORY_JWT_SCOPE_PREFIX = fields.String(
        load_default="",
        metadata={"description": "prefix of this service's scopes in that claim, such as inventory:"},
    )
    INVENTORY_WORKERS = Integer(
        load_default=None,
        validate=validate.Range(1, 256),
        metadata={"description": "gunicorn worker processes"},
    )
    INVENTORY_THREADS = Integer(
        load_default=4,
        validate=validate.Range(1, 256),
        metadata={"description": "threads per worker, and size of its connection pool"},
    )
    INVENTORY_PGBOUNCER = Flag(
        load_default=False,
        metadata={"description": "whether DATABASE_URL is that of PgBouncer in transaction mode"},
    )
    INVENTORY_LOG_LEVEL = Choice(
        ["debug", "info", "warning", "error"],
        load_default="info",
        metadata={"description": "lowest level of the lines that are logged"},
    )
    INVENTORY_LOG_FORMAT = Choice(
        ["json", "text"],
        load_default=None,
        metadata={"description": "form of the log"},
    )
    OTEL_TRACES_EXPORTER = Choice(
        ["otlp", "none"], load_default=None, metadata={"description": "where traces are sent"}
    )
    INVENTORY_SLOW_REQUEST_MS = Integer(
        load_default=1_000,
        validate=validate.Range(0, 3_600_000),
        metadata={"description": "milliseconds after which the log of a request names its statements"},
    )
    INVENTORY_BUSY_TIMEOUT_MS = Integer(
        load_default=5_000,
        validate=validate.Range(1, 60_000),
        metadata={"description": "milliseconds to wait for a lock before returning 503 database_busy"},
    )
    INVENTORY_STATEMENT_TIMEOUT_MS = Integer(
        load_default=30_000,
        validate=validate.Range(1, 3_600_000),
        metadata={"description": "milliseconds that a statement may take on PostgreSQL, and a read on SQLite"},
    )
    REDIS_URL = fields.String(
        load_default=None,
        validate=check_redis_url,
        metadata={"description": "Redis that counts requests for rate limits; for more than one worker or host"},
    )
    INVENTORY_LIMIT_READS = Rate(
        load_default=60_000,
        metadata={"description": "reads per minute of an API key, and of an address without a key; or off"},
    )
    INVENTORY_LIMIT_WRITES = Rate(
        load_default=30_000,
        metadata={"description": "writes per minute of an API key, and of an address without a key; or off"},
    )
    INVENTORY_LIMIT_INVALID_KEYS = Rate(
        load_default=100,
        metadata={"description": "invalid API keys per minute from an address; or off"},
    )
    INVENTORY_TRUSTED_PROXIES = Integer(
        load_default=0,
        validate=validate.Range(0, 10),
        metadata={"description": "number of proxies in front that append to X-Forwarded-For"},
    )
    INVENTORY_REQUIRE_IDEMPOTENCY_KEY = Flag(
        load_default=False,
        metadata={"description": "require an Idempotency-Key on every request that changes stock"},
    )
    INVENTORY_TRUSTED_HOSTS = HostNames(
        load_default=(),
        metadata={"description": "comma-separated list of allowed Host names"},
    )
    INVENTORY_CORS_ORIGINS = Origins(
        load_default=(),
        metadata={"description": "comma-separated list of origins whose pages may use the API"},
    )
    INVENTORY_MAX_SKIP = Integer(
        load_default=100_000,
        validate=validate.Range(0, 1_000_000_000),
        metadata={"description": "maximum skip of a page; the Link header leads to all pages"},
    )
    INVENTORY_MAX_QUERY_BYTES = Integer(
        load_default=8_000,
        validate=validate.Range(256, 8_190),
        metadata={"description": "maximum length of a query string"},
    )
    INVENTORY_MAX_JSON_DEPTH = Integer(
        load_default=20,
        validate=validate.Range(3, 1_000),
        metadata={"description": "maximum nesting of a JSON body"},
    )
    INVENTORY_MAX_BATCH_LINES = Integer(
        load_default=1_000,
        validate=validate.Range(1, 1_000),
        metadata={"description": "maximum number of lines of a batch"},
    )
    INVENTORY_MAX_BODY_BYTES = Integer(
        load_default=MEBIBYTE,  # a batch of 1,000 lines of a kilobyte each
        validate=validate.Range(1_024, 64 * MEBIBYTE),
        metadata={"description": "maximum size of a request body, except for imports"},
    )
    INVENTORY_MAX_IMPORT_BYTES = Integer(
        load_default=256 * MEBIBYTE,
        validate=validate.Range(1_024, 4_096 * MEBIBYTE),
        metadata={"description": "maximum size of an imported CSV file"},
    )
    INVENTORY_MAX_TRANSFERS = Integer(
        load_default=None,
        validate=validate.Range(1, 256),
        metadata={"description": "imports and exports that a worker processes at once"},
    )
    INVENTORY_TEMP_DIR = fields.String(
        load_default=None,
        validate=check_folder,
        metadata={"description": "directory for temporary files; an import needs up to 16 times the size of its file"},
    )


def sqlalchemy_url(database_url: str) -> str:
    """The URL with an explicit driver: psycopg 3 for ``postgres://`` and ``postgresql://``."""
    url = make_url(database_url)
    if url.drivername in {"postgres", "postgresql"}:
        url = url.set(drivername="postgresql+psycopg")
    return url.render_as_string(hide_password=False)


def with_files(given: Mapping[str, str]) -> dict[str, str]:
    """Replace each ``NAME_FILE`` of a secret with the ``NAME`` that the file contains.

    Raises ValidationError if both are given, or if the file cannot be read.
    """
    values = dict(given)
    for name in SECRETS:
        path = values.pop(f"{name}_FILE", None)
        if path is None:
            continue
        if name in values:
            raise ValidationError({f"{name}_FILE": [f"Set either {name} or {name}_FILE."]})
        try:
            values[name] = Path(path).read_text(encoding="utf-8-sig").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
            raise ValidationError({f"{name}_FILE": [f"Cannot read the file: {reason}."]}) from None
    return values


def traces_exporter(chosen: str | None, environ: Mapping[str, str]) -> str:
    """Return ``otlp`` or ``none``: the setting, otherwise ``otlp`` if OpenTelemetry's variables name an endpoint.

    ``OTEL_SDK_DISABLED=true`` takes precedence. Raises ValidationError for an unsupported protocol or endpoint.
    """
    set_in = {name: value for name, value in environ.items() if value}
    if set_in.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return "none"
    # The variables for traces override the general ones.
    endpoint, protocol = (
        next((f"{prefix}{part}" for prefix in OTLP_PREFIXES if f"{prefix}{part}" in set_in), None)
        for part in ("ENDPOINT", "PROTOCOL")
    )
    if chosen is None:
        chosen = "otlp" if endpoint else "none"
    if chosen == "otlp" and protocol is not None and set_in[protocol] != "http/protobuf":
        raise ValidationError({protocol: ["Must be http/protobuf."]})
    if chosen == "otlp" and endpoint is not None and not set_in[endpoint].startswith(("http://", "https://")):
        raise ValidationError({endpoint: ["Must be an http:// or https:// URL."]})
    return chosen


def load(overrides: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> dict[str, object]:
    """Load and validate the settings.

    Returns Flask configuration keys. ``overrides`` may contain settings, and keys of Flask or its extensions, which are
    not validated. Raises ConfigError.
    """
    environ = os.environ if environ is None else environ
    declared = Settings._declared_fields  # noqa: SLF001
    accepted = {*declared, *(f"{name}_FILE" for name in SECRETS)}
    given = {key: value for key, value in environ.items() if key in accepted or key.startswith(PREFIX)}
    if not given.get(TRACES):  # OpenTelemetry's variables are unset if they are empty
        given.pop(TRACES, None)
    overriding, others = {}, {}
    for key, value in (overrides or {}).items():
        if key in accepted or key.startswith(PREFIX):
            overriding[key] = str(value)
        else:
            others[key] = value
    try:
        settings: dict[str, Any] = Settings().load(with_files(given) | with_files(overriding))
        if settings["INVENTORY_AUTH"] == OFF:
            settings |= dict.fromkeys(set(RATES) - given.keys() - overriding.keys())
        settings[TRACES] = traces_exporter(settings[TRACES], environ)
        if settings["INVENTORY_MAX_TRANSFERS"] is None:
            settings["INVENTORY_MAX_TRANSFERS"] = max(1, settings["INVENTORY_THREADS"] - 1)
    except ValidationError as error:
        problems = "; ".join(f"{name}: {' '.join(messages)}" for name, messages in sorted(error.messages_dict.items()))
        raise ConfigError(f"inventory: cannot start: invalid setting: {problems}") from None
    return {
        **settings,
        "SQLALCHEMY_DATABASE_URI": sqlalchemy_url(settings["DATABASE_URL"]),
        "MAX_CONTENT_LENGTH": settings["INVENTORY_MAX_BODY_BYTES"],
        # An import form has one part.
        "MAX_FORM_PARTS": 10,
        **others,
    }
