"""Memory of a worker, start-up time, and how long others wait beside an import."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Self

import psutil

from benchmarks.catalogue import Size, sku_of
from benchmarks.cpu import tree
from benchmarks.databases import ROOT, new_database
from benchmarks.imports import csv_of
from benchmarks.machine import describe
from benchmarks.servers import Request, running
from benchmarks.workloads import WORKLOADS, post, run_wrk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.databases import Database
    from benchmarks.servers import Server

MEBIBYTE = 1024 * 1024
# One worker serves everything, so that its memory shows each step.
ONE_WORKER = {"INVENTORY_WORKERS": "1"}
WARM_UP_REQUESTS = 1_000
SAME_WRITERS = 4
CSV = {"Content-Type": "text/csv"}


@dataclass(frozen=True)
class Amounts:
    """How much is exported, imported and served. ``beside`` are the products imported beside other writers."""

    exported: Size
    imported_bytes: int
    requests: int
    beside: Size

    @classmethod
    def scaled(cls, scale: float) -> Self:
        return cls(
            Size(int(50_000 * scale)), int(100 * MEBIBYTE * scale), int(100_000 * scale), Size(int(100_000 * scale))
        )


STARTS = {
    'python -c "import inventory"': ("-c", "import inventory"),
    "flask --app wsgi --help": ("-m", "flask", "--app", "wsgi", "--help"),
}


def measure_limits(engine: str, amounts: Amounts, say: Callable[[str], None]) -> dict[str, Any]:
    """Returns the result as JSON values: for each figure, its value with its unit."""
    with new_database(engine) as database:
        machine = describe(database)
        figures = memory(database, amounts, say)
    with new_database(engine) as database:
        figures |= beside_import(database, amounts.beside, say)
        figures |= start_up(database, say)
    return {"kind": "limits", "engine": engine, "machine": machine, "figures": figures}


def memory(database: Database, amounts: Amounts, say: Callable[[str], None]) -> dict[str, str]:
    """Memory of a worker at rest, and what it gains with each long operation."""
    database.fill(amounts.exported)
    figures = {}
    with running("ours", database, **ONE_WORKER) as server:
        worker = psutil.Process(tree(server.pid)[-1])
        figures["a worker at rest"] = (
            f"{worker.memory_info().rss / MEBIBYTE:.0f} MiB RSS, {worker.memory_full_info().uss / MEBIBYTE:.0f} MiB USS"
        )
        for name, (warm_up, work) in steps(server, amounts).items():
            warm_up()
            before = worker.memory_info().rss
            work()
            figures[f"gained by {name}"] = f"{(worker.memory_info().rss - before) / MEBIBYTE:.1f} MiB"
            say(f"  {name}: {figures[f'gained by {name}']}")
    return figures


def steps(server: Server, amounts: Amounts) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Operations, each with a smaller one of the same kind that warms up."""
    listing = Request("GET", "/transactions?limit=1000")
    large = csv_of_bytes(amounts.imported_bytes)
    return {
        f"exporting {amounts.exported.ledger_rows:,} ledger rows": (
            lambda: download(server, "/export/transactions?format=csv&product_id=1"),
            lambda: download(server, "/export/transactions?format=csv"),
        ),
        "100 lists of 1,000 rows": (
            lambda: server.send(listing),
            lambda: [server.send(listing) for _ in range(100)],
        ),
        f"{amounts.requests:,} requests": (
            lambda: serve(server, WARM_UP_REQUESTS, amounts.exported),
            lambda: serve(server, amounts.requests, amounts.exported),
        ),
        f"importing {amounts.imported_bytes // MEBIBYTE} MiB": (
            lambda: import_file(server, csv_of(Size(1_000)).replace("SKU-", "WARM-")),
            lambda: import_file(server, large),
        ),
    }


def download(server: Server, path: str) -> int:
    """Read a response without keeping it. Returns its number of bytes."""
    total = 0
    with server.opened(Request("GET", path)) as response:
        while block := response.read(MEBIBYTE):
            total += len(block)
    return total


def serve(server: Server, count: int, size: Size) -> None:
    """Send at least ``count`` requests for random products."""
    done = 0
    while done < count:
        done += run_wrk(server, WORKLOADS["detail"].template, size, 5)["requests"]


def csv_of_bytes(size: int) -> str:
    """New products as a file of about ``size`` bytes."""
    padding = "x" * 900
    rows = (f"NEW-{number:07},Padded,{padding},5.00,7,Category 1" for number in range(size // 940))
    return "\n".join(["sku,name,description,price,quantity_on_hand,category", *rows])


def import_file(server: Server, body: str) -> None:
    answer = server.send(Request("POST", "/import/products", body, CSV))
    if answer.status != 200:
        raise RuntimeError(f"The import answered {answer.status}: {answer.body[:500]!r}")


def start_up(database: Database, say: Callable[[str], None]) -> dict[str, str]:
    """Wall and CPU seconds of commands, the median of five. The source has been compiled before, as in the image."""
    timed_run(STARTS["flask --app wsgi --help"], database)
    figures = {}
    for name, arguments in STARTS.items():
        times = [timed_run(arguments, database) for _ in range(5)]
        wall, cpu = (median(column) for column in zip(*times, strict=True))
        figures[name] = f"{wall:.2f} s, {cpu:.2f} s CPU"
        say(f"  {name}: {figures[name]}")
    return figures


def timed_run(arguments: tuple[str, ...], database: Database) -> tuple[float, float]:
    environment = database.environment(PYTHONDONTWRITEBYTECODE="")
    start, before = time.perf_counter(), psutil.Process().cpu_times()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = psutil.Process().cpu_times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, cpu


def beside_import(database: Database, size: Size, say: Callable[[str], None]) -> dict[str, str]:
    """Waits of another writer while an import changes every product, and how often it is refused."""
    database.fill(size)
    body = counts_of(size)
    with running("ours", database) as server:
        step = size.products // SAME_WRITERS
        other = [Writer(server, own_product(server))]
        same = [Writer(server, number) for number in range(step, size.products + 1, step)]
        start = time.perf_counter()
        with ExitStack() as stack:
            for writer in other + same:
                stack.enter_context(writer.running())
            import_file(server, body)
            seconds = time.perf_counter() - start
    figures = {
        f"importing {size.products:,} counts": f"{seconds:.1f} s",
        "longest wait of a writer of another product": in_words(other),
        f"longest wait of {len(same)} writers of imported products": in_words(same),
    }
    for name, figure in figures.items():
        say(f"  {name}: {figure}")
    return figures


def own_product(server: Server) -> int:
    """A new product, which no file mentions."""
    body = '{"sku": "OTHER", "name": "Other", "price": 1, "category_id": 1, "quantity_on_hand": 1000000}'
    return int(server.send(post("/products", body)).json["id"])


def counts_of(size: Size) -> str:
    """A file that sets the stock of all products to what it was not."""
    return "\n".join(["sku,quantity_on_hand", *(f"{sku_of(number)},5000" for number in range(1, size.products + 1))])


class Writer:
    """Sales of one product, one after another, as long as its block runs."""

    def __init__(self, server: Server, product_id: int) -> None:
        self.server = server
        self.request = post(
            "/transactions", f'{{"product_id": {product_id}, "transaction_type": "purchase", "quantity": 1}}'
        )
        self.waits: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.stopped = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.write)
        thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            thread.join()

    def write(self) -> None:
        while not self.stopped.wait(0.005):
            start = time.perf_counter()
            status = self.server.send(self.request).status
            self.waits.append(time.perf_counter() - start)
            self.statuses[status] += 1


def in_words(writers: Sequence[Writer]) -> str:
    statuses: Counter[int] = sum((writer.statuses for writer in writers), Counter())
    others = statuses.keys() - {201, 503}
    unexpected = "".join(f", {statuses[status]} answered with {status}" for status in sorted(others))
    longest = max(wait for writer in writers for wait in writer.waits)
    return f"{longest:.2f} s ({statuses.total():,} sales, {statuses[503]} refused with 503{unexpected})"
