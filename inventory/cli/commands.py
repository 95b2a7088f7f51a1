"""The command line. Errors go to stderr.

Exit status: 0 success, 1 invalid data or no database, 2 wrong usage. flask verify exits with 1 only for findings.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial, wraps
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ParamSpec, TypeVar

import click
from flask import current_app
from flask.cli import AppGroup, with_appcontext
from sqlalchemy.exc import DBAPIError

from inventory import errors
from inventory import seed as demo
from inventory.cli.pipes import exit_on_closed_pipe
from inventory.database.base import db
from inventory.database.engines import check_file
from inventory.database.errors import from_database
from inventory.import_export import exporter, importer
from inventory.import_export.schemas import FORMATS, MODES
from inventory.import_export.temporary import temporary_file
from inventory.transactions import verification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask

P = ParamSpec("P")
R = TypeVar("R")

BLOCK = 1024 * 1024

import_group = AppGroup("import", help="Import data from a file.")
export_group = AppGroup("export", help="Export data to a file.")

as_json = click.option("--json", "machine_readable", is_flag=True, help="Print the result as one line of JSON.")
to_format = click.option(
    "--format", "file_format", type=click.Choice(FORMATS), default="csv", show_default=True, help="Output format."
)
to_file = click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
    default="-",
    help="Output file, created only when the export is complete. Default: standard output.",
)


def reporting(command: Callable[P, R]) -> Callable[P, R]:
    """Check the database file first. Print errors as text, with --json also as an envelope, and exit with 1."""

    @wraps(command)
    @exit_on_closed_pipe
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            check_file(db.engine)
            return command(*args, **kwargs)
        except (errors.ServiceError, DBAPIError) as error:
            refusal = from_database(error) if isinstance(error, DBAPIError) else error
            if kwargs.get("machine_readable"):
                click.echo(json.dumps(refusal.envelope()))
            raise click.ClickException("\n".join([explain(error), *problem_lines(refusal)])) from None

    return wrapper


def printing_result(command: Callable[P, R]) -> Callable[P, R]:
    """Run a command in the context of the application. It prints its result as text, or with --json as JSON."""
    decorated: Callable[P, R] = as_json(with_appcontext(command))
    return decorated


def reporting_result(command: Callable[P, R]) -> Callable[P, R]:
    return printing_result(reporting(command))


def explain(error: errors.ServiceError | DBAPIError) -> str:
    """The error in one line. Includes the message of the database, which only operators may see."""
    if isinstance(error, errors.ServiceError):
        return error.message
    refusal = from_database(error)
    if refusal.status < 500 or isinstance(refusal, errors.DatabaseNotMigrated):
        return refusal.message
    message = str(error.orig).partition("\n")[0]
    return f"Database {db.engine.url.database}: {message}. {refusal.advice}".removesuffix(". ")


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
        click.echo(", ".join(f"{name.replace('_', ' ')}: {format_value(value)}" for name, value in result.items()))


def format_value(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@click.command("seed")
@click.option(
    "--products", type=click.IntRange(0), default=40, show_default=True, help="Number of demo products to have."
)
@click.option(
    "--transactions", type=click.IntRange(0), default=300, show_default=True, help="Number of demo movements to have."
)
@click.option("--if-empty", is_flag=True, help="Do nothing if the database already has products.")
@reporting_result
def seed(products: int, transactions: int, if_empty: bool, machine_readable: bool) -> None:
    """Create demo data. The data is the same in every run; data of an earlier run is kept."""
    if if_empty and not demo.is_empty():
        report(asdict(demo.Seeded(0, 0, 0)), machine_readable=machine_readable)
        return
    with progress_bar(products + transactions, "Seeding") as bar:
        made = demo.seed(products, transactions, bar.update)
    report(asdict(made), machine_readable=machine_readable)


@import_group.command("products")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="upsert",
    show_default=True,
    help="upsert creates and updates products; create rejects existing SKUs.",
)
@click.option("--dry-run", is_flag=True, help="Validate the file and print the counts, but change nothing.")
@reporting_result
def import_products(file: IO[bytes], mode: str, dry_run: bool, machine_readable: bool) -> None:
    """Import products from a CSV file.

    Creates and updates products from FILE (- for standard input). All rows are imported or none. The columns are those
    of 'flask export products', in any order. sku is required; new products also require name, price and category. The
    separator is a comma, semicolon or tab. With --json errors are printed as JSON, too.
    """
    folder = current_app.config["INVENTORY_TEMP_DIR"]
    with temporary_file(folder) as copy:
        shutil.copyfileobj(file, copy)
        # Every row has at least one line and is counted twice.
        length = 2 * sum(block.count(b"\n") for block in iter(partial(rewound(copy).read, BLOCK), b""))
        with progress_bar(length, "Importing") as bar:
            outcome = importer.import_products(copy, mode=mode, dry_run=dry_run, progress=bar.update, folder=folder)
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
    """Export all products.

    The CSV format is that of 'flask import products'. jsonl is one JSON object per line.
    """
    write(exporter.export_products({}, file_format), output, exporter.count_products({}))


@export_group.command("transactions")
@to_format
@to_file
@with_appcontext
@reporting
def export_transactions(file_format: str, output: Path) -> None:
    """Export the whole ledger, oldest row first."""
    write(exporter.export_transactions({}, file_format), output, exporter.count_transactions({}))


def write(chunks: Iterator[bytes], output: Path, row_count: int) -> None:
    """Write an export. The progress bar counts lines."""
    with complete_file(output) as file, progress_bar(row_count, "Exporting") as bar:
        for chunk in chunks:
            file.write(chunk)
            bar.update(chunk.count(b"\n"))


@click.command("verify")
@click.option("--product", "product_id", type=click.IntRange(1), help="Check only the product with this id.")
@printing_result
@exit_on_closed_pipe
def verify(product_id: int | None, machine_readable: bool) -> None:
    """Recompute the stock of all products from the ledger and compare. Also checks an SQLite file for corruption.

    Reads one snapshot and can run while the service is running. Exit status: 0 if there are no findings, 1 with one
    line per finding, 2 if the check could not run.
    """
    findings: list[verification.Finding] = []

    def report_finding(finding: verification.Finding) -> None:
        if machine_readable:
            findings.append(finding)
        elif finding.product_id is None:
            click.echo(f"database file: {finding.problem}")
        else:
            where = "" if finding.seq is None else f", seq {finding.seq}"
            click.echo(f"product {finding.product_id} ({finding.sku}){where}: {finding.problem}")

    try:
        check_file(db.engine)
        with progress_bar(verification.count_rows(product_id), "Verifying") as bar:
            verdict = verification.verify(product_id, report_finding, bar.update)
    except (errors.ServiceError, DBAPIError) as error:
        click.echo(f"Error: {explain(error)}", err=True)
        sys.exit(2)
    if product_id is not None and not (verdict.products or verdict.transactions):
        click.echo("Error: Product not found.", err=True)
        sys.exit(2)
    listed = {"problems": [asdict(finding) for finding in findings]} if machine_readable else {}
    report(asdict(verdict) | listed, machine_readable=machine_readable)
    sys.exit(1 if verdict.findings else 0)


@contextmanager
def complete_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name only if the block succeeds. click's atomic files get it even after an error.

    ``-`` is standard output. Devices and pipes are written directly.
    """
    if str(path) == "-":
        yield sys.stdout.buffer
        return
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                yield file
            return
        written = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with written.open("wb") as file:
                yield file
            written.replace(target)
        finally:
            with suppress(OSError):
                written.unlink()
    except OSError as error:
        raise click.ClickException(f"Cannot write {path}: {error.strerror}.") from None


def init_app(app: Flask) -> None:
    for command in (seed, verify, import_group, export_group):
        app.cli.add_command(command)
