"""Settings: defaults, then environment variables, then the overrides of tests. They are validated once, at start.

The schema below lists all settings. An unknown ``INVENTORY_…`` variable or an invalid value stops the start with a
message that names it.
"""

from __future__ import annotations

import os
import re
import tempfile
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from marshmallow import ValidationError, fields, validate, validates_schema
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from inventory.errors import ConfigError
from inventory.fields import Choice, Flag, Integer, TextSchema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PREFIX = "INVENTORY_"
MEBIBYTE = 1024 * 1024
# Each can be given as the name of a file, too, in NAME_FILE.
SECRETS = ("DATABASE_URL", "INVENTORY_KEY_PEPPER", "REDIS_URL")
# Not applied without API keys, unless they are set.
RATES = ("INVENTORY_LIMIT_READS", "INVENTORY_LIMIT_WRITES", "INVENTORY_LIMIT_INVALID_KEYS")
OFF = "off"
DRIVERS = frozenset({"sqlite", "sqlite+pysqlite", "postgres", "postgresql", "postgresql+psycopg"})

ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[a-f0-9:]+\])(?::(?P<port>[1-9][0-9]{0,4}))?"
)
DEFAULT_PORTS = {"http": 80, "https": 443}


def check_database_url(value: str) -> None:
    try:
        driver = make_url(value).drivername
    except (ArgumentError, ValueError):  # an invalid port raises ValueError
        driver = ""
    if driver not in DRIVERS:
        raise ValidationError("Must be a sqlite:///… or postgresql://… URL.")


def check_redis_url(value: str) -> None:
    try:
        url = urlsplit(value)
        is_valid = url.scheme in {"redis", "rediss"} and bool(url.hostname) and url.port != 0
        is_valid = is_valid or (url.scheme == "unix" and bool(url.path))
    except ValueError:  # an invalid port
        is_valid = False
    if not is_valid:
        raise ValidationError("Must be a redis://…, rediss://… or unix://… URL.")


class Rate(Integer):
    """Requests per minute. None for ``off``."""

    default_error_messages = {"invalid": "Not a valid integer, and not 'off'."}  # noqa: RUF012 - marshmallow's own form

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(1, 1_000_000_000), **kwargs)

    def _deserialize(self, value: object, attr: str | None, data: Mapping[str, object] | None, **kwargs: object) -> Any:
        return None if value == OFF else super()._deserialize(value, attr, data, **kwargs)

    def _validate(self, value: Any) -> None:
        if value is not None:
            super()._validate(value)


class HostNames(fields.String):
    """Comma-separated host names. A name with a leading dot matches all subdomains."""

    default_error_messages = {  # noqa: RUF012 - marshmallow's own form
        "name": "Must be a comma-separated list of host names without ports, such as stock.example.com."
    }

    def _deserialize(self, value: object, attr: str | None, data: Mapping[str, object] | None, **kwargs: object) -> Any:
        names = [name.strip().lower() for name in super()._deserialize(value, attr, data, **kwargs).split(",")]
        if not all(re.fullmatch(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[a-f0-9:.]+\]", name) for name in names):
            raise self.make_error("name")
        return tuple(names)


class Words(fields.String):
    """Comma-separated words, each one of ``choices``."""

    default_error_messages = {  # noqa: RUF012 - marshmallow's own form
        "word": "Must be a comma-separated list of: {choices}."
    }

    def __init__(self, *, choices: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.choices = choices

    def _deserialize(self, value: object, attr: str | None, data: Mapping[str, object] | None, **kwargs: object) -> Any:
        words = tuple(word.strip() for word in super()._deserialize(value, attr, data, **kwargs).split(","))
        if not set(words) <= set(self.choices):
            raise self.make_error("word", choices=", ".join(self.choices))
        return words


def check_key_set(value: str) -> None:
    """A file, an https:// URL, or an http:// URL of this machine."""
    if "://" not in value:
        if not Path(value).is_file():
            raise ValidationError("There is no such file.")
        return
    url = urlsplit(value)
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in {"localhost", "127.0.0.1", "::1"}):
        raise ValidationError("Must be a file or an https:// URL.")


class Origins(fields.String):
    """Comma-separated origins, exactly as browsers send them, because they are compared as text.

    A browser never sends a spelling that is rejected here, so a request would never match it.
    """

    default_error_messages = {  # noqa: RUF012 - marshmallow's own form
        "origin": "Must be a comma-separated list of origins such as https://shop.example.com, as browsers send them: "
        "scheme and host in lower case, Punycode, no path or default port."
    }

    def _deserialize(self, value: object, attr: str | None, data: Mapping[str, object] | None, **kwargs: object) -> Any:
        origins = [origin.strip() for origin in super()._deserialize(value, attr, data, **kwargs).split(",")]
        if not all(map(is_origin, origins)):
            raise self.make_error("origin")
        return tuple(origins)


def is_origin(text: str) -> bool:
    """Whether this is the serialization of an origin (https://html.spec.whatwg.org/#ascii-serialisation-of-an-origin)."""
    match = ORIGIN.fullmatch(text)
    if not match:
        return False
    port = int(match["port"] or 0)
    return port <= 65_535 and port != DEFAULT_PORTS[match["scheme"]] and is_host(match["host"])


def is_host(host: str) -> bool:
    """Whether browsers write a host like this. A host whose last label is a number is an IPv4 address."""
    try:
        if host.startswith("["):
            return IPv6Address(host[1:-1]).compressed == host[1:-1]
        return not host.rpartition(".")[2].isdecimal() or str(IPv4Address(host)) == host
    except ValueError:
        return False


def check_folder(value: str) -> None:
    try:
        with tempfile.TemporaryFile(dir=value):
            pass
    except OSError as error:
        raise ValidationError(f"Cannot create files in this directory: {error.strerror}.") from None


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
        load_default=os.cpu_count() or 1,
        validate=validate.Range(1, 256),
        metadata={"description": "gunicorn worker processes"},
    )
    INVENTORY_THREADS = Integer(
        load_default=4,
        validate=validate.Range(1, 256),
        metadata={"description": "threads per worker, and size of its connection pool"},
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


def load(overrides: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> dict[str, object]:
    """Load and validate the settings.

    Returns Flask configuration keys. ``overrides`` may contain settings, and keys of Flask or its extensions, which are
    not validated. Raises ConfigError.
    """
    environ = os.environ if environ is None else environ
    declared = Settings._declared_fields  # noqa: SLF001
    accepted = {*declared, *(f"{name}_FILE" for name in SECRETS)}
    given = {key: value for key, value in environ.items() if key in accepted or key.startswith(PREFIX)}
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
