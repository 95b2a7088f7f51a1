"""The form of log lines: JSON and text, without forged lines, and not too many that are similar."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, cast

import pytest

from inventory import logs
from inventory.activity import name_of
from tests.servers import ROOT

FORGED = 'first\nsecond\r\x1b[2K\x85\u2028{"level":"info"}\ud800'


def record(message: str, **extra: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "test", "levelname": "INFO", "msg": message, **extra})


@pytest.mark.parametrize("form", ["json", "text"])
def test_line_breaks_in_values_do_not_begin_lines(form: str) -> None:
    line = logs.formatter(form).format(record(FORGED, data={"reason": FORGED}))
    assert len(line.splitlines()) == 1
    assert line.isascii()
    assert "\x1b" not in line


def test_json_line_has_the_message_and_all_parts() -> None:
    line = json.loads(logs.formatter("json").format(record(FORGED, data={"reason": FORGED}, process=7)))
    assert line["message"] == line["reason"] == FORGED
    assert (line["logger"], line["level"], line["pid"]) == ("test", "info", 7)


def test_every_line_has_the_context_and_its_own_parts_take_precedence() -> None:
    formatter = logs.formatter("json", lambda: {"request_id": "context", "other": 1})
    line = json.loads(formatter.format(record("x", data={"request_id": "own"})))
    assert (line["request_id"], line["other"]) == ("own", 1)


def failure(message: str) -> tuple[type[BaseException], BaseException, Any]:
    try:
        try:
            int(message)
        except ValueError as error:
            raise RuntimeError(f"cannot read {message!r}\n{message}") from error
    except RuntimeError:
        return cast("tuple[type[BaseException], BaseException, Any]", sys.exc_info())
    raise AssertionError("unreachable")


@pytest.mark.parametrize("form", ["json", "text"])
def test_traceback_names_both_errors_without_values(form: str) -> None:
    line = logs.formatter(form).format(record("failed", exc_info=failure("it's \"secret\" 'x'")))
    assert "RuntimeError: cannot read" in line
    assert "ValueError: invalid literal for int() with base 10" in line
    assert "test_logs.py" in line
    assert "secret" not in line
    assert (
        len(line.splitlines()) == 1
        if form == "json"
        else all(frame.startswith("    | ") for frame in line.splitlines()[1:])
    )


def test_form_is_text_on_a_terminal_and_json_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, kind in ((True, logs.TextFormatter), (False, logs.JsonFormatter)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal)
        assert type(logs.formatter(None)) is kind


def test_some_similar_lines_pass_and_the_next_line_counts_the_others() -> None:
    now = [0.0]
    limit = logs.RateLimit(lines=2, seconds=10, clock=lambda: now[0])
    assert [limit.filter(record("x", kind="a")) for _ in range(5)] == [True, True, False, False, False]
    assert limit.filter(record("x", kind="b"))
    assert limit.filter(record("x"))
    now[0] = 10.0
    later = record("x")
    assert limit.filter(later)
    assert vars(later)["dropped"] == {"a": 3}
    assert limit.filter(record("x", kind="a"))


def test_lines_of_gunicorn_about_requests_lose_their_text() -> None:
    handling = record("Error handling request %s", args=("/products?secret",))
    assert logs.without_requests(handling)
    assert handling.getMessage() == "Error handling request"
    assert not logs.without_requests(record("Invalid request from ip=::1: secret"))
    assert logs.without_requests(record("Booting worker with pid: %s", args=(1,)))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SELECT a FROM products \nWHERE id = ? FOR UPDATE OF products", "SELECT products"),
        ("SELECT a \nFROM products JOIN categories ON 1", "SELECT products, categories"),
        ("WITH moved AS (UPDATE products SET a=1) INSERT INTO transactions (a) SELECT 'x' FROM moved",
         "UPDATE products, INSERT transactions"),
        ("DELETE FROM api_keys WHERE name = 'x'", "DELETE api_keys"),
        ("BEGIN IMMEDIATE", "BEGIN IMMEDIATE"),
        ("PRAGMA busy_timeout=5", "PRAGMA busy_timeout"),
        ("SELECT 'secret'", "SELECT"),
        ("'secret'", "statement"),
    ],
)  # fmt: skip
def test_name_of_a_statement_has_no_values(text: str, name: str) -> None:
    assert name_of(text) == name


def test_logs_py_imports_only_the_standard_library() -> None:
    """The master process of gunicorn loads it without its package."""
    source = (ROOT / "inventory" / "logs.py").read_text()
    imported = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imported <= sys.stdlib_module_names
