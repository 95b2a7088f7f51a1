"""The result of an import, in counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inventory.import_export.plan import Change


@dataclass(frozen=True)
class Outcome:
    rows: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    stock_transactions: int = 0
    dry_run: bool = False

    def plus(self, changes: Sequence[Change], *, rows: int = 0) -> Outcome:
        """The outcome including these changes, which come from ``rows`` more rows."""
        created = self.created + sum(change.product_id is None for change in changes)
        updated = self.updated + sum(change.product_id is not None for change in changes)
        return replace(
            self,
            rows=self.rows + rows,
            created=created,
            updated=updated,
            unchanged=self.rows + rows - created - updated,
            stock_transactions=self.stock_transactions + sum(change.units != 0 for change in changes),
        )
