"""flask keys: create, list, show, revoke and rotate API keys."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click
from flask import current_app
from flask.cli import AppGroup

from inventory.auth import keys
from inventory.auth.secrets import Pepper, required_pepper
from inventory.caller import SCOPES
from inventory.cli.commands import reporting_result
from inventory.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flask import Flask

    from inventory.models.api_key import ApiKey

P = ParamSpec("P")
R = TypeVar("R")

UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
COLUMNS = ("id", "name", "scopes", "status", "created_at", "expires_at", "last_used_at")

keys_group = AppGroup("keys", help="Create, list, rotate and revoke API keys.")


class Duration(click.ParamType[timedelta]):
    """A number with a unit: 30m, 24h, 90d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        match = re.fullmatch(r"([0-9]{1,6})([mhd])", value.strip())
        if not match:
            self.fail("Use a number with a unit, such as 30m, 24h or 90d.", param, ctx)
        return int(match[1]) * UNITS[match[2]]


class Moment(click.ParamType[datetime]):
    """A date, a time with offset, or a duration from now."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        now = datetime.now(UTC)
        try:
            if re.fullmatch(r"[0-9]+[mhd]", value.strip()):
                moment = now + Duration().convert(value, param, ctx)
            else:
                moment = datetime.fromisoformat(value)
                moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            self.fail("Use a duration such as 90d, a date such as 2027-01-31, or a time with offset.", param, ctx)
        if moment <= now:
            self.fail("This time has passed.", param, ctx)
        return moment


def split_scopes(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str]:
    given = [scope for value in values for scope in re.split(r"[\s,]+", value) if scope]
    if unknown := set(given) - SCOPES.keys():
        raise click.BadParameter(f"Unknown: {', '.join(sorted(unknown))}. Choose from {', '.join(SCOPES)}.")
    return given


def described(key: ApiKey) -> dict[str, Any]:
    """A key as JSON. Its secrets are not stored."""
    times = {name: in_text(getattr(key, name)) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    return {"id": key.id, "name": key.name, "scopes": key.scopes.split(), "status": keys.status_of(key), **times}


def in_text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def in_cell(name: str, value: Any) -> str:
    """A value of a field in a table. Times are shown to the minute."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(value)
    return str(value)[:16].replace("T", " ") if name.endswith("_at") else str(value)


def table(rows: Iterable[Sequence[str]]) -> str:
    """Text in columns, separated by two spaces."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def print_key(created: keys.Created, *, machine_readable: bool) -> None:
    """Print a key before it is stored. The key goes to standard output alone, so that it can be piped."""
    if sys.stdout is None:
        raise click.ClickException("Standard output is closed.")
    click.echo(json.dumps(described(created.key) | {"key": created.text}) if machine_readable else created.text)
    sys.stdout.flush()


def say_stored(done: str, key: ApiKey) -> None:
    click.echo(f"{done} key '{key.name}' (id {key.id}, scopes {key.scopes}). Keep it: it is not shown again.", err=True)


def reporting_keys(command: Callable[P, R]) -> Callable[P, R]:
    """Like ``reporting_result``, also for what cannot be done with a key."""

    @wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except keys.KeyProblem as problem:
            if kwargs.get("machine_readable"):
                click.echo(json.dumps({"error": problem.slug, "message": str(problem)}))
            raise click.ClickException(str(problem)) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            raise click.ClickException(f"Nothing was changed: {error.strerror}.") from None

    return reporting_result(wrapper)


def pepper() -> Pepper:
    try:
        return required_pepper(current_app.config)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def pepper_for_new_secret() -> Pepper:
    """Warns if other keys were made with another pepper: the service may use that one."""
    given = pepper()
    if keys.has_other_pepper(given):
        click.echo(
            "Warning: some keys were made with another INVENTORY_KEY_PEPPER. If the service uses that one, it refuses "
            "the new secret.",
            err=True,
        )
    return given


@keys_group.command("create")
@click.argument("name")
@click.option(
    "--scopes",
    "--scope",
    required=True,
    multiple=True,
    callback=split_scopes,
    help="Comma-separated: " + "; ".join(f"{scope} to {means}" for scope, means in SCOPES.items()) + ".",
)
@click.option("--expires", type=Moment(), help="When the key expires: 90d, 2027-01-31, or a time. Default: never.")
@reporting_keys
def create(name: str, scopes: list[str], expires: datetime | None, machine_readable: bool) -> None:
    """Create an API key, and print it.

    NAME identifies the client, and is the actor of the ledger rows that it writes. The key itself is not stored, so it
    is printed only once, to standard output. Everything else goes to standard error.
    """
    deliver = partial(print_key, machine_readable=machine_readable)
    created = keys.create(pepper_for_new_secret(), name, scopes, expires, deliver)
    if not machine_readable:
        say_stored("Created", created.key)


@keys_group.command("list")
@reporting_keys
def list_keys(machine_readable: bool) -> None:
    """List all API keys, oldest first. Times are UTC."""
    rows = [described(key) for key in keys.find_all()]
    if machine_readable:
        click.echo(json.dumps(rows))
    elif rows:
        heading = [name.removesuffix("_at").replace("_", " ").upper() for name in COLUMNS]
        click.echo(table([heading, *([in_cell(name, row[name]) for name in COLUMNS] for row in rows)]))
    else:
        click.echo("No API keys. Create one with 'flask --app wsgi keys create NAME --scopes read'.", err=True)


@keys_group.command("show")
@click.argument("name_or_id", metavar="NAME")
@reporting_keys
def show(name_or_id: str, machine_readable: bool) -> None:
    """Show an API key, by its name or id, and how long its secrets are valid. Times are UTC."""
    key = keys.find(name_or_id)
    secrets = [{name: in_text(time) for name, time in row._asdict().items()} for row in keys.secrets_of(key)]
    if machine_readable:
        click.echo(json.dumps(described(key) | {"secrets": secrets}))
        return
    rows = [[name.replace("_", " "), in_cell(name, value)] for name, value in described(key).items()]
    for secret in secrets:
        shown = {name: in_cell(name, time) for name, time in secret.items()}
        rows += [["secret", f"created {shown['created_at']}, expires {shown['expires_at']}"]]
    click.echo(table(rows))


@keys_group.command("revoke")
@click.argument("name_or_id", metavar="NAME")
@reporting_keys
def revoke(name_or_id: str, machine_readable: bool) -> None:
    """Revoke an API key, by its name or id. This cannot be undone.

    Workers refuse it within 5 seconds. Its name can be used for another key then.
    """
    key = keys.revoke(name_or_id)
    if machine_readable:
        click.echo(json.dumps(described(key)))
    else:
        click.echo(f"Revoked key '{key.name}' (id {key.id}). It is refused within 5 seconds.", err=True)


@keys_group.command("rotate")
@click.argument("name_or_id", metavar="NAME")
@click.option(
    "--overlap",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How long the previous secret remains valid. 0m ends it now.",
)
@reporting_keys
def rotate(name_or_id: str, overlap: timedelta, machine_readable: bool) -> None:
    """Print a new secret of an API key, by its name or id.

    The id, the name and the scopes stay, and with them the idempotency keys of the client. At most two secrets are
    valid: the new one, and until the end of the overlap the previous one.
    """
    rotated = keys.rotate(
        pepper_for_new_secret(), name_or_id, overlap, partial(print_key, machine_readable=machine_readable)
    )
    if not machine_readable:
        say_stored("Rotated", rotated.key)


def init_app(app: Flask) -> None:
    app.cli.add_command(keys_group)
