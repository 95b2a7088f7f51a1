"""Initialization of a gunicorn worker after it has loaded the application."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from gunicorn import util
from werkzeug.http import HTTP_STATUS_CODES

from inventory.database.base import open_first_connection
from inventory.web.handlers import error_of_status

if TYPE_CHECKING:
    import socket

    from flask import Flask


def write_envelope(connection: socket.socket, status: int, _reason: str, _details: str) -> None:
    """Answer a malformed request that does not reach the application."""
    error = error_of_status(status)
    body = orjson.dumps(error.envelope()) + b"\n"
    head = f"HTTP/1.1 {error.status} {HTTP_STATUS_CODES[error.status]}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    util.write_nonblock(connection, head.encode() + body)


def start(application: Flask) -> None:
    open_first_connection(application)
    # gunicorn has no setting for it and would answer with an HTML page.
    util.write_error = write_envelope
