"""A real nginx with the project's configuration."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Self

import pytest

from tests.servers import ROOT, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CONFIGURATION = ROOT / "deploy" / "nginx.conf"
PROGRAM = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def require(program: str) -> None:
    """Skip the test, or fail it if all tools are required, unless a program is installed."""
    if shutil.which(program) is None:
        missing = f"{program} is not installed"
        if os.environ.get("TEST_REQUIRE_TOOLS"):
            pytest.fail(missing)
        pytest.skip(missing)


class Nginx:
    """Runs deploy/nginx.conf in a folder, on free ports: with TLS if there is a certificate, or else without.

    ``changes`` maps text of the file to what it is replaced by.
    """

    def __init__(
        self,
        folder: Path,
        upstreams: Sequence[str],
        *,
        certificate: tuple[Path, Path] | None = None,
        changes: dict[str, str] | None = None,
    ) -> None:
        self.folder, self.upstreams = folder, upstreams
        self.certificate, self.changes = certificate, changes or {}
        self.port, self.plain_port = free_port(), free_port()

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "access.log").read_text()

    def site(self) -> str:
        """The project's file, with the places of this machine."""
        text = CONFIGURATION.read_text()
        listen, files = f"listen 127.0.0.1:{self.port};", dict.fromkeys(["ssl_certificate", "ssl_certificate_key"], "")
        if self.certificate:
            listen = listen.replace(";", " ssl http2;")
            files = dict(zip(files, map(str, self.certificate), strict=True))
        changes = {
            "/etc/nginx/inventory.hosts": f"{self.folder}/hosts",
            "listen 443 ssl http2 default_server;": listen,
            "listen 80 default_server;": f"listen 127.0.0.1:{self.plain_port};",
            "    listen [::]:443 ssl http2 default_server;\n": "",
            "    listen [::]:80 default_server;\n": "",
            "/var/log/nginx/": f"{self.folder}/",
            **self.changes,
        }
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        for name, file in files.items():
            text, count = re.subn(rf"{name} .*;", f"{name} {file};" if file else "", text)
            assert count == 1, name
        return text if self.certificate else re.sub(r" ssl_\w+ .*;", "", text)

    def write(self) -> None:
        hosts = "".join(f"server {upstream.removeprefix('http://')} fail_timeout=1s;\n" for upstream in self.upstreams)
        (self.folder / "hosts").write_text(hosts)
        folders = "".join(f"{kind}_temp_path {self.folder}/{kind};\n" for kind in TEMPORARY)
        # As root, its workers would otherwise run as nobody, who cannot read pytest's directories.
        user = "user root;" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(
            f"daemon off; {user} pid {self.folder}/pid; error_log {self.folder}/error.log; worker_processes 2;\n"
            f"events {{ worker_connections 1024; }}\nhttp {{ {folders}\n{self.site()} }}\n"
        )

    def start(self) -> None:
        if PROGRAM is None:
            pytest.skip("nginx is not installed")
        self.write()
        command = [PROGRAM, "-p", str(self.folder), "-c", "nginx.conf"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while not (self.folder / "pid").exists():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)

    def reload(self, upstreams: Sequence[str] | None = None) -> None:
        """Read the configuration again, with other hosts if they are given."""
        self.upstreams = upstreams or self.upstreams
        self.write()
        self.process.send_signal(signal.SIGHUP)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.terminate()
        self.process.communicate()
