"""One year of a British gift shop as articles and movements (UCI "Online Retail", doi 10.1057/dbm.2012.17).

Codes that differ only in case are one article. A line's quantity counts units sold where money is involved, and
units of stock where it is not; what a line does to the stock is its ``Movement``.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from inventory.transactions.service import Movement
from tests import realdata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LINES = 541_909
UNITS = 5_176_450
BUSIEST_DAY = "2011-12-05"
KINDS = {"sale": 530_103, "return": 9_288, "write-off": 1_336, "found or free": 1_179, "bad debt": 3}


class Line(NamedTuple):
    invoice: str
    code: str
    description: str
    quantity: int
    time: str
    price: Decimal
    customer: str

    @property
    def article(self) -> str:
        return self.code.casefold()

    @property
    def kind(self) -> str:
        if self.invoice.startswith("A"):
            return "bad debt"
        if self.invoice.startswith("C"):
            return "return"
        if self.price:
            return "sale"
        return "write-off" if self.quantity < 0 else "found or free"

    @property
    def movement(self) -> Movement:
        match self.kind:
            case "sale":
                return Movement("sale", self.quantity, reference=self.invoice)
            case "return":
                return self.adjustment("return", -self.quantity)
            case "write-off":
                return self.adjustment("loss", self.quantity)
            case "found or free" if not self.customer:
                return self.adjustment("other", self.quantity)
            case _:  # given to a customer for nothing, and the entries for a bad debt
                return self.adjustment("other", -self.quantity)

    def adjustment(self, reason: str, delta: int) -> Movement:
        notes = self.description or None
        return Movement("adjustment", delta, reason=reason, reference=self.invoice, notes=notes)


def lines() -> Iterator[Line]:
    """The year in the order of its dates."""
    for row in realdata.read("online-retail/online-retail"):
        yield Line(
            invoice=row["InvoiceNo"],
            code=row["StockCode"],
            description=row["Description"].strip(),
            quantity=int(row["Quantity"]),
            time=row["InvoiceDate"],
            price=Decimal(row["UnitPrice"]),
            customer=row["CustomerID"],
        )


@dataclass
class Article:
    """Named as it was last described, at the highest price it ever had; the day's lines are of the busiest day."""

    sku: str
    name: str = "Article without a description"
    price: Decimal = Decimal(0)
    balance: int = 0
    lowest: int = 0
    taken_on_busiest_day: int = 0

    def add(self, line: Line) -> None:
        self.name = line.description or self.name
        self.price = max(self.price, line.price)
        delta = line.movement.delta
        self.balance += delta
        self.lowest = min(self.lowest, self.balance)
        if line.time.startswith(BUSIEST_DAY):
            self.taken_on_busiest_day += max(0, -delta)

    @property
    def opening_for_the_year(self) -> int:
        """The least stock from which the year, in its order, never runs out."""
        return -self.lowest

    @property
    def opening_for_the_day(self) -> int:
        """Stock that lasts for the busiest day in whatever order its lines arrive."""
        return self.opening_for_the_year + self.taken_on_busiest_day


def articles(year: Iterable[Line]) -> list[Article]:
    """Every article, in the order in which it first appears."""
    found: dict[str, Article] = {}
    for line in year:
        found.setdefault(line.article, Article(line.code)).add(line)
    return list(found.values())


def product_file(openings: Iterable[tuple[Article, int]]) -> str:
    """Articles and their opening stocks as a product file; what never had a price costs one pound."""
    text = io.StringIO()
    file = csv.writer(text)
    file.writerow(["sku", "name", "price", "quantity_on_hand", "category"])
    for article, stock in openings:
        file.writerow([article.sku, article.name, article.price or 1, stock, "Gifts"])
    return text.getvalue()
