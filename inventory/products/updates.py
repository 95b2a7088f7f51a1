"""Updates of a product: their conditions, and the replay of those that moved stock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from inventory import errors
from inventory.products.rows import COLUMNS, ProductRow
from inventory.products.service import (
    check_price_covers_cost,
    get,
    get_for_update,
    refuse_duplicate,
    save_changes,
    tag_of,
)
from inventory.transactions import queries
from inventory.transactions import service as ledger
from inventory.transactions.service import Movement
from inventory.web.conditional import UNCONDITIONAL
from inventory.web.idempotency import store_response, stored_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from inventory.fields import Values
    from inventory.models.product import Product
    from inventory.web.conditional import Condition
    from inventory.web.idempotency import Earlier, RequestKey

NOT_READ = "Must be the value that was read together with quantity_on_hand. Fetch the product again and retry."


def update(
    product_id: int,
    changes: Values,
    condition: Condition = UNCONDITIONAL,
    key: RequestKey | None = None,
) -> ProductRow:
    """Change the given fields. A quantity other than the current stock is recorded as a count, whose row holds the key.

    ``version`` and ``updated_at`` are conditions too. Raises ProductNotFound, PreconditionFailed,
    StaleQuantity, UnknownCategory, DuplicateSku, and InvalidFields for a price below cost.
    """
    values = dict(changes)
    version, seen_at = values.pop("version", None), values.pop("updated_at", None)
    product = get_for_update(product_id)
    check_version_of(product, version)
    quantity = new_stock(product, values.pop("quantity_on_hand", None), seen_at, condition)
    change(product, values)
    set_stock(product, quantity, key)
    return get(product_id)


def check_version_of(product: Product, wanted: int | None) -> None:
    if wanted not in {None, product.version}:
        raise errors.PreconditionFailed


def new_stock(product: Product, quantity: int | None, seen_at: datetime | None, condition: Condition) -> int:
    """The stock after the change.

    A quantity that was the stock at ``seen_at`` leaves the stock unchanged, even if units were sold since; only the
    version is compared then. Any other quantity is a count, and stale if the stock has changed since. Raises
    InvalidFields if ``seen_at`` cannot have been read from the product, because the count could then undo sales.
    """
    present = product.quantity_on_hand
    seen = [present] if quantity in {None, present} else stock_seen(product, seen_at)
    if quantity is None or quantity in seen:
        condition.check_version(product.version)
        return present
    condition.check(tag_of(product))
    ledger.check_expectation(seen[-1] if seen else None, present)
    return quantity


def stock_seen(product: Product, seen_at: datetime | None) -> list[int]:
    """The stock that a client saw at the ``updated_at`` that it sent back; empty without one.

    JavaScript truncates times to milliseconds, other clients to seconds. Such a time means any moment until the end of
    its millisecond or second, so the list may have several quantities, the latest last.
    """
    if seen_at is None:
        return []
    if seen_at > product.updated_at:
        raise errors.InvalidFields({"updated_at": [NOT_READ]})
    until = seen_at + precision(seen_at) - timedelta(microseconds=1)
    if until < product.created_at:
        raise errors.InvalidFields({"updated_at": [NOT_READ]})
    return queries.balances_between(product.id, seen_at, until) or [queries.balance_at(product.id, seen_at)]


def precision(time: datetime) -> timedelta:
    """The unit to which a time is truncated: a second, a millisecond or a microsecond."""
    if time.microsecond == 0:
        return timedelta(seconds=1)
    return timedelta(milliseconds=1) if time.microsecond % 1000 == 0 else timedelta(microseconds=1)


def change(product: Product, values: Values) -> None:
    field = "price" if "price" in values else "cost"
    check_price_covers_cost(values.get("price", product.price), values.get("cost", product.cost), field=field)
    if "sku" in values:
        refuse_duplicate(values["sku"], other_than=product.id)
    for name, value in values.items():
        setattr(product, name, value)
    save_changes()


def set_stock(product: Product, quantity: int, key: RequestKey | None) -> None:
    """Set the stock. The product will change again, so the response is stored with the key."""
    units = ledger.difference(quantity, product.quantity_on_hand, field="quantity_on_hand")
    if units:
        row = ledger.record(product.id, Movement("adjustment", units, reason="count"), key=key)
        if key is not None:
            store_response(row.id, stored(get(product.id)))


def stored(product: ProductRow) -> str:
    """A product as JSON. Earlier releases stored amounts as strings."""
    return orjson.dumps(product._asdict(), default=str).decode()


# Values that are stored in other types than they have.
READ: dict[type, Callable[[Any], object]] = {datetime: datetime.fromisoformat, float: float}


def replayed_update(earlier: Earlier) -> ProductRow:
    """The stored response to an earlier request. Fields added by a later release are null."""
    values = orjson.loads(stored_response(earlier.transaction_id))
    for column in COLUMNS:
        read = READ.get(column.type.python_type)
        if read is not None and values.get(column.name) is not None:
            values[column.name] = read(values[column.name])
    return ProductRow(*(values.get(name) for name in ProductRow._fields))
