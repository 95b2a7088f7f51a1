"""The commands of the benchmarks; the Makefile's ``bench`` targets call them."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks import growth, limits, overhead
from benchmarks import report as reports
from benchmarks.catalogue import Size
from benchmarks.compare import STEPS, Plan, compare
from benchmarks.databases import ENGINES, ROOT
from benchmarks.profiles import profile
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BUILD = ROOT / "build"
QUICK_PLAN = Plan(names=("detail", "list", "low-stock", "purchase", "sale"), rounds=3, seconds=1)


def chosen_engines() -> list[str]:
    names = os.environ.get("BENCH_ENGINES", ",".join(ENGINES)).split(",")
    if unknown := set(names) - {*ENGINES}:
        raise click.ClickException(f"BENCH_ENGINES: unknown engine: {', '.join(sorted(unknown))}")
    return names


def save(name: str, result: Mapping[str, object]) -> Path:
    BUILD.mkdir(exist_ok=True)
    path = BUILD / f"bench-{name}.json"
    path.write_text(json.dumps(result, indent=1))
    return path


@click.group()
def main() -> None:
    """Measure the service. The results are written to build/."""
    # So that servers are stopped and databases dropped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@main.command("compare")
@click.option("--workload", "names", multiple=True, type=click.Choice([*WORKLOADS, *STEPS]), help="Only these.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of each server.  [default: 5, with --quick 3]")
@click.option("--seconds", type=click.FloatRange(1), help="Seconds of a round.  [default: 5, with --quick 1]")
@click.option(
    "--products", default=10_000, show_default=True, type=click.IntRange(1_000), help="Size of the catalogue."
)
@click.option("--quick", is_flag=True, help="Some workloads on PostgreSQL.")
def run_compare(names: Sequence[str], rounds: int | None, seconds: float | None, products: int, *, quick: bool) -> None:
    """Compare CPU time per request with that of the rivals."""
    defaults = QUICK_PLAN if quick else Plan()
    plan = Plan(
        names=names or defaults.names,
        rounds=rounds or defaults.rounds,
        seconds=seconds or defaults.seconds,
        size=Size(products),
    )
    for engine in ["postgresql"] if quick else chosen_engines():
        result = compare(engine, plan, click.echo)
        path = save("quick" if quick else engine, result)
        click.echo(f"\n{reports.plain(result)}\n\nWritten to {path.relative_to(ROOT)}.")


@main.command("growth")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Rounds of each size.")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(1), help="Seconds of a round.")
@click.option("--products", multiple=True, type=click.IntRange(1_000), help="Sizes of the catalogue.")
def run_growth(rounds: int, seconds: float, products: Sequence[int]) -> None:
    """Measure CPU time per request as the ledger grows, and plot it."""
    sizes = [Size(count) for count in products] or growth.SIZES
    results = [growth.measure_growth(engine, sizes, rounds, seconds, click.echo) for engine in chosen_engines()]
    for result in results:
        save(f"growth-{result['engine']}", result)
        click.echo(f"\n{reports.plain(result)}")
    growth.plot(results, Path(__file__).with_name("growth.png"))


@main.command("limits")
@click.option("--scale", default=1.0, show_default=True, type=click.FloatRange(0.02, 1), help="Share of all amounts.")
def run_limits(scale: float) -> None:
    """Measure memory, start-up time, and how long others wait beside an import."""
    for engine in chosen_engines():
        click.echo(engine)
        save(f"limits-{engine}", limits.measure_limits(engine, limits.Amounts.scaled(scale), click.echo))


@main.command("overhead")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1), help="Rounds of each variant.")
@click.option("--seconds", default=2.0, show_default=True, type=click.FloatRange(1), help="Seconds of a round.")
def run_overhead(rounds: int, seconds: float) -> None:
    """Measure what access control and observation add to a request."""
    for engine in chosen_engines():
        result = overhead.measure_overhead(engine, rounds, seconds, click.echo)
        save(f"overhead-{engine}", result)
        click.echo(f"\n{reports.plain(result)}")


@main.command("profile")
@click.argument("workload", type=click.Choice([*WORKLOADS]))
@click.option("--seconds", default=10, show_default=True, type=click.IntRange(1), help="Seconds of the recording.")
def run_profile(workload: str, seconds: int) -> None:
    """Record a flame graph of a worker under a workload, with py-spy."""
    BUILD.mkdir(exist_ok=True)
    path = BUILD / f"{workload}.svg"
    profile(chosen_engines()[0], WORKLOADS[workload], seconds, path)
    click.echo(f"Written to {path.relative_to(ROOT)}.")


@main.command("report")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def run_report(files: Sequence[Path]) -> None:
    """Write results to benchmarks/README.md, each between its markers."""
    page = Path(__file__).with_name("README.md")
    text = page.read_text()
    for file in files:
        result = json.loads(file.read_text())
        text = reports.between_markers(text, reports.name_of(result), reports.markdown(result))
    page.write_text(text)


if __name__ == "__main__":
    main()
