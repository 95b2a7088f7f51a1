"""Our service and its rivals under the same workloads, in turn."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import imports, retail
from benchmarks.catalogue import Size
from benchmarks.check import check
from benchmarks.databases import new_database
from benchmarks.machine import describe
from benchmarks.servers import names, running
from benchmarks.workloads import BATCH_LINES, WORKLOADS, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.databases import Database
    from benchmarks.servers import Server
    from benchmarks.workloads import Workload

# Measured apart from the workloads, in databases of their own.
STEPS = ("import", "retail")
IMPORTED_PRODUCTS = 30_000
WARM_UP_SECONDS = 1


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Plan:
    """What is measured: names of workloads and steps, rounds of each server, seconds of a round."""

    names: Sequence[str] = (*WORKLOADS, *STEPS)
    rounds: int = 5
    seconds: float = 5
    size: Size = field(default_factory=Size)


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def cpu_ratio(over: Sequence[Mapping[str, float]], under: Sequence[Mapping[str, float]], scale: float = 1) -> Spread:
    """CPU time of one server divided by that of another, round by round: a slow moment of the machine hits both."""
    pairs = zip(over, under, strict=True)
    return spread([one["cpu_ms"] / (scale * other["cpu_ms"]) for one, other in pairs])


def compare(engine: str, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure on one engine. Returns the result as JSON values."""
    with new_database(engine) as database:
        say(f"{database.version()}: {plan.size}")
        database.fill(plan.size)
        result = {
            "kind": "compare",
            "engine": engine,
            "machine": describe(database),
            "size": {"products": plan.size.products, "ledger_rows": plan.size.ledger_rows},
            "seconds": plan.seconds,
            "workloads": compare_workloads(database, plan, say),
        }
        database.verify()
    if "import" in plan.names:
        result["import"] = imports.compare(engine, IMPORTED_PRODUCTS, plan.rounds, say)
    if "retail" in plan.names:
        result["retail"] = retail.load(engine, say)
    return result


def compare_workloads(
    database: Database, plan: Plan, say: Callable[[str], None]
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """The rounds of each workload and server. All servers run meanwhile; one at a time is used."""
    with ExitStack() as stack:
        servers = [stack.enter_context(running(name, database)) for name in names(database.engine)]
        check(servers)
        say("The rivals answer as we do.")
        chosen = [WORKLOADS[name] for name in plan.names if name in WORKLOADS]
        return {workload.name: measure_all(workload, servers, plan, say) for workload in chosen}


def measure_all(
    workload: Workload, servers: Sequence[Server], plan: Plan, say: Callable[[str], None]
) -> dict[str, list[dict[str, float]]]:
    """Rounds of each server, in turn."""
    rounds: dict[str, list[dict[str, float]]] = defaultdict(list)
    for server in servers:
        measure(workload, server, plan.size, WARM_UP_SECONDS)
    for _ in range(plan.rounds):
        for server in servers:
            rounds[server.name].append(asdict(measure(workload, server, plan.size, plan.seconds)))
    figures = ", ".join(f"{name} {median(one['cpu_ms'] for one in found):.3f}" for name, found in rounds.items())
    say(f"  {workload.name}: CPU ms per request: {figures}")
    return rounds


def own_ratios(workloads: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> dict[str, Spread]:
    """What a key adds to a purchase, and what a line costs in a batch compared with a request of its own."""
    found = {}
    for name, scale in (("keyed-purchase", 1), ("batch", BATCH_LINES)):
        if {name, "purchase"} <= workloads.keys():
            found[name] = cpu_ratio(workloads[name]["ours"], workloads["purchase"]["ours"], scale)
    return found
