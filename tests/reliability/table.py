"""Writes the figures of one run of the reliability tests into a page, between its two markers.

    python -m tests.reliability.table FIGURES.jsonl PAGE.md

Reads the lines that the tests append to the file that TEST_RELIABILITY_FIGURES names.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from inventory import create_app
from inventory.database.base import db
from inventory.database.figures import server_version
from tests.postgresql import find_server
from tests.reliability.figures import in_words

BEGIN = "<!-- figures: written by make reliability-report -->"
END = "<!-- end of figures -->"
ENGINES = ("sqlite", "postgresql")


def table(lines: list[dict[str, Any]], headings: tuple[str, ...]) -> str:
    """One row for each test in the order of the run, one column for each engine."""
    expected_results = {line["test"]: line["expected_result"] for line in lines}
    figures = {(line["test"], line["engine"]): in_words(line["figures"]) for line in lines}
    rows = [("Test", "Expected result", *headings), ("---",) * (2 + len(headings))]
    rows += [
        (test, expected_result, *(figures.get((test, engine), "not applicable") for engine in ENGINES))
        for test, expected_result in expected_results.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def between_markers(page: str, content: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"The page lacks its markers: {BEGIN} {END}")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def versions() -> tuple[str, str]:
    server = find_server()
    return version("sqlite://"), version(server.address) if server else "PostgreSQL"


def version(url: str) -> str:
    app = create_app({"DATABASE_URL": url})
    with app.app_context():
        return server_version(db.session.connection())


def main(figures: Path, page: Path) -> None:
    lines = [json.loads(line) for line in figures.read_text().splitlines()]
    ran_on = f"One run on {os.cpu_count()} cores."
    page.write_text(between_markers(page.read_text(), f"{ran_on}\n\n{table(lines, versions())}"))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
