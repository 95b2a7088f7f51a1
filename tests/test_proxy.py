"""Unusual requests, sent to gunicorn and through nginx with the README's configuration: all errors use the envelope."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from inventory.web.browsers import SECURITY_HEADERS
from tests.clients import HttpClient, answer_to
from tests.servers import Gunicorn, free_port
from tests.sessions import fenced
from tests.test_readme import README

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
LONG = b"x" * 9_000
LISTED = "https://shop.example.com"
# Targets of a GET, and the allowed statuses: nginx rejects some as malformed that gunicorn does not find.
TARGETS = {
    b"//": {404},
    b"//evil.example/": {404},
    b"//evil.example/products": {404},
    b"///": {404},
    b"/products//1": {404},
    b"/docs//x": {404},
    b"/%00": {400, 404},
    b"/products/%00": {400, 404},
    b"/%2F..": {400, 404},
    b"/%2e%2e/%2e%2e/etc/passwd": {400, 404},
    b"/../products": {400, 404},
    b"/..;/products": {404},
    b"/products;a=b": {404},
    b"/\\evil.example": {404},
    b"/%5cevil.example": {404},
    b"/%": {400, 404},
    b"/%zz": {400, 404},
    b"/products/%zz": {400, 404},
    b"/%ff%fe": {404},
    b"/%E2%80%AE": {404},
    b"/" + b"a/" * 3_500: {404},
    b"/" + LONG: {414},
    b"/products?search=" + LONG: {414},
    b"/problem": {404},
    b"*": {400},
    b"products": {400},
}
HOST = b"Host: 127.0.0.1\r\n"
# Requests without their last lines, and the allowed statuses.
REQUESTS = {
    "TRACE": (b"TRACE /products HTTP/1.1\r\n" + HOST, {405}),
    "CONNECT": (b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST, {400, 404, 405}),
    "unknown method": (b"BREW /products HTTP/1.1\r\n" + HOST, {405}),
    "missing Host": (b"GET /products HTTP/1.1\r\n", {400}),
    "duplicate Host": (b"GET /products HTTP/1.1\r\n" + HOST + HOST, {400}),
    "invalid Host": (b"GET /products HTTP/1.1\r\nHost: a b\r\n", {400}),
    "unsupported version": (b"GET /products HTTP/3.0\r\n" + HOST, {400}),
    "long header": (b"GET / HTTP/1.1\r\n" + HOST + b"X-Long: " + LONG + b"\r\n", {431}),
    "long cookies": (b"GET / HTTP/1.1\r\n" + HOST + b"Cookie: " + b"a=b; " * 2_000 + b"\r\n", {431}),
    "many headers": (b"GET / HTTP/1.1\r\n" + HOST + (b"X-Flood: " + b"x" * 5_000 + b"\r\n") * 120, {431}),
    "unknown coding": (b"POST /categories HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xyz\r\n", {501}),
    "stacked coding": (b"POST /categories HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n", {501}),
    "empty coding": (b"POST /categories HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:\r\n", {501}),
    "duplicate length": (
        b"POST /categories HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n",
        {400},
    ),
    "invalid length": (b"POST /categories HTTP/1.1\r\n" + HOST + b"Content-Length: x\r\n", {400}),
    "large body": (b"POST /categories HTTP/1.1\r\n" + HOST + b"Content-Length: 999999999999\r\n", {413}),
    "length and coding": (
        b"POST /categories HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        {400},
    ),
}
UNUSUAL = {
    target.decode("latin-1")[:40]: (b"GET " + target + b" HTTP/1.1\r\n" + HOST, codes)
    for target, codes in TARGETS.items()
}
UNUSUAL |= REQUESTS


def snippet(upstream: str, port: int) -> str:
    """The README's configuration, without TLS and on a free port."""
    (text,) = fenced(README, "nginx")
    changes = {
        r"listen 443 ssl;": f"listen 127.0.0.1:{port};",
        r"    ssl_\w+ .*;\n": "",
        r"http://127.0.0.1:8000": upstream,
    }
    for old, new in changes.items():
        text, count = re.subn(old, new, text)
        assert count, old
    return text


def configuration(folder: Path, upstream: str, port: int) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    # As root, its workers would otherwise run as nobody, who cannot read pytest's directories.
    user = "user root;" if os.geteuid() == 0 else ""
    return (
        f"daemon off; {user} pid {folder}/pid; error_log {folder}/error.log; events {{}}"
        f"http {{ access_log off; {folders}\n{snippet(upstream, port)} }}"
    )


@pytest.fixture(scope="module")
def gunicorn(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    database = shutil.copy(sqlite_template, tmp_path_factory.mktemp("unusual"))
    with Gunicorn(f"sqlite:///{database}", INVENTORY_CORS_ORIGINS=LISTED) as server:
        yield server


@contextmanager
def nginx_before(upstream: str, folder: Path) -> Iterator[str]:
    """The address of nginx in front of a service."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    (folder / "nginx.conf").write_text(configuration(folder, upstream, port))
    with subprocess.Popen([NGINX, "-p", str(folder), "-c", "nginx.conf"], stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(folder / "pid", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def nginx(gunicorn: Gunicorn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nginx_before(gunicorn.url, tmp_path_factory.mktemp("nginx")) as url:
        yield url


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    while not file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.fixture(params=["gunicorn", "nginx"])
def url(request: pytest.FixtureRequest, gunicorn: Gunicorn) -> str:
    return gunicorn.url if request.param == "gunicorn" else str(request.getfixturevalue("nginx"))


@pytest.mark.slow
@pytest.mark.parametrize(("request_", "statuses"), UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_request_returns_error_envelope(url: str, request_: bytes, statuses: set[int]) -> None:
    answer = answer_to(url, request_ + b"Connection: close\r\n\r\n")
    assert answer.status in statuses, answer
    assert answer.headers["Content-Type"] == "application/json"
    assert "Location" not in answer.headers
    assert answer.json.keys() - {"details"} == {"error", "message", "code"}
    assert answer.json["code"] == answer.status


def test_preflight_through_nginx_needs_no_password(nginx: str) -> None:
    asked = {"Origin": LISTED, "Access-Control-Request-Method": "POST"}
    with HttpClient(nginx) as client:
        answer = client.request("OPTIONS", "/categories", headers=asked)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, LISTED)


@pytest.mark.parametrize("path", ["/nothing", "/products?search=" + "x" * 9_000], ids=["of the service", "of nginx"])
def test_errors_through_nginx_have_security_headers_and_show_no_version(nginx: str, path: str) -> None:
    answer = answer_to(nginx, b"GET " + path.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert answer.headers["Server"] == "nginx"


def test_nginx_returns_413_envelope_for_large_body(nginx: str) -> None:
    request = b"POST /import/products HTTP/1.1\r\n" + HOST + b"Content-Length: 9999999999\r\n\r\n"
    answer = answer_to(nginx, request)
    assert (answer.status, answer.json["error"]) == (413, "payload_too_large")


def test_nginx_returns_503_envelope_when_service_is_down(tmp_path: Path) -> None:
    with nginx_before(f"http://127.0.0.1:{free_port()}", tmp_path) as url:
        answer = answer_to(url, b"GET /products HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (answer.status, answer.json["error"], answer.json["code"]) == (503, "service_unavailable", 503)
    assert answer.headers["Retry-After"] == "2"


@pytest.mark.slow
def test_cross_site_protection_works_through_nginx(nginx: str) -> None:
    own = {"Origin": nginx, "Sec-Fetch-Site": "same-origin"}
    old = {name: value for name, value in own.items() if name != "Sec-Fetch-Site"}
    with HttpClient(nginx) as client:
        for number, headers in enumerate((own, old)):
            body = b'{"name": "Nuts %d"}' % number
            assert client.request("POST", "/categories", body, headers=headers).status == 201
        foreign = own | {"Sec-Fetch-Site": "cross-site"}
        assert client.request("POST", "/categories", b'{"name": "Bolts"}', headers=foreign).status == 403
        rows = client.request("GET", "/categories", headers=own).json
    assert [row["name"] for row in rows] == ["Nuts 0", "Nuts 1"]
