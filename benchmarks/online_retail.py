"""Loads one year of sales of a gift shop, 541,909 lines in the order of their dates, with ``record``.

    python -m benchmarks.online_retail postgresql://127.0.0.1/new_database

The database must be migrated and empty. The data must be where tests/realdata.py expects it. Exits with 1 if the ledger
does not match the control totals of the file.
"""

from __future__ import annotations

import io
import sys
import time
from itertools import islice
from typing import TYPE_CHECKING

import click
from sqlalchemy import case, func, select

from inventory import create_app
from inventory.database.base import db
from inventory.database.figures import server_version
from inventory.database.unit_of_work import unit_of_work
from inventory.import_export import importer
from inventory.models.category import Category
from inventory.models.product import Product
from inventory.models.transaction import Transaction
from inventory.transactions.service import record
from tests import realdata, retail
from tests.builders import assert_ledger_is_consistent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Ledger rows by reason; sales have none.
EXPECTED = {
    None: retail.KINDS["sale"],
    "return": retail.KINDS["return"],
    "loss": retail.KINDS["write-off"],
    "other": retail.KINDS["found or free"] + retail.KINDS["bad debt"],
}


def import_articles() -> None:
    """Import all articles with the smallest opening stock that lasts for the year."""
    articles = retail.articles(retail.lines())
    file = retail.product_file((article, article.opening_for_the_year) for article in articles)
    start = time.perf_counter()
    outcome = importer.import_products(io.BytesIO(file.encode()))
    print_pace("articles imported", outcome.rows, time.perf_counter() - start)


def load_year(chunk: int) -> None:
    product_ids = {row.sku_folded: row.id for row in db.session.execute(select(Product.sku_folded, Product.id))}
    year, done = retail.lines(), 0
    start = time.perf_counter()
    with click.progressbar(length=retail.LINES, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        while lines := list(islice(year, chunk)):
            load(lines, product_ids)
            done += len(lines)
            bar.update(len(lines))
    print_pace(f"lines recorded, {chunk} in a transaction", done, time.perf_counter() - start)


@unit_of_work
def load(lines: Sequence[retail.Line], product_ids: Mapping[str, int]) -> None:
    for line in lines:
        record(product_ids[line.article], line.movement)


def print_pace(what: str, rows: int, seconds: float) -> None:
    print(f"{rows:,} {what} in {seconds:.1f} s: {rows / seconds:,.0f} a second")


def adds_up() -> bool:
    """Print the totals of the database. Returns whether they match those of the file."""
    # In the file, units sold, given away or found are positive, and units returned or lost are negative.
    units = case(
        (Transaction.reason == "loss", Transaction.delta),
        (Transaction.reason == "other", func.abs(Transaction.delta)),
        else_=-Transaction.delta,
    )
    totals = db.session.execute(
        select(Transaction.reason, func.count().label("rows"), func.sum(units).label("units"))
        .where(Transaction.reference.is_not(None))
        .group_by(Transaction.reason)
    ).all()
    for total in sorted(totals, key=lambda total: -total.rows):
        print(f"  {total.reason or 'sale':8} {total.rows:9,} rows {int(total.units):11,} units")
    all_units = sum(int(total.units) for total in totals)
    print(f"  all      {sum(total.rows for total in totals):9,} rows {all_units:11,} units")
    return {total.reason: total.rows for total in totals} == EXPECTED and all_units == retail.UNITS


@click.command()
@click.argument("database_url")
@click.option("--chunk", type=click.IntRange(1), default=500, show_default=True, help="Lines in one transaction.")
def main(database_url: str, chunk: int) -> None:
    """Load the year into the new, migrated database at DATABASE_URL."""
    if not realdata.has("online-retail"):
        raise click.ClickException(realdata.absence("online-retail"))
    app = create_app({"DATABASE_URL": database_url})
    with app.app_context():
        if any(db.session.scalar(select(model.id).limit(1)) is not None for model in (Category, Product, Transaction)):
            raise click.ClickException("The database is not empty. Use a new one.")
        print(server_version(db.session.connection()))
        import_articles()
        load_year(chunk)
        if not adds_up():
            raise click.ClickException("The ledger does not match the totals of the file.")
    assert_ledger_is_consistent(app)
    print("The ledger is consistent and matches the totals of the file.")


if __name__ == "__main__":
    main()
