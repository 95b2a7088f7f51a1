"""Demo data. It is the same in every run and is created through the services."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from inventory import errors
from inventory.categories import service as categories
from inventory.database.base import count_rows, fetch_all, fetch_value
from inventory.database.types import fold
from inventory.database.unit_of_work import unit_of_work
from inventory.models.product import Product
from inventory.models.transaction import Transaction
from inventory.products import service as products
from inventory.transactions import service as ledger
from inventory.transactions.service import Movement

if TYPE_CHECKING:
    from collections.abc import Callable

CATEGORIES = {
    "Fasteners": ("Bolt", "Nut", "Washer", "Rivet", "Screw"),
    "Hand tools": ("Hammer", "Chisel", "File", "Screwdriver", "Clamp"),
    "Electrical": ("Cable", "Switch", "Socket", "Relay", "Fuse"),
    "Plumbing": ("Elbow", "Valve", "Coupling", "Hose", "Gasket"),
    "Safety": ("Glove", "Helmet", "Visor", "Ear plug", "Mask"),
}
FINISHES = (
    "Brass",
    "Zinc-plated",
    "Stainless",
    "Rubber",
    "Oak-handled",
    "Matt black",
    "Heavy-duty",
    "Café green",
)
REFERENCE = "SEED-"
CHUNK = 500


@dataclass(frozen=True)
class Seeded:
    categories: int
    products: int
    transactions: int


def is_empty() -> bool:
    return fetch_value(select(Product.id).limit(1)) is None


def seed(product_count: int, transaction_count: int, progress: Callable[[int], None]) -> Seeded:
    """Create demo data up to the given numbers. Data of an earlier run is kept and counted.

    Product n and movement n are the same in every run. ``progress`` is called with the number of steps done.
    """
    category_ids, new_categories = seed_categories()
    made = 0
    for start in range(0, product_count, CHUNK):
        numbers = range(start, min(start + CHUNK, product_count))
        made += seed_products(numbers, category_ids)
        progress(len(numbers))
    product_ids = seeded_product_ids(product_count)
    first = count_seeded_transactions() if product_ids else transaction_count
    progress(min(first, transaction_count))
    for start in range(first, transaction_count, CHUNK):
        numbers = range(start, min(start + CHUNK, transaction_count))
        seed_transactions(numbers, product_ids)
        progress(len(numbers))
    return Seeded(new_categories, made, max(0, transaction_count - first))


@unit_of_work
def seed_categories() -> tuple[list[int], int]:
    """The ids of the demo categories, and the number of those created."""
    folded = [fold(name) for name in CATEGORIES]
    known = categories.ids_of(folded)
    categories.create_missing(CATEGORIES)
    ids = categories.ids_of(folded)
    return [ids[name] for name in folded], len(ids) - len(known)


@unit_of_work
def seed_products(numbers: range, category_ids: list[int]) -> int:
    wanted = {fold(sku_of(number)): number for number in numbers}
    known = {row.sku_folded for row in fetch_all(select(Product.sku_folded).where(Product.sku_folded.in_(wanted)))}
    missing = [number for sku, number in wanted.items() if sku not in known]
    for number in missing:
        products.create(product(number, category_ids))
    return len(missing)


def sku_of(number: int) -> str:
    return f"DEMO-{number + 1:05}"


def product(number: int, category_ids: list[int]) -> dict[str, Any]:
    chance = random.Random(number)  # noqa: S311 - the data must be reproducible
    category = number % len(CATEGORIES)
    nouns = list(CATEGORIES.values())[category]
    cost = Decimal(chance.randint(20, 9_000)) / 100
    return {
        "sku": sku_of(number),
        "name": f"{chance.choice(FINISHES)} {chance.choice(nouns).lower()} {chance.randint(2, 40)} mm",
        "price": round(cost * Decimal("1.6"), 2),
        "cost": cost,
        "quantity_on_hand": chance.randint(0, 120),
        "reorder_point": chance.choice((5, 10, 20)),
        "location": f"{chance.choice('ABCD')}-{chance.randint(1, 30):02}",
        "category_id": category_ids[category],
    }


def seeded_product_ids(count: int) -> list[int]:
    ids: list[int] = []
    for skus in ledger.chunked([fold(sku_of(number)) for number in range(count)]):
        found = select(Product.id).where(Product.sku_folded.in_(skus), Product.is_active)
        ids += [row.id for row in fetch_all(found)]
    return sorted(ids)


def count_seeded_transactions() -> int:
    demo = func.substr(Transaction.reference, 1, len(REFERENCE)) == REFERENCE
    return count_rows(select(Transaction.id).where(demo))


@unit_of_work
def seed_transactions(numbers: range, product_ids: list[int]) -> None:
    for number in numbers:
        chance = random.Random(number)  # noqa: S311
        product_id, quantity = chance.choice(product_ids), chance.randint(1, 12)
        reference = f"{REFERENCE}{number + 1:07}"
        if number % 20 == 0:
            ledger.record(product_id, Movement("adjustment", quantity, reason="return", reference=reference))
            continue
        try:
            ledger.record(product_id, Movement("sale", quantity, reference=reference))
        except errors.InsufficientStock:
            ledger.record(product_id, Movement("purchase", 10 * quantity, reference=reference))
