"""The command line. Exit codes: 0 done, 1 bad data or no database, 2 wrong usage; errors go to stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial, wraps
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ParamSpec, TypeVar

import click
from flask.cli import AppGroup, with_appcontext
from sqlalchemy.exc import DBAPIError

from inventory import errors
from inventory import seed as demo
from inventory.database.base import db
from inventory.database.errors import from_database
from inventory.import_export import importer, service
from inventory.import_export.schemas import FORMATS, MODES
from inventory.transactions import verification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask

P = ParamSpec("P")
R = TypeVar("R")

BLOCK = 1024 * 1024

import_group = AppGroup("import", help="Read data in from a file.")
export_group = AppGroup("export", help="Write data out to a file.")

as_json = click.option("--json", "machine_readable", is_flag=True, help="Print the result as one line of JSON.")
to_format = click.option("--format", "file_format", type=click.Choice(FORMATS), default="csv", show_default=True)
to_file = click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
    default="-",
    help="File to write; it appears only when it is complete. Standard output if not given.",
)


def reporting(command: Callable[P, R]) -> Callable[P, R]:
    """Print what went wrong as a person reads it, and with --json a refusal's envelope too; exit with 1."""

    @wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except errors.ServiceError as error:
            if kwargs.get("machine_readable"):
                click.echo(json.dumps(error.envelope()))
            raise click.ClickException("\n".join([error.message, *problem_lines(error)])) from None
        except DBAPIError as error:
            raise click.ClickException(explain(error)) from None

    return wrapper


def explain(error: DBAPIError) -> str:
    """What is wrong, in one line; the database's own words are for whoever runs the service, never for its clients."""
    refusal = from_database(error)
    if refusal.status < 500 or isinstance(refusal, errors.DatabaseNotMigrated):
        return refusal.message
    words = str(error.orig).partition("\n")[0]
    return f"The database {db.engine.url.database} says: {words}"


def problem_lines(error: errors.ServiceError) -> Iterator[str]:
    for problem in (error.details or {}).get("errors", ()):
        column = f", {problem['column']}" if problem["column"] else ""
        yield f"  row {problem['row']}{column}: {problem['message']}"


def progress_bar(length: int, label: str) -> Any:
    return click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty())


def report(result: dict[str, Any], *, machine_readable: bool) -> None:
    if machine_readable:
        click.echo(json.dumps(result))
    else:
        click.echo(", ".join(f"{name.replace('_', ' ')}: {str(value).lower()}" for name, value in result.items()))


@click.command("seed")
@click.option(
    "--products", type=click.IntRange(0), default=40, show_default=True, help="Demo products there are to be."
)
@click.option("--transactions", type=click.IntRange(0), default=300, show_default=True, help="Demo movements likewise.")
@click.option("--if-empty", is_flag=True, help="Do nothing if there is any product already.")
@as_json
@with_appcontext
@reporting
def seed(products: int, transactions: int, if_empty: bool, machine_readable: bool) -> None:
    """Fill in demo data, the same every time. What an earlier run made is kept."""
    if if_empty and not demo.is_empty():
        report(asdict(demo.Seeded(0, 0, 0)), machine_readable=machine_readable)
        return
    with progress_bar(products + transactions, "Seeding") as bar:
        made = demo.seed(products, transactions, bar.update)
    report(asdict(made), machine_readable=machine_readable)


@import_group.command("products")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--mode", type=click.Choice(MODES), default="upsert", show_default=True, help="create refuses known SKUs."
)
@click.option("--dry-run", is_flag=True, help="Check everything and count, but change nothing.")
@as_json
@with_appcontext
@reporting
def import_products(file: IO[bytes], mode: str, dry_run: bool, machine_readable: bool) -> None:
    """Create and update products from the CSV file FILE (- for standard input), all of it or nothing.

    The columns are those of 'flask export products', in any order; sku is required, and for new products name,
    price and category. Separated by comma, semicolon or tab. With --json a refusal is printed as JSON too.
    """
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy)
        # Every row is one line at least, so that the bar may only be early.
        length = sum(block.count(b"\n") for block in iter(partial(rewound(copy).read, BLOCK), b""))
        with progress_bar(length, "Importing") as bar:
            outcome = importer.import_products(copy, mode=mode, dry_run=dry_run, progress=bar.update)
    report(asdict(outcome), machine_readable=machine_readable)


def rewound(file: IO[bytes]) -> IO[bytes]:
    file.seek(0)
    return file


@export_group.command("products")
@to_format
@to_file
@with_appcontext
@reporting
def export_products(file_format: str, output: Path) -> None:
    """Write all products, in the columns that 'flask import products' reads."""
    write(service.export_products({}, file_format), output, service.count_products({}))


@export_group.command("transactions")
@to_format
@to_file
@with_appcontext
@reporting
def export_transactions(file_format: str, output: Path) -> None:
    """Write the whole ledger in the order in which it was written."""
    write(service.export_transactions({}, file_format), output, service.count_transactions({}))


def write(chunks: Iterator[bytes], output: Path, row_count: int) -> None:
    """Copy an export out. Every chunk after a heading holds up to CHUNK rows, which is what the bar counts by."""
    with complete_file(output) as file, progress_bar(row_count, "Exporting") as bar:
        for chunk in chunks:
            file.write(chunk)
            bar.update(chunk.count(b"\n"))


@click.command("verify")
@click.option("--product", "product_id", type=click.IntRange(1), help="Check only the product with this id.")
@as_json
@with_appcontext
def verify(product_id: int | None, machine_readable: bool) -> None:
    """Recompute every product's stock from the ledger and compare.

    Reads one snapshot, so it may run while the service does. Exits with 0 if all is sound, with 1 and a line for each
    finding if not, and with 2 if it could not look.
    """
    findings: list[verification.Finding] = []

    def report_finding(finding: verification.Finding) -> None:
        if machine_readable:
            findings.append(finding)
        else:
            where = "" if finding.seq is None else f", seq {finding.seq}"
            click.echo(f"product {finding.product_id} ({finding.sku}){where}: {finding.problem}")

    try:
        with progress_bar(verification.count_rows(product_id), "Verifying") as bar:
            verdict = verification.verify(product_id, report_finding, bar.update)
    except DBAPIError as error:
        click.echo(f"Error: {explain(error)}", err=True)
        sys.exit(2)
    if product_id is not None and not (verdict.products or verdict.transactions):
        click.echo("Error: there is no product with this id.", err=True)
        sys.exit(2)
    listed = {"problems": [asdict(finding) for finding in findings]} if machine_readable else {}
    report(asdict(verdict) | listed, machine_readable=machine_readable)
    sys.exit(1 if verdict.findings else 0)


@contextmanager
def complete_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name only when the block ends well; click's own atomic files take it either way.

    ``-`` is standard output, and a device or a pipe is written to as it is.
    """
    if str(path) == "-":
        yield sys.stdout.buffer
        return
    target = path.resolve()
    takes_name = target.is_file() or not target.exists()
    written = target.with_name(f".{target.name}.{os.getpid()}") if takes_name else target
    try:
        with written.open("wb") as file:
            yield file
        if takes_name:
            written.replace(target)
    except OSError as error:
        raise click.ClickException(f"Could not write {path}: {error.strerror}.") from None
    finally:
        if takes_name:
            written.unlink(missing_ok=True)


def init_app(app: Flask) -> None:
    for command in (seed, verify, import_group, export_group):
        app.cli.add_command(command)
