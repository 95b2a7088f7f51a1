"""A gift shop's catalogue of 3,958 articles, imported and exported, and its busiest day replayed by eight clients."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from tests import realdata, retail
from tests.builders import assert_ledger_is_consistent
from tests.clients import HttpClient, post_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask import Flask

    from tests.servers import Gunicorn

pytestmark = [pytest.mark.slow, realdata.needs("online-retail")]

ARTICLES = 3_958
DAY = {"sale": 5_297, "return": 26, "write-off": 3, "found or free": 5}
CLIENTS = 8


@cache
def shop() -> tuple[str, Sequence[retail.Line]]:
    """The catalogue as a product file, and the lines of the busiest day; reading the year takes some seconds."""
    day: list[retail.Line] = []

    def year() -> Any:
        for line in retail.lines():
            if line.time.startswith(retail.BUSIEST_DAY):
                day.append(line)
            yield line

    found = retail.articles(year())
    return retail.product_file((article, article.opening_for_the_day) for article in found), day


def body(line: retail.Line) -> dict[str, Any]:
    """The line as a client sends it."""
    movement = asdict(line.movement)
    return {"sku": line.code, **{name: value for name, value in movement.items() if value is not None}}


def compared_fields(movement: dict[str, Any]) -> list[Any]:
    return [movement[name] for name in ("transaction_type", "quantity", "reason", "reference", "notes")]


def import_catalogue(client: HttpClient) -> dict[str, Any]:
    catalogue, _day = shop()
    answer = client.post_csv("/import/products", catalogue)
    assert answer.status == 200, answer.content
    imported: dict[str, Any] = answer.json
    return imported


def test_import_of_exported_catalogue_changes_nothing(app: Flask, server: Gunicorn) -> None:
    with HttpClient(server.url) as client:
        start = time.perf_counter()
        assert import_catalogue(client)["created"] == ARTICLES
        seconds = time.perf_counter() - start
        print(f"\n{ARTICLES} articles imported in {seconds:.1f} s: {ARTICLES / seconds:.0f} a second")  # noqa: T201
        before = client.get("/export/products?format=jsonl").content
        exported = client.get("/export/products").content.decode()

        imported = client.post_csv("/import/products", exported).json

        assert (imported["rows"], imported["unchanged"]) == (ARTICLES, ARTICLES)
        assert (imported["created"], imported["updated"], imported["stock_transactions"]) == (0, 0, 0)
        assert client.get("/export/products?format=jsonl").content == before
    assert_ledger_is_consistent(app)


def test_replaying_the_busiest_day_concurrently_matches_the_file(app: Flask, server: Gunicorn) -> None:
    _catalogue, day = shop()
    assert Counter(line.kind for line in day) == DAY
    with HttpClient(server.url) as client:
        import_catalogue(client)

    start = time.perf_counter()
    answers = post_all(server.url, "/transactions", map(body, day), clients=CLIENTS)
    seconds = time.perf_counter() - start
    rate = len(answers) / seconds
    print(f"\n{len(answers)} lines by {CLIENTS} clients in {seconds:.1f} s: {rate:.0f} a second")  # noqa: T201

    assert Counter(answer.status for answer in answers) == {201: len(day)}
    with HttpClient(server.url) as client:
        ledger = map(json.loads, client.get("/export/transactions?format=jsonl").content.splitlines())
    moved = [row for row in ledger if row["reason"] != "opening"]
    assert Counter((row["sku"].casefold(), row["delta"], *compared_fields(row)) for row in moved) == Counter(
        (line.article, line.movement.delta, *compared_fields(asdict(line.movement))) for line in day
    )
    assert {row["notes"] for row in moved if row["reason"] == "loss"} == {"CHECK", "???", "dotcom"}
    assert_ledger_is_consistent(app)
