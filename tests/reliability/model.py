"""The service's promises in plain Python, without a database: what the state machine holds its answers against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_STOCK = 10**12


class Refused(Exception):
    """What a request must be refused with."""

    def __init__(self, status: int, slug: str, **details: Any) -> None:
        super().__init__(slug)
        self.answer = status, slug
        self.details = details


@dataclass
class Item:
    """A product: its own facts, and its rows of the ledger as the service has to show them."""

    id: int
    sku: str
    reorder_point: int
    is_active: bool
    created_at: str
    version: int = 1
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def stock(self) -> int:
        return int(self.rows[-1]["balance_after"]) if self.rows else 0

    @property
    def state(self) -> tuple[int, int, int]:
        """What its ETag has to tell apart."""
        return self.id, self.version, len(self.rows)


class Draft:
    """Rows that a request is about to add, one after another, each on what those before it have left."""

    def __init__(self, batch: bool = False) -> None:
        self.rows: list[dict[str, Any]] = []
        self.batch = batch

    def move(
        self,
        item: Item,
        transaction_type: str,
        quantity: int,
        *,
        reason: str | None = None,
        expected: int | None = None,
        reverses: int | None = None,
        reference: str | None = None,
        notes: str | None = None,
    ) -> None:
        """Add a row, or raise Refused."""
        stock, seq = self.last(item)
        beginning = reason == "opening" and seq == 0
        delta = -quantity if transaction_type == "sale" else quantity
        if not item.is_active and transaction_type != "adjustment":
            raise Refused(409, "product_inactive")
        expect(expected, stock)
        if stock + delta < 0:
            raise Refused(400, "insufficient_stock", available=stock, requested=-delta)
        if stock + delta > MAX_STOCK:
            raise Refused(422, "validation_error")
        self.rows.append(
            {
                "product_id": item.id,
                "sku": item.sku,
                "transaction_type": transaction_type,
                "quantity": quantity,
                "delta": delta,
                "balance_after": stock + delta,
                "seq": seq + 1,
                "reason": reason,
                "reference": reference,
                "notes": notes,
                "reverses_id": reverses,
                "actor": None,
                "crossed": None if beginning else crossed(stock, stock + delta, item.reorder_point),
            }
        )

    def last(self, item: Item) -> tuple[int, int]:
        for row in reversed(self.rows):
            if row["product_id"] == item.id:
                return row["balance_after"], row["seq"]
        return item.stock, len(item.rows)


def expect(expected: int | None, stock: int) -> None:
    if expected is not None and expected != stock:
        raise Refused(409, "stale_quantity", expected=expected, quantity_on_hand=stock)


def crossed(before: int, after: int, reorder_point: int) -> str | None:
    """What a change means to somebody who watches the reorder point."""
    was_low, is_low = before <= reorder_point, after <= reorder_point
    if after == 0 and before > 0:
        return "out"
    if is_low and not was_low:
        return "low"
    return "recovered" if was_low and not is_low else None


class Shop:
    """Everything that is known of the products and the ledger."""

    def __init__(self) -> None:
        self.items: dict[int, Item] = {}
        self.rows: dict[int, dict[str, Any]] = {}
        self.batches: dict[str, list[int]] = {}

    def named(self, sku: str) -> Item:
        for item in self.items.values():
            if item.sku.casefold() == sku.strip().casefold():
                return item
        raise Refused(400, "unknown_product")

    @property
    def reversed_ids(self) -> set[int]:
        return {row["reverses_id"] for row in self.rows.values()} - {None}

    def move(self, line: Mapping[str, Any], draft: Draft | None = None) -> Draft:
        """A line as it is sent to /transactions."""
        draft = draft or Draft()
        item = self.items.get(line["product_id"]) if "product_id" in line else self.named(line["sku"])
        if item is None:
            raise Refused(400, "unknown_product")
        reason = "other" if line["transaction_type"] == "adjustment" else None
        draft.move(
            item,
            line["transaction_type"],
            line["quantity"],
            reason=line.get("reason", reason),
            expected=line.get("expected_quantity"),
            reference=line.get("reference"),
        )
        return draft

    def batch(self, lines: Sequence[Mapping[str, Any]]) -> Draft:
        draft, errors = Draft(batch=True), []
        for number, line in enumerate(lines):
            try:
                self.move(line, draft)
            except Refused as refused:
                errors.append({"line": number, "error": refused.answer[1], **refused.details})
        return all_or_none(draft, errors)

    def count(self, item: Item, counted: int, expected: int | None) -> Draft:
        expect(expected, item.stock)
        draft = Draft()
        draft.move(item, "adjustment", counted - item.stock, reason="count")
        return draft

    def reverse(self, row_id: int, draft: Draft | None = None, **facts: Any) -> Draft:
        row = self.rows.get(row_id)
        if row is None:
            raise Refused(404, "transaction_not_found")
        if row["reason"] == "reversal" or row["delta"] == 0:
            raise Refused(409, "not_reversible")
        if row_id in self.reversed_ids:
            raise Refused(409, "already_reversed")
        draft = draft or Draft()
        item = self.items[row["product_id"]]
        draft.move(item, "adjustment", -row["delta"], reason="reversal", reverses=row_id, **facts)
        return draft

    def reverse_batch(self, batch_id: str) -> Draft:
        ids = self.batches.get(batch_id)
        if ids is None:
            raise Refused(404, "transaction_not_found")
        rows = [self.rows[row_id] for row_id in ids]
        if rows[0]["reason"] == "reversal":
            raise Refused(409, "not_reversible")
        if self.reversed_ids & set(ids):
            raise Refused(409, "already_reversed")
        draft, errors = Draft(batch=True), []
        returning = [number for number in reversed(range(len(ids))) if rows[number]["delta"] < 0]
        taking = [number for number in reversed(range(len(ids))) if rows[number]["delta"] > 0]
        for number in returning + taking:
            try:
                self.reverse(ids[number], draft)
            except Refused as refused:
                errors.append({"line": number, "error": refused.answer[1], **refused.details})
        return all_or_none(draft, sorted(errors, key=lambda error: error["line"]))

    def record(self, draft: Draft, ids: Iterable[int], batch_id: str | None, moments: Iterable[str]) -> None:
        """Take in the rows of a request that went through, with the ids and times that the service gave them."""
        for row, row_id, moment in zip(draft.rows, ids, moments, strict=True):
            assert row_id > max(self.rows, default=0)
            item = self.items[row["product_id"]]
            assert moment >= (item.rows[-1]["created_at"] if item.rows else item.created_at)
            self.rows[row_id] = row | {"id": row_id, "batch_id": batch_id, "created_at": moment}
            item.rows.append(self.rows[row_id])
        if batch_id is not None:
            self.batches[batch_id] = list(self.rows)[-len(draft.rows) :]


def all_or_none(draft: Draft, errors: list[dict[str, Any]]) -> Draft:
    if errors:
        raise Refused(400, "batch_rejected", error_count=len(errors), errors=errors)
    return draft
