"""HTTP clients that keep their connection open, as applications do, one or many at once."""

from __future__ import annotations

import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Barrier
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

R = TypeVar("R")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class HttpClient:
    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self.connection = http.client.HTTPConnection(address.hostname, address.port, timeout=120)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        described = {"Content-Type": content_type} if body is not None else {}
        self.connection.request(method, path, body, {**described, **(headers or {})})
        response = self.connection.getresponse()
        return Answer(response.status, dict(response.headers), response.read())

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, fields: Any) -> Answer:
        return self.request("POST", path, json.dumps(fields).encode())

    def post_csv(self, path: str, text: str) -> Answer:
        return self.request("POST", path, text.encode(), "text/csv")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.connection.close()


def answer_to(url: str, request: bytes) -> Answer:
    """The first answer to these very bytes."""
    address = urlsplit(url)
    with (
        socket.create_connection((address.hostname, address.port), timeout=120) as connection,
        http.client.HTTPResponse(connection) as response,
    ):
        connection.sendall(request)
        response.begin()
        return Answer(response.status, dict(response.headers), response.read())


def post_all(url: str, path: str, bodies: Iterable[Any], *, clients: int) -> list[Answer]:
    """Send every body once, with so many clients at a time; the answers in no particular order."""
    waiting: SimpleQueue[Any] = SimpleQueue()
    for body in bodies:
        waiting.put(body)

    def send_until_none_is_left() -> list[Answer]:
        answers = []
        with HttpClient(url) as client:
            while True:
                try:
                    answers.append(client.post(path, waiting.get_nowait()))
                except Empty:
                    return answers

    return [answer for answers in at_once(send_until_none_is_left, clients) for answer in answers]


def at_once(work: Callable[[], R], count: int) -> list[R]:
    """Run ``work`` so many times at once, each in a thread of its own that starts when all are ready."""
    ready = Barrier(count)

    def start_together(_number: int) -> R:
        ready.wait()
        return work()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(start_together, range(count)))
