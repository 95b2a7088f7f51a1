"""The rows of the measured databases: products with a history, made by arithmetic, so that each run has the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

CATEGORIES = 50
HISTORY = 20
# Sold by every request of the workload "sale".
HOT_PRODUCT = 1
# Never written to, with more movements than a product shows.
QUIET_PRODUCT = 2
QUIET_HISTORY = 80
# The others are drawn at random.
FIRST_RANDOM_PRODUCT = 3
START_STOCK, HOT_STOCK = 1_000_000, 900_000_000
# Units below the reorder point of a product that is low in stock. No run purchases as many.
SHORTAGE = 1_000_000
EVERY_LOW = 97
MATERIALS = ("copper", "steel", "brass", "oak", "rubber", "ceramic", "nylon", "cotton")
ARTICLES = ("bolt", "hinge", "bracket", "valve", "handle", "washer", "spring", "panel", "clamp", "bearing", "pipe")
YEAR = timedelta(days=365)

Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """Numbers of products and of ledger rows, without the longer history of one product."""

    products: int = 10_000

    @property
    def ledger_rows(self) -> int:
        return self.products * HISTORY

    def __str__(self) -> str:
        return f"{self.products:,} products, {self.ledger_rows:,} ledger rows"


class Catalogue:
    """Rows for each table. The history ended an hour before ``now``."""

    def __init__(self, size: Size, now: datetime | None = None) -> None:
        self.size = size
        self.end = (now or datetime.now(UTC)) - timedelta(hours=1)
        self.start = self.end - YEAR

    def tables(self) -> dict[str, Iterator[Row]]:
        """Rows of each table, in the order in which they can be inserted."""
        return {
            "categories": self.categories(),
            "products": self.products(),
            "product_changes": self.changes(),
            "transactions": self.transactions(),
        }

    def categories(self) -> Iterator[Row]:
        for number in range(1, CATEGORIES + 1):
            name = f"Category {number}"
            yield {"id": number, "name": name, "name_folded": name.casefold()} | self.created()

    def products(self) -> Iterator[Row]:
        for number in range(1, self.size.products + 1):
            sku, name = sku_of(number), name_of(number)
            stock = balance(number, history_of(number))
            price = Decimal(500 + number % 9_000) / 100
            yield self.created() | {
                "id": number,
                "sku": sku,
                "sku_folded": sku.casefold(),
                "name": name,
                "name_folded": name.casefold(),
                "description": f"{name}, packed by the dozen" if number % 2 else None,
                "price": price,
                "cost": price / 2 if number % 3 else None,
                "quantity_on_hand": stock,
                "reorder_point": stock + SHORTAGE + number % 1_000 if number % EVERY_LOW == 0 else 10,
                "location": f"A-{number % 40:02}",
                "category_id": category_of(number),
                "last_seq": history_of(number),
                "updated_at": self.time(number, history_of(number)),
            }

    def changes(self) -> Iterator[Row]:
        """The catalogue feed as the triggers write it when the products are created."""
        for number in range(1, self.size.products + 1):
            yield {
                "id": number,
                "product_id": number,
                "sku": sku_of(number),
                "is_latest": True,
                "xid": 0,
                "created_at": self.start,
            }

    def transactions(self) -> Iterator[Row]:
        """The ledger in order of time, so that the rows of a product lie apart as in a real one."""
        identity = 0
        for seq in range(1, QUIET_HISTORY + 1):
            for number in range(1, self.size.products + 1) if seq <= HISTORY else (QUIET_PRODUCT,):
                identity += 1
                yield {"id": identity, "created_at": self.time(number, seq)} | movement(number, seq)

    def time(self, number: int, seq: int) -> datetime:
        """Rounds of all products are spread over the year. A longer history goes on in its last hour."""
        if seq > HISTORY:
            return self.end - timedelta(minutes=QUIET_HISTORY - seq)
        position = (seq - 1) * self.size.products + number
        return self.start + (YEAR - timedelta(hours=2)) * position / self.size.ledger_rows

    def created(self) -> Row:
        return {"version": 1, "created_at": self.start, "updated_at": self.start}


def sku_of(number: int) -> str:
    return f"SKU-{number:07}"


def name_of(number: int) -> str:
    """Every category has products of every material."""
    of_category = number // CATEGORIES
    material = MATERIALS[of_category % len(MATERIALS)]
    return f"{material.title()} {ARTICLES[of_category % len(ARTICLES)]} {number}"


def category_of(number: int) -> int:
    return number % CATEGORIES + 1


def history_of(number: int) -> int:
    return QUIET_HISTORY if number == QUIET_PRODUCT else HISTORY


def movement(number: int, seq: int) -> Row:
    """The opening balance, then purchases and sales in turn."""
    kind = "adjustment" if seq == 1 else "purchase" if seq % 2 == 0 else "sale"
    quantity = opening_of(number) if seq == 1 else 10 + seq % 2
    return {
        "product_id": number,
        "sku": sku_of(number),
        "transaction_type": kind,
        "quantity": quantity,
        "delta": -quantity if kind == "sale" else quantity,
        "balance_after": balance(number, seq),
        "seq": seq,
        "reason": "opening" if seq == 1 else None,
        "reference": f"PO-{number % 1_000}" if seq % 4 == 0 else None,
        "xid": 0,
    }


def opening_of(number: int) -> int:
    return HOT_STOCK if number == HOT_PRODUCT else START_STOCK


def balance(number: int, seq: int) -> int:
    """The stock after a movement: purchases of 10 units and sales of 11."""
    purchases, sales = seq // 2, (seq - 1) // 2
    return opening_of(number) + 10 * purchases - 11 * sales
