"""Use cases and queries of categories."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from inventory import errors
from inventory.categories.rows import COLUMNS, CategoryRow
from inventory.database.base import begin, db, execute, fetch_all, fetch_one, fetch_value
from inventory.database.engines import SNAPSHOT
from inventory.database.keyset import Listing
from inventory.database.query import Query
from inventory.database.types import fold
from inventory.models.category import Category
from inventory.products import service as products
from inventory.web.conditional import UNCONDITIONAL, digest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy import Table

    from inventory.database.keyset import Page, PageRequest
    from inventory.fields import Values
    from inventory.products.rows import ProductRow
    from inventory.web.conditional import Condition

CATEGORIES = typing.cast("Table", Category.__table__)
SHOWN_PRODUCTS = 100
SORTABLE = {"id": Category.id, "name": Category.name_folded, "created_at": Category.created_at}
ROWS = select(*COLUMNS)
LISTING = Listing(ROWS, CategoryRow, SORTABLE)
BY_ID = Query(ROWS.where(Category.id == bindparam("category_id")))


def find(page: PageRequest) -> Page[CategoryRow]:
    return LISTING.page(page)


def get(category_id: int) -> CategoryRow:
    """The category. Raises CategoryNotFound."""
    row = fetch_one(BY_ID, {"category_id": category_id})
    if row is None:
        raise errors.CategoryNotFound
    return CategoryRow(*row)


def with_products(category_id: int) -> tuple[CategoryRow, int, list[ProductRow]]:
    """The category, the number of its products and the first of them, from one snapshot. Raises CategoryNotFound."""
    with begin(SNAPSHOT):
        return get(category_id), *products.of_category(category_id, SHOWN_PRODUCTS)


def tag_of(category: CategoryRow | Category, count: int, members: list[ProductRow]) -> str:
    """The entity tag of a category: its version, and a hash of the products shown with it."""
    shown = [count, [[product.id, products.tag_of(product)] for product in members]]
    return f"{category.version}.{digest(shown)}"


def current_tag(category: CategoryRow | Category) -> str:
    return tag_of(category, *products.of_category(category.id, SHOWN_PRODUCTS))


def get_for_update(category_id: int) -> Category:
    """The category, locked until the transaction ends. Raises CategoryNotFound."""
    category = db.session.get(Category, category_id, with_for_update={"key_share": True}, populate_existing=True)
    if category is None:
        raise errors.CategoryNotFound
    return category


def create(data: Values) -> CategoryRow:
    """Create a category. Raises DuplicateCategory."""
    refuse_duplicate(data["name"])
    category = Category(**data)
    return saved(category)


def update(category_id: int, changes: Values, condition: Condition = UNCONDITIONAL) -> CategoryRow:
    """Change the fields given.

    Raises CategoryNotFound, DuplicateCategory, and PreconditionFailed if the condition is for another version.
    """
    category = get_for_update(category_id)
    condition.check_version(category.version)
    if "name" in changes:
        refuse_duplicate(changes["name"], other_than=category_id)
    for name, value in changes.items():
        setattr(category, name, value)
    return saved(category)


def saved(category: Category) -> CategoryRow:
    db.session.add(category)
    db.session.flush()
    return get(category.id)


def delete(category_id: int, condition: Condition = UNCONDITIONAL) -> None:
    """Delete an empty category. Raises CategoryNotFound, PreconditionFailed and CategoryNotEmpty."""
    category = get_for_update(category_id)
    condition.check(current_tag(category))
    db.session.delete(category)
    try:
        db.session.flush()
    except IntegrityError:  # only the foreign key of products can be violated here
        raise errors.CategoryNotEmpty from None


def ids_of(folded_names: Collection[str]) -> dict[str, int]:
    """Ids by folded name, of those categories that exist."""
    found = select(Category.name_folded, Category.id).where(Category.name_folded.in_(folded_names))
    return {category.name_folded: category.id for category in fetch_all(found)} if folded_names else {}


def create_missing(names: Iterable[str]) -> None:
    """Create categories, except those that exist. A name that differs from an earlier one only in case is left out."""
    wanted: dict[str, str] = {}
    for name in names:
        wanted.setdefault(fold(name), name)
    known = ids_of(wanted)
    if missing := [{"name": wanted[folded], "name_folded": folded} for folded in wanted if folded not in known]:
        execute(insert(CATEGORIES), missing)


def refuse_duplicate(name: str, other_than: int | None = None) -> None:
    """Raise DuplicateCategory. The unique constraint decides; this check usually avoids a failed statement."""
    other = fetch_value(select(Category.id).where(Category.name_folded == fold(name)))
    if other not in {None, other_than}:
        raise errors.DuplicateCategory
