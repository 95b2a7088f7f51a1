"""gunicorn settings. The command line overrides them (``-b``, ``-w``, ``--threads``).

This file must not import the service: the master would keep the old code and pass it to new workers.
"""

import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from typing import Any

if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
    # As PID 1 of a container, the process ignores SIGTERM until a handler is installed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def check_start() -> dict[str, int]:
    """Returns the numbers of workers and threads. Exits with 2 if the service cannot start.

    The reason is already printed.
    """
    check = subprocess.run([sys.executable, "-m", "inventory.server.startup"], stdout=subprocess.PIPE, check=False)
    if check.returncode != 0:
        sys.exit(2)
    settings: dict[str, int] = json.loads(check.stdout)
    return settings


settings = check_start()

bind = "127.0.0.1:8000"
workers = settings["workers"]
worker_class = "gthread"
threads = settings["threads"]
# Each worker imports the application itself, so that no connection is shared by a fork.
preload_app = False
timeout = 60
graceful_timeout = 30
keepalive = 75
# Heartbeat files are in memory: on a slow disk, gunicorn could take a live worker for dead.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112
# Request headers must not set SCRIPT_NAME.
forwarder_headers = ""
control_socket_disable = True
limit_request_line = 8190


def on_starting(server: Any) -> None:
    server.log.warning("API keys are not implemented yet: requests are not authenticated. Keep the address private.")
    survive_failed_reloads(server)


def survive_failed_reloads(server: Any) -> None:
    """Keep the old workers if this file cannot be reloaded after SIGHUP; gunicorn itself would exit."""
    reload = server.handle_hup

    def handle_hup() -> None:
        settings_in_use = server.app.cfg
        try:
            reload()
        except SystemExit:
            if os.getpid() != server.pid:  # a worker started by the reload exits
                raise
            server.app.cfg = settings_in_use
            server.log.warning(
                "Reload failed: the service cannot start with the new code or settings. The old workers continue."
            )

    server.handle_hup = handle_hup


def post_worker_init(worker: Any) -> None:
    import_module("inventory.server.worker").start(worker.wsgi)
