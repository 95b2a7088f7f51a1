"""gunicorn settings. The command line overrides them (``-b``, ``-w``, ``--threads``).

This file must not import the service: the master would keep the old code and pass it to new workers.
"""

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger

if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
    # As PID 1 of a container, the process ignores SIGTERM until a handler is installed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def check_start() -> dict[str, Any]:
    """Returns settings of the service, and warnings. Exits with 2 if the service cannot start.

    The reason is printed, or logged if the service runs already.
    """
    check = subprocess.run([sys.executable, "-m", "inventory.server.startup"], capture_output=True, check=False)
    running = logging.getLogger("gunicorn.error")
    if running.handlers and check.stderr:
        running.warning(check.stderr.decode(errors="replace").strip())
    else:
        with suppress(OSError):  # a full disk
            sys.stderr.buffer.write(check.stderr)
            sys.stderr.buffer.flush()
    if check.returncode != 0:
        sys.exit(2)
    settings: dict[str, Any] = json.loads(check.stdout)
    return settings


def load(path: str) -> Any:
    """A file of ``inventory/`` as a module of its own, without its package."""
    file = Path(__file__).parent / "inventory" / path
    spec: Any = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


settings = check_start()
logs = load("logs.py")
metrics_files = load("server/metrics_files.py")

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
loglevel = settings["log_level"]


class FormattedLogger(Logger):  # type: ignore[misc]
    """Writes gunicorn's own lines in the form of the service. The service logs requests; there is no access log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(logs.formatter(settings["log_format"]))


logger_class = FormattedLogger
control_socket_disable = True
limit_request_line = 8190


def on_starting(server: Any) -> None:
    survive_failed_reloads(server)


def when_ready(server: Any) -> None:
    if exposed := exposed_without_keys(server):
        server.halt(exposed, 2)
    warn(server)


def warn(server: Any) -> None:
    for warning in settings["warnings"]:
        server.log.warning(warning)


def on_reload(server: Any) -> None:
    if exposed := exposed_without_keys(server):
        raise HaltServer(exposed, 2)
    warn(server)


def exposed_without_keys(server: Any) -> str | None:
    """Why the service must not serve: without authentication, no other machine may be able to connect."""
    addresses = [listener.sock.getsockname() for listener in server.LISTENERS]
    hosts = [address[0] for address in addresses if isinstance(address, tuple)]  # otherwise a Unix socket
    exposed = [host for host in hosts if not ip_address(host).is_loopback]
    if not settings["only_loopback"] or not exposed:
        return None
    return f"INVENTORY_AUTH=off is refused on {', '.join(exposed)}: only loopback addresses are allowed. Use API keys."


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


def pre_fork(server: Any, worker: Any) -> None:
    metrics_files.before_fork(server, worker)


def post_fork(server: Any, worker: Any) -> None:
    metrics_files.after_fork(server, worker)


def child_exit(server: Any, worker: Any) -> None:
    metrics_files.after_death(server, worker)


def on_exit(server: Any) -> None:
    metrics_files.after_end(server)


def post_worker_init(worker: Any) -> None:
    import_module("inventory.server.worker").start(worker.wsgi)


def worker_exit(_server: Any, worker: Any) -> None:
    # gunicorn also calls this for a worker that did not boot, and in the master for one that is gone.
    if worker.booted:
        import_module("inventory.server.worker").stop(worker.wsgi)
