"""Those who follow a feed."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

import orjson

from tests.builders import listed

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse


def read(client: FlaskClient, after: str, address: str = "/transactions/feed") -> list[dict[str, Any]]:
    return listed(client.get(address, query_string={"after": after}))


def next_page(response: TestResponse) -> str:
    address, rel = response.headers["Link"].split("; ")
    assert rel == 'rel="next"'
    return address.strip("<>")


class Poller:
    """Follows the feed by its links and never asks for anything again."""

    def __init__(self, client: FlaskClient, address: str = "/transactions/feed") -> None:
        self.client, self.address = client, address
        self.seen: list[dict[str, Any]] = []

    def poll(self) -> int:
        response = self.client.get(self.address)
        rows = listed(response)
        self.seen += rows
        self.address = next_page(response)
        return len(rows)

    def poll_until(self, total: int) -> None:
        """Poll until so many rows were seen: other databases of a server can hold the newest rows back for a while."""
        deadline = time.monotonic() + 60
        while len(self.seen) < total:
            assert time.monotonic() < deadline, f"saw {len(self.seen)} of {total} rows"
            self.poll()

    @property
    def ids(self) -> list[int]:
        return [row["id"] for row in self.seen]


def packed(position: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(position)).decode().rstrip("=")
