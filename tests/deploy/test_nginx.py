"""deploy/nginx.conf before the service: what nginx adds, what it refuses, and what it keeps from the service."""

from __future__ import annotations

import gzip
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import ExitStack
from threading import Thread
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import pytest

from inventory.web.browsers import SECURITY_HEADERS
from tests.clients import HttpClient, answer_to
from tests.deploy.conftest import LISTED
from tests.deploy.nginx import Nginx, require
from tests.servers import Gunicorn, free_port

if TYPE_CHECKING:
    from pathlib import Path

HOST = b"Host: 127.0.0.1\r\n"
LONG_QUERY = "/products?search=" + "x" * 9_000
SLOW_CLIENTS = 200
HALF_HEADERS = b"GET /products HTTP/1.1\r\nHost"
HALF_BODY = b"POST /categories HTTP/1.1\r\n" + HOST + b"Content-Length: 99\r\n\r\n{"

pytestmark = pytest.mark.slow


def test_preflight_needs_no_key(nginx: Nginx) -> None:
    asked = {"Origin": LISTED, "Access-Control-Request-Method": "POST"}
    with HttpClient(nginx.url) as client:
        answer = client.request("OPTIONS", "/categories", headers=asked)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, LISTED)


@pytest.mark.parametrize("path", ["/nothing", LONG_QUERY], ids=["of the service", "of nginx"])
def test_errors_have_security_headers_and_an_id_and_show_no_version(nginx: Nginx, path: str) -> None:
    with HttpClient(nginx.url) as client:
        answer = client.get(path)
    assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert answer.headers["Server"] == "nginx"
    assert len(answer.headers["X-Request-ID"]) == 32


@pytest.mark.parametrize(("path", "length"), [("/import/products", 256 * 2**20 + 1), ("/categories", 2**20 + 1)])
def test_large_body_is_refused_before_it_is_sent(nginx: Nginx, path: str, length: int) -> None:
    request = b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (path.encode(), HOST, length)
    answer = answer_to(nginx.url, request)
    assert (answer.status, answer.json["error"]) == (413, "payload_too_large")


def test_import_may_be_larger_than_other_bodies(nginx: Nginx) -> None:
    with HttpClient(nginx.url) as client:
        answer = client.post_csv("/import/products?dry_run=true", "sku,name\n" + "x" * 2**21)
    assert (answer.status, answer.json["error"]) == (422, "import_invalid")


def test_service_that_is_down_is_503(tmp_path: Path) -> None:
    with Nginx(tmp_path, [f"127.0.0.1:{free_port()}"]) as nginx, HttpClient(nginx.url) as client:
        answer = client.get("/products")
    assert (answer.status, answer.json["error"], answer.json["code"]) == (503, "service_unavailable", 503)
    assert answer.headers["Retry-After"] == "2"
    line = json.loads(nginx.log)
    assert (line["status"], line["request_id"]) == (503, answer.headers["X-Request-ID"])


def test_service_that_does_not_answer_is_503(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        upstream = f"127.0.0.1:{silent.getsockname()[1]}"
        with Nginx(tmp_path, [upstream], changes={"75s": "1s"}) as nginx, HttpClient(nginx.url) as client:
            answer = client.get("/products")
    assert (answer.status, answer.json["error"]) == (503, "service_unavailable")


@pytest.mark.parametrize(
    "target", ["/metrics", "//metrics", "/%6detrics", "/./metrics", "/docs/../metrics", "/metrics?a=b", "/metrics#a"]
)
def test_metrics_are_closed(nginx: Nginx, target: str) -> None:
    answer = answer_to(nginx.url, b"GET " + target.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (answer.status, answer.json["error"]) == (404, "not_found")
    assert b"inventory_" not in answer.content


def test_address_is_that_of_the_connection(sqlite_template: Path, tmp_path: Path) -> None:
    claimed = {"X-Forwarded-For": "192.0.2.7", "X-Real-IP": "192.0.2.7", "Forwarded": "for=192.0.2.7"}
    pepper = "a pepper of the tests, which is long"
    database = shutil.copy(sqlite_template, tmp_path / "inventory.db")
    with (
        Gunicorn(
            f"sqlite:///{database}",
            INVENTORY_AUTH="keys",
            INVENTORY_KEY_PEPPER=pepper,
            INVENTORY_LOG_FORMAT="json",
            INVENTORY_TRUSTED_PROXIES="1",
        ) as gunicorn,
        Nginx(tmp_path, [gunicorn.url]) as nginx,
        HttpClient(nginx.url) as client,
    ):
        assert client.request("GET", "/products", headers=claimed | {"X-API-Key": "wrong"}).status == 401
        assert '"address":"127.0.0.1"' in gunicorn.output()
        assert "192.0.2.7" not in gunicorn.output()


def test_scheme_claimed_by_a_client_is_ignored(nginx: Nginx) -> None:
    """Gunicorn refuses requests in which these headers differ."""
    claimed = {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "off", "X-Forwarded-Protocol": "ssl"}
    with HttpClient(nginx.url) as client:
        answer = client.request("GET", "/transactions/feed", headers=claimed)
    assert answer.status == 200
    assert f"<{nginx.url}/" in answer.headers["Link"]


def test_lists_are_compressed(nginx: Nginx) -> None:
    with HttpClient(nginx.url) as client:
        for number in range(20):
            client.post("/categories", {"name": f"Compressed {number}", "description": "x" * 100})
        answer = client.request("GET", "/categories", headers={"Accept-Encoding": "gzip"})
        plain = client.get("/categories")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.content) == plain.content


def test_etags_are_strong(nginx: Nginx) -> None:
    with HttpClient(nginx.url) as client:
        made = client.post("/categories", {"name": "Strong", "description": "x" * 500}).json
        item = {"sku": "strong/1", "name": "Strong", "description": "x" * 900, "price": 1, "category_id": made["id"]}
        product = client.post("/products", item).json
        for path in (f"/categories/{made['id']}", f"/products/{product['id']}", "/products/by-sku/STRONG%2F1"):
            answer = client.request("GET", path, headers={"Accept-Encoding": "gzip"})
            assert answer.status == 200, path
            assert answer.headers["ETag"].startswith('"'), path
            again = client.request("GET", path, headers={"If-None-Match": answer.headers["ETag"]})
            assert again.status == 304, path


def test_cross_site_protection_works(nginx: Nginx) -> None:
    own = {"Origin": nginx.url, "Sec-Fetch-Site": "same-origin"}
    old = {name: value for name, value in own.items() if name != "Sec-Fetch-Site"}
    with HttpClient(nginx.url) as client:
        for number, headers in enumerate((own, old)):
            body = b'{"name": "Own %d"}' % number
            assert client.request("POST", "/categories", body, headers=headers).status == 201
        foreign = own | {"Sec-Fetch-Site": "cross-site"}
        assert client.request("POST", "/categories", b'{"name": "Foreign"}', headers=foreign).status == 403


@pytest.mark.parametrize("limit", ["rate=1000r/s", "inventory_connections 300"])
def test_too_many_requests_of_an_address_are_429(gunicorn: Gunicorn, tmp_path: Path, limit: str) -> None:
    small = {"rate=1000r/s": "rate=1r/m", "burst=2000": "burst=1"}
    if limit not in small:
        small = {limit: "inventory_connections 1"}
    with Nginx(tmp_path, [gunicorn.url], changes=small) as nginx, ExitStack() as open_requests:
        slow = open_requests.enter_context(connection_to(nginx.url))
        slow.sendall(b"POST /categories HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n{")
        deadline = time.monotonic() + 60
        with HttpClient(nginx.url) as client:
            while (refused := client.get("/products")).status == 200:
                assert time.monotonic() < deadline
    assert (refused.status, refused.json["error"], refused.headers["Retry-After"]) == (429, "rate_limited", "1")


def client_timeouts(value: str) -> dict[str, str]:
    return {f"client_{part}_timeout 10s": f"client_{part}_timeout {value}" for part in ("header", "body")}


def connection_to(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=120)


def test_slow_clients_do_not_stop_others(gunicorn: Gunicorn, tmp_path: Path) -> None:
    """Half of them have sent half a header, and half a part of their body. The service has 16 threads."""
    halves = (
        b"GET /products HTTP/1.1\r\nHost",
        b"POST /categories HTTP/1.1\r\n" + HOST + b"Content-Length: 99\r\n\r\n{",
    )
    patient = {
        "client_header_timeout 10s": "client_header_timeout 1h",
        "client_body_timeout 10s": "client_body_timeout 1h",
    }
    with Nginx(tmp_path, [gunicorn.url], changes=patient) as nginx, ExitStack() as slow:
        for half in halves * SLOW_CLIENTS:
            slow.enter_context(connection_to(nginx.url)).sendall(half)
        with HttpClient(nginx.url) as client:
            for number in range(50):
                assert client.get("/health/live").status == 200
                assert client.post("/categories", {"name": f"Beside slow clients {number}"}).status == 201


def test_slow_clients_are_given_up(gunicorn: Gunicorn, tmp_path: Path) -> None:
    short = {
        "client_header_timeout 10s": "client_header_timeout 1s",
        "client_body_timeout 10s": "client_body_timeout 1s",
    }
    with Nginx(tmp_path, [gunicorn.url], changes=short) as nginx:
        for half in (
            b"GET /products HTTP/1.1\r\nHost",
            b"POST /categories HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n{",
        ):
            with connection_to(nginx.url) as connection:
                connection.sendall(half)
                assert connection.recv(65536) == b""


def test_https_is_required(gunicorn: Gunicorn, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    with Nginx(tmp_path, [gunicorn.url], certificate=certificate) as nginx:
        with HttpClient(f"http://127.0.0.1:{nginx.plain_port}") as client:
            plain = client.get("/products")
        with HttpClient(f"http://127.0.0.1:{nginx.port}") as client:
            wrong = client.get("/products")
    assert (plain.status, plain.json["error"]) == (400, "bad_request")
    assert "HTTPS" in plain.json["message"]
    assert "Location" not in plain.headers
    assert (wrong.status, wrong.json["error"]) == (400, "bad_request")


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_https_with_http_2(gunicorn: Gunicorn, tmp_path: Path, certificate: tuple[Path, Path], version: str) -> None:
    require("curl")
    with Nginx(tmp_path, [gunicorn.url], certificate=certificate) as nginx:
        command = ["curl", "--silent", "--show-error", version, "--cacert", str(certificate[0]), "--noproxy", "*"]
        command += ["--write-out", "\n%{http_version} %{http_code}", f"{nginx.url}/products?limit=1"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    *_body, summary = done.stdout.splitlines()
    assert summary == f"{version.removeprefix('--http').removesuffix('.0')} 200"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused(
    gunicorn: Gunicorn, tmp_path: Path, certificate: tuple[Path, Path], version: ssl.TLSVersion
) -> None:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = context.maximum_version = version
    with Nginx(tmp_path, [gunicorn.url], certificate=certificate) as nginx:
        connection = http.client.HTTPSConnection("127.0.0.1", nginx.port, context=context)
        with pytest.raises(ssl.SSLError):
            connection.request("GET", "/")


def test_links_are_https(gunicorn: Gunicorn, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with Nginx(tmp_path, [gunicorn.url], certificate=certificate) as nginx:
        connection = http.client.HTTPSConnection("127.0.0.1", nginx.port, context=context)
        connection.request("GET", "/transactions/feed")
        assert f"<https://127.0.0.1:{nginx.port}/" in str(connection.getresponse().headers["Link"])
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "tries"),
    [
        ("GET", "/products", 2),
        ("GET", "/products/1", 1),
        ("PUT", "/products/1", 1),
        ("PATCH", "/products/1", 1),
        ("DELETE", "/categories/1", 1),
        ("POST", "/transactions", 1),
    ],
)
def test_only_reads_are_repeated_on_another_host(tmp_path: Path, method: str, path: str, tries: int) -> None:
    body = b"{}" if method in {"PUT", "PATCH", "POST"} else None
    with (
        Dropping() as first,
        Dropping() as second,
        Nginx(tmp_path, [first.address, second.address]) as nginx,
        HttpClient(nginx.url) as client,
    ):
        assert client.request(method, path, body).status == 503
    assert len(first.requests) + len(second.requests) == tries


def test_host_that_is_down_is_replaced_for_movements(gunicorn: Gunicorn, tmp_path: Path) -> None:
    hosts = [f"127.0.0.1:{free_port()}", gunicorn.url]
    with Nginx(tmp_path, hosts) as nginx, HttpClient(nginx.url) as client:
        answers = [client.post("/transactions", {}) for _ in range(4)]
    assert {answer.status for answer in answers} == {422}


class Dropping:
    """A host that reads requests and closes the connection without an answer."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = Thread(target=self.serve)

    def serve(self) -> None:
        while True:
            connection, _address = self.listener.accept()
            with connection:
                received = connection.recv(65536)
            if not received:
                return
            self.requests.append(received)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        # Its end: a connection without a request.
        socket.create_connection(self.listener.getsockname()).close()
        self.thread.join()
        self.listener.close()
