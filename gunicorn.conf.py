"""gunicorn's settings; the command line still overrides them (``-b``, ``-w``, ``--threads``)."""

import os
import socket
from typing import Any

import orjson
from gunicorn import util
from werkzeug.http import HTTP_STATUS_CODES

from inventory import create_app
from inventory.web.handlers import error_of_status

# Made here as well, so that a wrong setting ends the start with its one line and not in a loop of dying workers.
settings = create_app().config

bind = "127.0.0.1:8000"
workers = settings["INVENTORY_WORKERS"]
worker_class = "gthread"
threads = settings["INVENTORY_THREADS"]
# Nothing is opened at import, and each worker imports for itself: no connection is ever shared by a fork.
preload_app = False
timeout = 60
graceful_timeout = 30
keepalive = 75
# Heartbeats go to memory where there is some: a slow disk must not look like a dead worker.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112
# No header of a request decides under which path the application lies.
forwarder_headers = ""
control_socket_disable = True
limit_request_line = 8190


def write_envelope(connection: socket.socket, status: int, _reason: str, _details: str) -> None:
    """Answer what cannot even be read as a request, and so never reaches the application."""
    error = error_of_status(status)
    body = orjson.dumps(error.envelope()) + b"\n"
    head = f"HTTP/1.1 {error.status} {HTTP_STATUS_CODES[error.status]}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    util.write_nonblock(connection, head.encode() + body)


# gunicorn has no setting for it, and its own answer is a page of HTML.
util.write_error = write_envelope


def on_starting(server: Any) -> None:
    server.log.warning("API keys do not exist yet: every request is answered without one. Keep the address private.")
