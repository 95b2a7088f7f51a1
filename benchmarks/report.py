"""Results as tables: plain text for the terminal, Markdown for README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks import growth, overhead
from benchmarks.compare import cpu_ratio, own_ratios, spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.compare import Spread

    Table = Sequence[Sequence[str]]

HEADINGS = {
    "peer": "times better than peer",
    "limit": "share of limit",
}
GROWTH_PLOT = "![CPU time per request against ledger rows](growth.png)"
OWN = {
    "keyed-purchase": "an Idempotency-Key: keyed-purchase / purchase",
    "batch": "a line of a batch: batch / (20 * purchase)",
}


def comparison(workloads: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> list[list[str]]:
    """One row for each workload: CPU milliseconds of each server, the ratios, and our rate and latency."""
    servers = list(next(iter(workloads.values())))
    rivals = [name for name in HEADINGS if name in servers]
    rows = [
        [
            "workload",
            *(f"CPU ms, {name}" for name in servers),
            *(HEADINGS[name] for name in rivals),
            "requests/s " + " · ".join(servers),
            "p99 ms " + " · ".join(servers),
        ]
    ]
    for workload, rounds in workloads.items():
        cells = [workload, *(in_words(spread([one["cpu_ms"] for one in rounds[name]]), 3) for name in servers)]
        cells += [in_words(cpu_ratio(rounds[name], rounds["ours"]), 2) for name in rivals]
        for figure, digits in (("per_second", 0), ("p99_ms", 1)):
            medians = (spread([one[figure] for one in rounds[name]]).median for name in servers)
            cells.append(" · ".join(f"{value:,.{digits}f}" for value in medians))
        rows.append(cells)
    return rows


def in_words(values: Spread, digits: int) -> str:
    """A median, with the lowest and the highest value."""
    return f"{values.median:.{digits}f} ({values.low:.{digits}f} - {values.high:.{digits}f})"


def own(workloads: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> list[list[str]]:
    rows = [["ratio of our own CPU times", "median (lowest - highest)"]]
    return rows + [[OWN[name], in_words(found, 2)] for name, found in own_ratios(workloads).items()]


def importing(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> list[list[str]]:
    """Our import beside executemany."""
    rows = [["import of new products", "CPU ms per product", "products/s"]]
    for name, found in rounds.items():
        cells = [
            in_words(spread([one[figure] for one in found]), digits)
            for figure, digits in (("cpu_ms", 4), ("per_second", 0))
        ]
        rows.append([name, *cells])
    ratio = cpu_ratio(rounds["executemany"], rounds["ours"])
    pace = spread(
        [
            ours["per_second"] / plain["per_second"]
            for ours, plain in zip(rounds["ours"], rounds["executemany"], strict=True)
        ]
    )
    return [*rows, ["our rate / executemany's", in_words(ratio, 2), in_words(pace, 2)]]


def growing(result: Mapping[str, Any]) -> list[list[str]]:
    """CPU time of each request at the smallest size, and at the others relative to it."""
    smallest, *larger = result["sizes"]
    rows = [["request", f"CPU ms at {smallest['ledger_rows']:,} rows", *(f"{one['ledger_rows']:,}" for one in larger)]]
    for name, ratios in growth.ratios(result).items():
        rows.append([name, f"{smallest['cpu_ms'][name]:.3f}", *(f"{ratio:.2f}" for ratio in ratios[1:])])
    return rows


def adding(workloads: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> list[list[str]]:
    """What each variant adds to the one that it is compared with."""
    rows = [["variant / compared with", *(f"{name}: ratio of CPU times" for name in workloads)]]
    for variant, found in overhead.ratios(workloads).items():
        rows.append([f"{variant} / {overhead.COMPARED[variant]}", *(in_words(ratio, 3) for ratio in found.values())])
    return rows


def loading(figures: Mapping[str, float]) -> list[list[str]]:
    heading = ["a year of real sales", "lines", "CPU ms per line", "lines/s"]
    cells = [f"{figures['lines']:,}", f"{figures['cpu_ms']:.3f}", f"{figures['per_second']:,.0f}"]
    return [heading, ["500 lines in a transaction", *cells]]


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of a result of ``compare``, ``growth``, ``overhead`` or ``limits``."""
    if result["kind"] == "growth":
        return [growing(result)]
    if result["kind"] == "overhead":
        return [comparison(result["workloads"]), adding(result["workloads"])]
    if result["kind"] == "limits":
        return [[["what", "figure"], *([name, figure] for name, figure in result["figures"].items())]]
    found: list[Table] = [comparison(result["workloads"])] if result["workloads"] else []
    if len(ratios := own(result["workloads"])) > 1:
        found.append(ratios)
    if "import" in result:
        found.append(importing(result["import"]))
    if result.get("retail"):
        found.append(loading(result["retail"]))
    return found


def circumstances(result: Mapping[str, Any]) -> str:
    machine = dict(result["machine"])
    database, cpu, cores, commit = (machine.pop(name) for name in ("database", "cpu", "cores", "commit"))
    size = f", {result['size']['products']:,} products" if "size" in result else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine.items())
    return f"{database}{size}; {cpu}, {cores} cores; {versions}; commit {commit}."


def plain(result: Mapping[str, Any]) -> str:
    """Aligned columns."""
    return "\n\n".join([circumstances(result), *(aligned(table) for table in tables(result))])


def aligned(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def markdown(result: Mapping[str, Any]) -> str:
    plots = [GROWTH_PLOT] if result["kind"] == "growth" else []
    return "\n\n".join([circumstances(result), *(markdown_table(table) for table in tables(result)), *plots])


def markdown_table(table: Table) -> str:
    heading, *rows = table
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows))


def name_of(result: Mapping[str, Any]) -> str:
    """The name of a result's place in README.md."""
    return str(result["engine"] if result["kind"] == "compare" else f"{result['kind']} {result['engine']}")


def between_markers(page: str, name: str, content: str) -> str:
    """The page with other content between the markers of ``name``."""
    begin, end = f"<!-- results: {name} -->", f"<!-- end of results: {name} -->"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"The page lacks its markers: {begin} {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"
