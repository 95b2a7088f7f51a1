"""gunicorn's settings; the command line still overrides them (``-b``, ``-w``, ``--threads``)."""

import os
from typing import Any

from inventory import create_app

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


def on_starting(server: Any) -> None:
    server.log.warning("API keys do not exist yet: every request is answered without one. Keep the address private.")
