"""A shop's program, on the client that openapi-python-client makes. Prints what it was told, as JSON.

It is checked and run by test_clients.py, which puts the package ``inventory_client`` within its reach.
"""

from __future__ import annotations

import json
import sys
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from inventory_client import AuthenticatedClient
from inventory_client.api.categories import create_category
from inventory_client.api.import_export import import_products
from inventory_client.api.products import (
    create_product,
    delete_product,
    list_products,
    read_products_feed,
    update_product,
)
from inventory_client.api.transactions import read_transactions_feed, record_transaction
from inventory_client.models import (
    CategoryIn,
    CategoryOut,
    DeletedProduct,
    FeedOut,
    ImportOut,
    InsufficientStockError,
    ProductIn,
    ProductOut,
    ProductUpdate,
    TransactionIn,
    TransactionOut,
    TransactionType,
)
from inventory_client.types import UNSET, File, Response, Unset

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def expect(kind: type[T], answer: object) -> T:
    """The answer, if it is of this kind; stops with the service's own words if it is a refusal."""
    assert isinstance(answer, kind), getattr(answer, "message", answer)
    return answer


def next_place(page: Response[Any], parameter: str) -> str | Unset | None:
    """Where the next page begins, from its link; unset for a feed that has had no row yet."""
    following = httpx.Response(page.status_code, headers=page.headers).links.get("next")
    return httpx.URL(following["url"]).params.get(parameter, UNSET) if following else None


def follow(read: Callable[[str | Unset], Response[Any]], parameter: str, expected: int = 0) -> list[Any]:
    """All rows, page by page. A feed has its end where a page is empty, once what is expected has come.

    A feed on PostgreSQL holds rows back until older transactions have ended, whoever's they are.
    """
    rows: list[Any] = []
    place: str | Unset | None = UNSET
    deadline = time.monotonic() + 60
    while place is not None:
        page = read(place)
        rows += (new := expect(list, page.parsed))
        if not new and (len(rows) >= expected or time.monotonic() > deadline):
            break
        time.sleep(0 if new else 0.1)
        place = next_place(page, parameter)
    return rows


def sell(
    client: AuthenticatedClient, product_id: int, quantity: int, key: str | Unset = UNSET
) -> tuple[Response[Any], int]:
    """The answer, and how often it was lost before it came: the same request goes again with the same key."""
    sale = TransactionIn(product_id=product_id, transaction_type=TransactionType.SALE, quantity=quantity)
    for lost in range(3):
        try:
            return record_transaction.sync_detailed(client=client, body=sale, idempotency_key=key), lost
        except httpx.TransportError:
            continue
    raise SystemExit("three answers were lost")


def main(url: str, key: str) -> None:
    client = AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True)
    bolts = expect(CategoryOut, create_category.sync(client=client, body=CategoryIn(name="Bolts")))

    def create(sku: str, quantity: int) -> ProductOut:
        facts = ProductIn(sku=sku, name=sku, price=10, category_id=bolts.id, quantity_on_hand=quantity)
        return expect(ProductOut, create_product.sync(client=client, body=facts))

    bolt, *_others = [create(f"BOLT-{size}", 50) for size in (6, 8, 10, 12, 16)]
    delete_product.sync_detailed(create("NUT-6", 0).id, client=client)
    washer = File(payload=BytesIO(b"sku,name,price,category\nWASHER-6,Washer,0.25,Bolts\n"))
    imported = expect(ImportOut, import_products.sync(client=client, body=washer))
    edited = expect(ProductOut, update_product.sync(bolt.id, client=client, body=ProductUpdate(price=11.5)))
    answer, lost = sell(client, bolt.id, 5, key="order-1")
    sale = expect(TransactionOut, answer.parsed)
    refusal = expect(InsufficientStockError, sell(client, bolt.id, 46)[0].parsed)
    listed: list[ProductOut] = follow(
        lambda place: list_products.sync_detailed(client=client, limit=2, cursor=place), "cursor"
    )
    ledger: list[FeedOut] = follow(
        lambda place: read_transactions_feed.sync_detailed(client=client, limit=2, after=place), "after", expected=6
    )
    catalogue: list[ProductOut | DeletedProduct] = follow(
        lambda place: read_products_feed.sync_detailed(client=client, limit=2, after=place), "after", expected=7
    )
    told = {
        "edited": [edited.price, edited.quantity_on_hand],
        "sale": [sale.delta, sale.balance_after],
        "lost": lost,
        "replayed": answer.headers.get("Idempotent-Replayed"),
        "available": refusal.details.available,
        "created": imported.created,
        "listed": [product.id for product in listed],
        "ledger": [row.id for row in ledger],
        "catalogue": [[entry.id, isinstance(entry, DeletedProduct)] for entry in catalogue],
    }
    json.dump(told, sys.stdout)


main(*sys.argv[1:])
