"""A proxy in front of the service that drops responses: the request took effect, but its client cannot know."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class ResponseDropper(ThreadingHTTPServer):
    """Closes the connection instead of sending the first response to each Idempotency-Key, and forwards all others."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.upstream = port
        self.dropped: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def drops_response(self, key: str | None) -> bool:
        if key is None or key in self.dropped:
            return False
        self.dropped.add(key)
        return True

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.shutdown()
        self.server_close()


class Exchange(BaseHTTPRequestHandler):
    """One request and its response. The connection to the client is kept alive."""

    protocol_version = "HTTP/1.1"
    server: ResponseDropper

    def forward(self) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream.request(self.command, self.path, body or None, dict(self.headers))
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        if self.server.drops_response(self.headers.get("Idempotency-Key")):
            self.close_connection = True
        else:
            self.respond(response, content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward  # noqa: N815 - names of the standard library

    def respond(self, response: http.client.HTTPResponse, content: bytes) -> None:
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_message: object) -> None:
        """Do not log requests."""
