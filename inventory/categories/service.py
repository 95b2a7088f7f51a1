"""Use cases and queries of categories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from inventory import errors
from inventory.database.base import db, fold
from inventory.database.keyset import Page, PageRequest, paginate
from inventory.models.category import Category

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS = (Category.id, Category.name, Category.description, Category.created_at, Category.updated_at)
SORTABLE = {"id": Category.id, "name": Category.name_folded, "created_at": Category.created_at}


def find(page: PageRequest) -> Page:
    return paginate(select(*COLUMNS), SORTABLE, page)


def get(category_id: int) -> Category:
    """The category. Raises CategoryNotFound."""
    category = db.session.get(Category, category_id)
    if category is None:
        raise errors.CategoryNotFound
    return category


def get_for_update(category_id: int) -> Category:
    """The category, locked until this transaction ends. Raises CategoryNotFound."""
    category = db.session.get(Category, category_id, with_for_update={"key_share": True}, populate_existing=True)
    if category is None:
        raise errors.CategoryNotFound
    return category


def create(data: Mapping[str, Any]) -> Category:
    """Create a category. Raises DuplicateCategory."""
    refuse_duplicate(data["name"])
    category = Category(**data)
    return saved(category)


def update(category_id: int, changes: Mapping[str, Any]) -> Category:
    """Change the fields given. Raises CategoryNotFound, DuplicateCategory."""
    category = get_for_update(category_id)
    if "name" in changes:
        refuse_duplicate(changes["name"], other_than=category_id)
    for name, value in changes.items():
        setattr(category, name, value)
    return saved(category)


def saved(category: Category) -> Category:
    db.session.add(category)
    db.session.flush()
    db.session.refresh(category)
    return category


def delete(category_id: int) -> None:
    """Delete an empty category. Raises CategoryNotFound, CategoryNotEmpty."""
    db.session.delete(get_for_update(category_id))
    try:
        db.session.flush()
    except IntegrityError:  # all that a DELETE here can violate is the products' foreign key
        raise errors.CategoryNotEmpty from None


def find_by_name(name: str) -> Category | None:
    return db.session.scalar(select(Category).where(Category.name_folded == fold(name)))


def refuse_duplicate(name: str, other_than: int | None = None) -> None:
    """The unique constraint decides; this look beforehand only spares the common case a failed statement."""
    twin = find_by_name(name)
    if twin is not None and twin.id != other_than:
        raise errors.DuplicateCategory


def hold(category_id: int) -> None:
    """Keep a category from being deleted until this transaction ends. Raises UnknownCategory."""
    held = select(Category.id).where(Category.id == category_id).with_for_update(read=True, key_share=True)
    if db.session.scalar(held) is None:
        raise errors.UnknownCategory
