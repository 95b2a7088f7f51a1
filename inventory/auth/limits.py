"""Rate limits: budgets for reads and for writes, of each API key, or of each address for requests without a key.

The headers are those of draft-ietf-httpapi-ratelimit-headers-10. ``/health`` and ``/health/live`` are not limited.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

import flask
from werkzeug.middleware.proxy_fix import ProxyFix

from inventory.auth.counters import WINDOW, MemoryCounters, counters
from inventory.caller import caller
from inventory.errors import RateLimited
from inventory.web import health
from inventory.web.admission import SAFE_METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Flask, Response

    from inventory.auth.counters import Count, Counters

# More characters than any address has.
LONGEST_ADDRESS = 64


class Budget(NamedTuple):
    """How many requests a client may send in a window. ``policy`` describes it in a header."""

    name: str
    quota: int
    policy: str


def budget(name: str, quota: int | None) -> Budget | None:
    """None if there is no limit."""
    return None if quota is None else Budget(name, quota, f'"{name}";q={quota};w={WINDOW}')


class Limiter:
    def __init__(self, config: Mapping[str, Any], counted: Counters) -> None:
        self.reads = budget("reads", config["INVENTORY_LIMIT_READS"])
        self.writes = budget("writes", config["INVENTORY_LIMIT_WRITES"])
        self.counted = counted

    def state(self) -> str:
        """Where requests are counted, for /health."""
        return self.counted.state() if self.reads or self.writes else "off"

    def check(self) -> None:
        """Count the request. Raises RateLimited if its client has used up the budget."""
        used = self.reads if flask.request.method in SAFE_METHODS else self.writes
        if used is None or flask.request.blueprint == health.blueprint.name:
            return
        count = self.counted.add(f"{used.name}:{client()}")
        flask.g.rate_limit = used, count
        if count.number > used.quota:
            raise RateLimited(count.seconds)


def client() -> str:
    """Whose budget the request uses."""
    key_id = caller().client
    return f"key:{key_id}" if key_id else f"address:{address()}"


def address() -> str:
    return network(flask.request.remote_addr or "")


@lru_cache(maxsize=1_000)
def network(address: str) -> str:
    """The address; of IPv6 only the network, because one client has many addresses in it."""
    try:
        found = ip_address(address)
    except ValueError:  # a Unix socket, or what a proxy has sent
        return address[:LONGEST_ADDRESS]
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64))
    return address


def add_headers(response: Response) -> Response:
    found: tuple[Budget, Count] | None = flask.g.get("rate_limit")
    if found is not None:
        used, count = found
        response.headers["RateLimit-Policy"] = used.policy
        left = max(0, used.quota - count.number)
        response.headers["RateLimit"] = f'"{used.name}";r={left};t={RateLimited(count.seconds).wait}'
    return response


class Failures:
    """Counts the invalid API keys that come from an address, in this worker."""

    def __init__(self, allowed: int | None) -> None:
        self.allowed = allowed
        self.counted = MemoryCounters()

    def refusal(self) -> RateLimited | None:
        """The answer to a further invalid key from the address of the request, if there were too many."""
        if self.allowed is None:
            return None
        count = self.counted.read(address())
        if count.number < self.allowed:
            return None
        return RateLimited(count.seconds, "Too many invalid API keys from this address. Retry later.")

    def note(self) -> None:
        if self.allowed is not None:
            self.counted.add(address())


def init_app(app: Flask) -> Limiter:
    """Trust the proxies, and add the headers. The caller registers the check."""
    if proxies := app.config["INVENTORY_TRUSTED_PROXIES"]:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=0)  # type: ignore[method-assign]
    limiter = Limiter(app.config, counters(app.config["REDIS_URL"]))
    app.extensions[health.LIMITER] = limiter.state
    app.after_request(add_headers)
    return limiter
