"""Field types and checks that only settings have: URLs, host names, origins, rates."""

from __future__ import annotations

import re
import tempfile
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from marshmallow import ValidationError, fields, validate
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from inventory.fields import Integer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
