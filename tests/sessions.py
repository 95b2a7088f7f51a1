"""Sessions of a shell in the documentation: commands after ``$ ``, each with its output."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Values that differ between runs are replaced before the comparison.
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00")
CURSOR = re.compile(r"cursor=[\w-]+")
MARK = "--- end of the output ---"


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def steps(text: str) -> list[tuple[str, str]]:
    """Commands and their documented output. A command continues after an open quote, a backslash, a pipe or a loop."""
    found = []
    for block in fenced(text, "console"):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = step.splitlines(keepends=True)
            command = lines.pop(0)
            while is_open(command):
                command += lines.pop(0)
            found.append((command, "".join(lines)))
    return found


def is_open(command: str) -> bool:
    unfinished_loop = command.startswith("for ") and not re.search(r"\bdone\b", command)
    return bool(command.count("'") % 2) or command.rstrip().endswith(("\\", "|")) or unfinished_loop


def outputs(commands: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """What each command prints, to stdout and stderr, in one shell."""
    script = "".join(f"{command}\necho '{MARK}'\n" for command in commands)
    done = subprocess.run(
        ["bash", "-c", script],
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout.split(f"{MARK}\n")[:-1]


def normalized(answer: str) -> Any:
    """JSON as data, so that line breaks do not matter; other output as words by line."""
    stable = CURSOR.sub("cursor=…", TIMESTAMP.sub("a timestamp", answer))
    try:
        return json.loads(stable)
    except ValueError:
        return [line.split() for line in stable.splitlines()]
