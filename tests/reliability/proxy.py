"""A proxy before PostgreSQL that drops a link at the worst moment: when COMMIT passes.

It knows as much of the protocol as it takes to see a COMMIT and its completion go by
(https://www.postgresql.org/docs/current/protocol-message-formats.html), so the links must not be encrypted.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections import Counter
from contextlib import suppress
from itertools import cycle
from random import Random
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

# As a simple query, which psycopg uses, and as a statement to parse, without a name.
COMMIT_MESSAGES = (b"Q\x00\x00\x00\x0bCOMMIT\x00", b"P\x00\x00\x00\x0e\x00COMMIT\x00\x00\x00")
COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"


class CommitCutter(socketserver.ThreadingTCPServer):
    """Cuts about every ``one_in``-th COMMIT until it has made ``wanted`` cuts, by turns ``before`` and ``after``.

    ``before``: the server never sees the COMMIT. ``after``: it has completed it, and the answer is lost.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: tuple[str, int], *, wanted: int = 0, one_in: int = 3) -> None:
        super().__init__(("127.0.0.1", 0), Link)
        self.upstream = upstream
        self.wanted = wanted
        self.one_in = one_in
        self.random = Random(1)
        self.turns = cycle(["before", "after"])
        self.lock = threading.Lock()
        self.planned = 0
        self.cuts: Counter[str] = Counter()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def decide(self) -> str | None:
        """What to do with the COMMIT that has just come: cut before it, after it, or let it pass."""
        with self.lock:
            if self.planned == self.wanted or self.random.randrange(self.one_in):
                return None
            self.planned += 1
            return next(self.turns)

    def count(self, kind: str) -> None:
        with self.lock:
            self.cuts[kind] += 1

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.shutdown()
        self.server_close()


class Link(socketserver.BaseRequestHandler):
    """One connection of the service, and its own to the server."""

    server: CommitCutter
    request: socket.socket

    def handle(self) -> None:
        self.cut_after_commit = threading.Event()
        with socket.create_connection(self.server.upstream) as self.upstream:
            for end in (self.request, self.upstream):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = threading.Thread(target=self.pass_answers, daemon=True)
            answers.start()
            try:
                self.pass_messages()
            except OSError:
                pass  # the other thread, or the other side, has dropped the link
            finally:
                self.drop()
                answers.join()

    def pass_messages(self) -> None:
        with self.request.makefile("rb") as stream:
            for message in messages(stream):
                turn = self.server.decide() if message in COMMIT_MESSAGES else None
                if turn == "before":
                    self.server.count(turn)
                    return
                if turn == "after":
                    self.cut_after_commit.set()
                self.upstream.sendall(message)

    def pass_answers(self) -> None:
        try:
            while data := self.upstream.recv(65536):
                if self.cut_after_commit.is_set():
                    assert COMMITTED in data
                    self.server.count("after")
                    break
                self.request.sendall(data)
        except OSError:
            pass
        finally:
            self.drop()

    def drop(self) -> None:
        for end in (self.request, self.upstream):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def messages(stream: IO[bytes]) -> Iterator[bytes]:
    """The messages of a client, one by one; the first, which opens the session, has no type before its length."""
    type_size = 0
    while len(head := stream.read(type_size + 4)) == type_size + 4:
        yield head + stream.read(int.from_bytes(head[-4:]) - 4)
        type_size = 1
