"""A proxy in front of PostgreSQL that drops connections at the worst time: during a commit.

That is a COMMIT, or a movement that is a transaction by itself. The proxy recognises them and their completion in the
protocol (https://www.postgresql.org/docs/current/protocol-message-formats.html), so connections must not be encrypted.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

# As a simple query, which psycopg uses, and as an unnamed prepared statement.
COMMIT_MESSAGES = (b"Q\x00\x00\x00\x0bCOMMIT\x00", b"P\x00\x00\x00\x0e\x00COMMIT\x00\x00\x00")
BEGIN_MESSAGE = b"Q\x00\x00\x00\x0aBEGIN\x00"
COMPLETIONS = (b"C\x00\x00\x00\x0bCOMMIT\x00", b"C\x00\x00\x00\x0fINSERT 0 ")
PARSE, BIND, EXECUTE = b"P", b"B", b"E"


class CommitDropper(socketserver.ThreadingTCPServer):
    """Drops the connection at about every ``one_in``-th commit, ``wanted`` times, in turn ``before`` and ``after`` it.

    ``before``: the server never receives it. ``after``: it has completed it, and the response is lost.
    """

    daemon_threads = True
    request_queue_size = 128

    # A port that a test has chosen may still have closed connections.
    allow_reuse_address = True

    def __init__(self, upstream: tuple[str, int], *, wanted: int = 0, one_in: int = 3, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Connection)
        self.upstream = upstream
        self.wanted = wanted
        self.one_in = one_in
        self.random = Random(1)
        self.turns = cycle(["before", "after"])
        self.lock = threading.Lock()
        self.planned = 0
        self.dropped: Counter[str] = Counter()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def decide(self) -> str | None:
        """What to do with the next commit: drop the connection before it, after it, or (None) forward it."""
        with self.lock:
            if self.planned == self.wanted or self.random.randrange(self.one_in):
                return None
            self.planned += 1
            return next(self.turns)

    def postpone(self) -> None:
        """Drop another connection instead."""
        with self.lock:
            self.planned -= 1

    def count(self, kind: str) -> None:
        with self.lock:
            self.dropped[kind] += 1

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.shutdown()
        self.server_close()


class Connection(socketserver.BaseRequestHandler):
    """A connection from the service, and one to the server for it."""

    server: CommitDropper
    request: socket.socket

    def handle(self) -> None:
        self.drop_after_commit = threading.Event()
        with socket.create_connection(self.server.upstream) as self.upstream:
            for end in (self.request, self.upstream):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            responses = threading.Thread(target=self.forward_responses, daemon=True)
            responses.start()
            try:
                self.forward_messages()
            except OSError:
                pass  # the other thread or the other side has closed the connection
            finally:
                self.drop()
                responses.join()

    def forward_messages(self) -> None:
        session = Session()
        with self.request.makefile("rb") as stream:
            for message in messages(stream):
                turn = self.server.decide() if session.commits(message) else None
                if turn == "before":
                    self.server.count(turn)
                    return
                if turn == "after":
                    self.drop_after_commit.set()
                self.upstream.sendall(message)

    def forward_responses(self) -> None:
        try:
            while data := self.upstream.recv(65536):
                if self.drop_after_commit.is_set():
                    if any(completion in data for completion in COMPLETIONS):
                        self.server.count("after")
                        break
                    # A refused movement, or one whose key is taken: nothing was committed.
                    self.drop_after_commit.clear()
                    self.server.postpone()
                self.request.sendall(data)
        except OSError:
            pass
        finally:
            self.drop()

    def drop(self) -> None:
        for end in (self.request, self.upstream):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@dataclass
class Session:
    """What a client has told the server so far: its prepared statements, and whether a transaction has begun."""

    statements: dict[bytes, bytes] = field(default_factory=dict)
    bound: bytes = b""
    in_transaction: bool = False

    def commits(self, message: bytes) -> bool:
        """Whether a message makes the server commit a movement."""
        kind, content = message[:1], message[5:]
        if kind == PARSE:
            name, query, _types = content.split(b"\0", 2)
            self.statements[name] = query
        elif kind == BIND:
            _portal, name, _values = content.split(b"\0", 2)
            self.bound = self.statements[name]
        elif (kind == EXECUTE and self.bound == b"BEGIN") or message == BEGIN_MESSAGE:
            self.in_transaction = True
        elif message in COMMIT_MESSAGES or (message.startswith(b"Q") and b"ROLLBACK" in message):
            self.in_transaction = False
            return message in COMMIT_MESSAGES
        return kind == EXECUTE and not self.in_transaction and b"INSERT INTO transactions" in self.bound


def messages(stream: IO[bytes]) -> Iterator[bytes]:
    """The messages of a client, one by one. The first one, which opens the session, has no type before its length."""
    type_size = 0
    while len(head := stream.read(type_size + 4)) == type_size + 4:
        yield head + stream.read(int.from_bytes(head[-4:]) - 4)
        type_size = 1
