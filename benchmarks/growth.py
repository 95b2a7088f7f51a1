"""CPU time per request as the ledger grows."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from importlib import import_module
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.catalogue import FIRST_RANDOM_PRODUCT, Size
from benchmarks.databases import new_database
from benchmarks.machine import describe
from benchmarks.servers import Request, running
from benchmarks.workloads import WORKLOADS, Workload, measure, post, purchase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.servers import Server

SIZES = (Size(10_000), Size(30_000), Size(100_000))
COMMON = ("detail", "list", "search", "low-stock", "purchase", "sale", "not-modified")
PAGE = 100
WARM_UP_SECONDS = 1
FIRST_PAGE = f"/transactions?sort=id&limit={PAGE}"
FEED = f"/transactions/feed?limit={PAGE}"


def measure_growth(
    engine: str, sizes: Sequence[Size], rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure databases of all sizes, in turn. Returns the result as JSON values."""
    with ExitStack() as stack:
        servers = [(size, stack.enter_context(filled(engine, size, say))) for size in sizes]
        found: list[dict[str, Any]] = [
            {"products": size.products, "ledger_rows": size.ledger_rows, "cpu_ms": {}} for size in sizes
        ]
        for name in [*COMMON, *PLACES]:
            for one, cpu_ms in zip(found, cpu_of(name, servers, rounds, seconds), strict=True):
                one["cpu_ms"][name] = cpu_ms
            figures = ", ".join(f"{one['cpu_ms'][name]:.3f}" for one in found)
            say(f"  {name}: {figures} CPU ms per request")
        return {"kind": "growth", "engine": engine, "machine": describe(servers[0][1].database), "sizes": found}


@contextmanager
def filled(engine: str, size: Size, say: Callable[[str], None]) -> Iterator[Server]:
    """Our service on a new database."""
    say(f"{engine}: {size}")
    with new_database(engine) as database:
        database.fill(size)
        with running("ours", database) as server:
            yield server


def cpu_of(name: str, servers: Sequence[tuple[Size, Server]], rounds: int, seconds: float) -> list[float]:
    """Medians of CPU milliseconds per request, after a round to warm up."""
    workloads = [workload_of(name, server, size) for size, server in servers]
    cpu_ms: list[list[float]] = [[] for _ in servers]
    for number in range(rounds + 1):
        for workload, (size, server), found in zip(workloads, servers, cpu_ms, strict=True):
            measured = measure(workload, server, size, seconds if number else WARM_UP_SECONDS)
            if number:
                found.append(measured.cpu_ms)
    return [median(found) for found in cpu_ms]


def workload_of(name: str, server: Server, size: Size) -> Workload:
    return WORKLOADS[name] if name in WORKLOADS else Workload(name, "", Request("GET", PLACES[name](server, size)))


def last_page(server: Server, _size: Size) -> str:
    """The cursor of the page before it, found from the total."""
    rows = server.send(Request("GET", f"{FIRST_PAGE}&include_total=true")).headers["x-total-count"]
    return next_of(server, f"{FIRST_PAGE}&skip={int(rows) - 2 * PAGE}")


def end_of_feed(server: Server, _size: Size) -> str:
    """The feed from the present on, followed by a page of purchases."""
    end = next_of(server, f"{FEED}&after=now")
    for _ in range(PAGE):
        server.send(post("/transactions", purchase(str(FIRST_RANDOM_PRODUCT))))
    return end


def next_of(server: Server, path: str) -> str:
    """The address of the next page."""
    link = server.send(Request("GET", path)).headers["link"]
    match = re.search(r'<([^>]*)>; *rel="?next', link)
    if match is None:
        raise RuntimeError(f"{path} has no next page: {link}")
    return re.sub("^https?://[^/]*", "", match[1])


# The same page at the start and at the end, and totals.
PLACES: dict[str, Callable[[Server, Size], str]] = {
    "first page": lambda _server, _size: FIRST_PAGE,
    "last page": last_page,
    "feed, start": lambda _server, _size: FEED,
    "feed, end": end_of_feed,
    "total of products": lambda _server, _size: "/products?include_total=true",
    "total of the ledger": lambda _server, _size: "/transactions?include_total=true",
}


def ratios(result: Mapping[str, Any]) -> dict[str, list[float]]:
    """CPU time per request at each size, divided by that at the smallest."""
    smallest, *_ = sizes = [size["cpu_ms"] for size in result["sizes"]]
    return {name: [size[name] / smallest[name] for size in sizes] for name in smallest}


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """CPU milliseconds per request against ledger rows, both axes logarithmic, one panel for each engine."""
    figure_module = import_module("matplotlib.figure")  # installed for the benchmarks only
    colors = import_module("matplotlib").colormaps["tab20"].colors  # more than the default
    figure = figure_module.Figure(figsize=(7 * len(results) + 2, 6), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, result in zip(panels, results, strict=True):
        rows = [size["ledger_rows"] for size in result["sizes"]]
        axes.set_prop_cycle(color=colors)
        for name in result["sizes"][0]["cpu_ms"]:
            axes.plot(rows, [size["cpu_ms"][name] for size in result["sizes"]], marker="o", label=name)
        axes.set(xscale="log", yscale="log", xlabel="ledger rows", ylabel="CPU ms per request")
        axes.set_xticks(rows, [f"{count:,}" for count in rows])
        axes.set_title(result["machine"]["database"])
        axes.grid(visible=True, which="both", alpha=0.3)
    panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)
