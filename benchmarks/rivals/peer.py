"""The same endpoints in FastAPI, SQLAlchemy's asyncio extension, asyncpg and Pydantic, on the same tables.

    uvicorn benchmarks.rivals.peer:app --workers 2 --loop uvloop --http httptools --no-access-log

Written as the documentation of these libraries recommends. Writes are as safe as ours: a guarded UPDATE and the
ledger row in one transaction, the key under its unique index, batches locked in order of ids. PostgreSQL only.
"""

import csv
import hashlib
import io
import os
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar
from uuid import uuid4

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response, status
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    ForeignKey,
    Identity,
    and_,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, load_only, mapped_column

url = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg")
# Connections of one process; with two processes the load's 16 always find one.
engine = create_async_engine(url, pool_size=8, max_overflow=8)
new_session = async_sessionmaker(engine, expire_on_commit=False)

Out = TypeVar("Out", bound=BaseModel)
# A JSON number, as in our answers; Pydantic's own form of a Decimal is a string.
Amount = Annotated[Decimal, PlainSerializer(float, return_type=float, when_used="json")]
MAX_STOCK = 10**12
SHOWN_MOVEMENTS = 50
POSITION: ColumnElement[int] = literal_column(
    "greatest(pg_current_xact_id()::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1)"
)


class Base(DeclarativeBase):
    type_annotation_map = {int: BigInteger, datetime: DateTime(timezone=True)}  # noqa: RUF012 - SQLAlchemy's own form


class Category(Base):
    __tablename__ = "categories"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Product(Base):
    __tablename__ = "products"

    id: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str]
    sku_folded: Mapped[str]
    name: Mapped[str]
    name_folded: Mapped[str]
    description: Mapped[str | None]
    price: Mapped[Decimal]
    cost: Mapped[Decimal | None]
    quantity_on_hand: Mapped[int]
    reorder_point: Mapped[int]
    location: Mapped[str | None]
    category_id: Mapped[int] = mapped_column(ForeignKey("categories.id"))
    is_active: Mapped[bool]
    version: Mapped[int]
    last_seq: Mapped[int]
    last_counted_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Batch(Base):
    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=func.clock_timestamp())


class Transaction(Base):
    __tablename__ = "transactions"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"))
    sku: Mapped[str]
    transaction_type: Mapped[str]
    quantity: Mapped[int]
    delta: Mapped[int]
    balance_after: Mapped[int]
    seq: Mapped[int]
    reason: Mapped[str | None]
    reference: Mapped[str | None]
    notes: Mapped[str | None]
    reverses_id: Mapped[int | None]
    batch_id: Mapped[str | None]
    client: Mapped[str] = mapped_column(server_default="")
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[str | None]
    xid: Mapped[int]
    actor: Mapped[str | None]
    created_at: Mapped[datetime]


class TransactionIn(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    product_id: Annotated[int, Field(ge=1)]
    transaction_type: Literal["purchase", "sale"]
    quantity: Annotated[int, Field(ge=1, le=10**9)]
    reference: Annotated[str | None, Field(max_length=100)] = None
    notes: Annotated[str | None, Field(max_length=500)] = None

    @property
    def delta(self) -> int:
        return -self.quantity if self.transaction_type == "sale" else self.quantity


class BatchIn(BaseModel):
    lines: Annotated[list[TransactionIn], Field(min_length=1, max_length=1_000)]


class TransactionOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    product_id: int
    sku: str
    transaction_type: str
    quantity: int
    delta: int
    balance_after: int
    seq: int
    reason: str | None
    reference: str | None
    notes: str | None
    reverses_id: int | None
    batch_id: str | None
    actor: str | None
    created_at: datetime


class BatchOut(BaseModel):
    batch_id: str
    transactions: list[TransactionOut]


class ProductOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    sku: str
    name: str
    description: str | None
    price: Amount
    cost: Amount | None
    quantity_on_hand: int
    reorder_point: int
    location: str | None
    category_id: int
    is_active: bool
    version: int
    last_counted_at: datetime | None
    created_at: datetime
    updated_at: datetime


class ProductDetail(ProductOut):
    transactions: list[TransactionOut]


class ProductQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    search: Annotated[str | None, Field(max_length=200)] = None
    category_id: Annotated[int | None, Field(ge=1)] = None
    skip: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100


PRODUCT_COLUMNS = load_only(*(getattr(Product, name) for name in ProductOut.model_fields), Product.last_seq)
LEDGER_COLUMNS = tuple(getattr(Transaction, name) for name in TransactionOut.model_fields)
MOVED = (Product.id, Product.sku, Product.quantity_on_hand, Product.last_seq, Product.updated_at)
EXPORT = {
    "sku": Product.sku,
    "name": Product.name,
    "description": Product.description,
    "price": Product.price,
    "cost": Product.cost,
    "quantity_on_hand": Product.quantity_on_hand,
    "reorder_point": Product.reorder_point,
    "location": Product.location,
    "category": Category.name,
    "is_active": Product.is_active,
    "expected_quantity": Product.quantity_on_hand,
}


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]
app = FastAPI()


def shown(model: type[Out], rows: Sequence[Any]) -> list[Out]:
    return [model.model_validate(row) for row in rows]


@app.get("/products", response_model=list[ProductOut])
async def list_products(query: Annotated[ProductQuery, Query()], session: Session) -> Sequence[Product]:
    statement = select(Product).options(PRODUCT_COLUMNS)
    if query.search is not None:
        text = query.search.casefold()
        found = Product.name_folded.contains(text, autoescape=True) | Product.sku_folded.contains(text, autoescape=True)
        statement = statement.where(found)
    if query.category_id is not None:
        statement = statement.where(Product.category_id == query.category_id)
    result = await session.scalars(statement.order_by(Product.id).offset(query.skip).limit(query.limit))
    return result.all()


@app.get("/products/low-stock", response_model=list[ProductOut])
async def list_low_stock(session: Session, limit: Annotated[int, Query(ge=1, le=1_000)] = 100) -> Sequence[Product]:
    surplus = Product.quantity_on_hand - Product.reorder_point
    low = select(Product).where(Product.is_active, Product.quantity_on_hand <= Product.reorder_point)
    result = await session.scalars(low.options(PRODUCT_COLUMNS).order_by(surplus, Product.id).limit(limit))
    return result.all()


@app.get("/products/{product_id}", response_model=ProductDetail)
async def get_product(
    product_id: int, response: Response, session: Session, if_none_match: Annotated[str | None, Header()] = None
) -> Any:
    product = await session.get(Product, product_id, options=[PRODUCT_COLUMNS])
    if product is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND)
    tag = f'"{product.version}-{product.last_seq}"'
    if if_none_match == tag:
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers={"ETag": tag})
    response.headers["ETag"] = tag
    is_opening = and_(Transaction.seq == 1, Transaction.reason.is_not_distinct_from("opening"))
    movements = await session.execute(
        select(*LEDGER_COLUMNS)
        .where(Transaction.product_id == product_id, ~is_opening)
        .order_by(Transaction.created_at.desc(), Transaction.id.desc())
        .limit(SHOWN_MOVEMENTS)
    )
    shown_product = ProductOut.model_validate(product)
    return ProductDetail.model_construct(**dict(shown_product), transactions=shown(TransactionOut, movements.all()))


@app.get("/export/products")
async def export_products(session: Session) -> StreamingResponse:
    statement = select(*(column.label(name) for name, column in EXPORT.items()))
    rows = await session.stream(
        statement.join(Category, Category.id == Product.category_id).order_by(Product.id),
        execution_options={"yield_per": 500},
    )

    async def lines() -> AsyncIterator[str]:
        yield csv_text([[*EXPORT]])
        async for chunk in rows.partitions():
            yield csv_text([(*row[:9], "true" if row.is_active else "false", row[10]) for row in chunk])

    return StreamingResponse(lines(), media_type="text/csv")


def csv_text(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


@app.post("/transactions", response_model=TransactionOut, status_code=status.HTTP_201_CREATED)
async def record_transaction(
    movement: TransactionIn,
    request: Request,
    response: Response,
    session: Session,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> Any:
    values = await move(session, movement)
    if idempotency_key is not None:
        values |= {"idempotency_key": idempotency_key, "fingerprint": hashlib.sha256(await request.body()).hexdigest()}
    try:
        result = await session.execute(insert(Transaction).values(**values, xid=POSITION).returning(*LEDGER_COLUMNS))
        row = result.one()
        await session.commit()
    except IntegrityError:
        await session.rollback()
        row = await earlier(session, idempotency_key, values.get("fingerprint"))
    response.headers["Location"] = f"/transactions/{row.id}"
    return row


async def earlier(session: AsyncSession, key: str | None, fingerprint: str | None) -> Any:
    """The row that an earlier request with this key wrote."""
    found = await session.execute(
        select(*LEDGER_COLUMNS, Transaction.fingerprint).where(Transaction.idempotency_key == key)
    )
    row = found.one_or_none()
    if row is None or row.fingerprint != fingerprint:
        raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT)
    return row


async def move(session: AsyncSession, movement: TransactionIn) -> dict[str, Any]:
    """Change the stock with one guarded UPDATE. Returns the values of the ledger row."""
    after = Product.quantity_on_hand + movement.delta
    result = await session.execute(
        update(Product)
        .where(Product.id == movement.product_id, Product.is_active, after >= 0, after <= MAX_STOCK)
        .values(
            quantity_on_hand=after,
            last_seq=Product.last_seq + 1,
            updated_at=func.greatest(Product.updated_at, func.clock_timestamp()),
        )
        .returning(*MOVED)
        .execution_options(synchronize_session=False)
    )
    moved = result.one_or_none()
    if moved is None:
        raise HTTPException(status.HTTP_400_BAD_REQUEST, "unknown product, or not enough stock")
    return {
        **movement.model_dump(),
        "delta": movement.delta,
        "sku": moved.sku,
        "balance_after": moved.quantity_on_hand,
        "seq": moved.last_seq,
        "created_at": moved.updated_at,
    }


@app.post("/transactions/batch", response_model=BatchOut, status_code=status.HTTP_201_CREATED)
async def record_batch(batch: BatchIn, response: Response, session: Session) -> Any:
    batch_id = str(uuid4())
    async with session.begin():
        ids = {line.product_id for line in batch.lines}
        await session.execute(select(Product.id).where(Product.id.in_(ids)).order_by(Product.id).with_for_update())
        await session.execute(insert(Batch).values(id=batch_id, kind="batch"))
        moved = [await move(session, line) | {"batch_id": batch_id} for line in batch.lines]
        written = insert(Transaction).returning(*LEDGER_COLUMNS, sort_by_parameter_order=True)
        rows = (await session.execute(written.values(xid=POSITION), moved)).all()
    response.headers["Location"] = f"/transactions/batch/{batch_id}"
    return {"batch_id": batch_id, "transactions": rows}
