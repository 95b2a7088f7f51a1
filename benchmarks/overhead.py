"""What access control and observation add to a request: our service in variants, in turn."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.catalogue import Size
from benchmarks.compare import Plan, cpu_ratio, measure_all
from benchmarks.databases import new_database
from benchmarks.machine import describe
from benchmarks.servers import running
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.compare import Spread
    from benchmarks.workloads import Workload

KEYS = {"INVENTORY_AUTH": "keys", "INVENTORY_KEY_PEPPER": "a pepper for benchmarks"}
VARIANTS: Mapping[str, Mapping[str, str]] = {
    "bare": {},
    "keys": KEYS,  # with rate limits, counted in memory
    "logged": {"INVENTORY_LOG_LEVEL": "info"},
}
COMPARED = {"keys": "bare", "logged": "bare"}
CHOSEN = ("detail", "purchase")


def measure_overhead(engine: str, rounds: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure each variant on one engine. Returns the result as JSON values."""
    plan = Plan(names=CHOSEN, rounds=rounds, seconds=seconds, size=Size())
    with new_database(engine) as database, ExitStack() as stack:
        say(f"{database.version()}: {plan.size}")
        database.fill(plan.size)
        key = database.flask("keys", "create", "bench", "--scopes", "read,stock", **KEYS).strip()
        servers = [
            replace(stack.enter_context(running("ours", database, **settings)), name=name)
            for name, settings in VARIANTS.items()
        ]
        chosen = [with_key(WORKLOADS[name], key) for name in plan.names]
        return {
            "kind": "overhead",
            "engine": engine,
            "machine": describe(database),
            "workloads": {workload.name: measure_all(workload, servers, plan, say) for workload in chosen},
        }


def with_key(workload: Workload, key: str) -> Workload:
    """All variants get the same requests. Without authentication the key is ignored."""
    template = workload.template
    return replace(workload, template=replace(template, headers={**template.headers, "Authorization": f"Bearer {key}"}))


def ratios(
    workloads: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]],
) -> dict[str, dict[str, Spread]]:
    """CPU time of each variant relative to the one that it is compared with, by variant and workload."""
    return {
        variant: {name: cpu_ratio(rounds[variant], rounds[base]) for name, rounds in workloads.items()}
        for variant, base in COMPARED.items()
    }
