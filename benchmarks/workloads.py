"""The requests that are measured, and one round of them with wrk."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.catalogue import (
    CATEGORIES,
    FIRST_RANDOM_PRODUCT,
    HOT_PRODUCT,
    MATERIALS,
    QUIET_PRODUCT,
    Size,
)
from benchmarks.cpu import await_idle, metered
from benchmarks.servers import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.servers import Server

SCRIPT = Path(__file__).with_name("requests.lua")
WRK_THREADS, CONNECTIONS = 2, 16
EXPORTS = 3
BATCH_LINES = 20
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Workload:
    """Requests made from a template; requests.lua explains its places. ``{etag}`` is that of the path, read before."""

    name: str
    description: str
    template: Request
    status: int = 200
    # One at a time, because each takes long.
    sequential: bool = False


@dataclass(frozen=True)
class Round:
    """What one round measured."""

    requests: int
    # CPU milliseconds per request, of the server and its database sessions.
    cpu_ms: float
    per_second: float
    p99_ms: float


def purchase(product: str, kind: str = "purchase") -> str:
    return f'{{"product_id": {product}, "transaction_type": "{kind}", "quantity": 1}}'


def post(path: str, body: str, **headers: str) -> Request:
    return Request("POST", path, body, JSON | {name.replace("_", "-"): value for name, value in headers.items()})


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("detail", "a random product with its latest 50 movements", Request("GET", "/products/{product}")),
        Workload("list", "100 products", Request("GET", "/products?limit=100")),
        Workload(
            "search",
            "20 products of a category with a word in their names",
            Request("GET", "/products?search={word}&category_id={category}&limit=20"),
        ),
        Workload("low-stock", "the 100 products to reorder first", Request("GET", "/products/low-stock")),
        Workload("purchase", "a purchase of a random product", post("/transactions", purchase("{product}")), 201),
        Workload(
            "sale",
            "a sale of one product, the same in all requests",
            post("/transactions", purchase(str(HOT_PRODUCT), "sale")),
            201,
        ),
        Workload(
            "keyed-purchase",
            "a purchase with a new Idempotency-Key",
            post("/transactions", purchase("{product}"), Idempotency_Key="{key}"),
            201,
        ),
        Workload(
            "batch",
            f"{BATCH_LINES} purchases of random products, all or none",
            post("/transactions/batch", f'{{"lines": [{", ".join([purchase("{product}")] * BATCH_LINES)}]}}'),
            201,
        ),
        Workload(
            "not-modified",
            "a product that has not changed, with If-None-Match",
            Request("GET", f"/products/{QUIET_PRODUCT}", headers={"If-None-Match": "{etag}"}),
            304,
        ),
        Workload("export", "all products as CSV", Request("GET", "/export/products?format=csv"), sequential=True),
    )
}


def prepared(workload: Workload, server: Server) -> Request:
    """The template with what is the same for all requests of a round."""
    template = workload.template
    if "{etag}" not in template.headers.values():
        return template
    tag = server.send(Request("GET", template.path)).headers["etag"]
    headers = {name: tag if value == "{etag}" else value for name, value in template.headers.items()}
    return Request(template.method, template.path, template.body, headers)


def sample(template: Request) -> Request:
    """One request from a template, with fixed values."""
    products = count(FIRST_RANDOM_PRODUCT)
    draw: dict[str, Callable[[], object]] = {
        "{product}": lambda: next(products),
        "{category}": lambda: 1,
        "{word}": lambda: MATERIALS[0],
        "{key}": lambda: f"sample-{time.time_ns()}",
    }

    def fill(text: str) -> str:
        return re.sub("|".join(draw), lambda place: str(draw[place[0]]()), text)

    headers = {name: fill(value) for name, value in template.headers.items()}
    return Request(template.method, fill(template.path), fill(template.body), headers)


def measure(workload: Workload, server: Server, size: Size, seconds: float) -> Round:
    """Run one round. Raises RuntimeError if a request fails."""
    template = prepared(workload, server)
    with metered(server.pid, server.database) as meter:
        if workload.sequential:
            summary = send_some(server, template, workload.status)
        else:
            summary = run_wrk(server, template, size, seconds)
            await_idle(server.pid, server.database)
    if summary["failed"] or not summary["requests"]:
        raise RuntimeError(f"{workload.name}: {summary['failed']} of {summary['requests']} requests failed.")
    return Round(
        requests=summary["requests"],
        cpu_ms=1000 * meter.spent / (summary["requests"] + summary.get("unanswered", 0)),
        per_second=summary["requests"] / summary["seconds"],
        p99_ms=summary["p99_ms"],
    )


def send_some(server: Server, request: Request, status: int) -> dict[str, Any]:
    """Send a few requests one after another. The result is like that of requests.lua."""
    times, failed = [], 0
    for _ in range(EXPORTS):
        start = time.perf_counter()
        failed += server.send(request).status != status
        times.append(time.perf_counter() - start)
    return {"requests": EXPORTS, "seconds": sum(times), "failed": failed, "p99_ms": 1000 * max(times)}


def run_wrk(server: Server, template: Request, size: Size, seconds: float) -> dict[str, Any]:
    """Run wrk on a template. Returns what requests.lua prints."""
    given = (
        template.method,
        template.path,
        template.body,
        time.time_ns() % 10**9,
        FIRST_RANDOM_PRODUCT,
        size.products,
        CATEGORIES,
        " ".join(MATERIALS),
        *(part for header in template.headers.items() for part in header),
    )
    load = (f"-t{WRK_THREADS}", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", "--timeout", "30s", "-s", str(SCRIPT))
    command = ["wrk", *load, server.url, "--", *map(str, given)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    summary: dict[str, Any] = json.loads(printed.splitlines()[-1])
    # At the end each connection has sent a request whose answer wrk does not read. The server does its work, too.
    return summary | {"unanswered": CONNECTIONS}
