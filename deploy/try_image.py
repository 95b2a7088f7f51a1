"""Run the image as a confined container and use it: ``make try-image``. Ends with the first thing that is wrong.

Requests are sent inside the container, so that it needs no network.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = f"inventory-trial-{secrets.token_hex(4)}"
CONFINED = [
    *("--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=none"),
    *("--pull=never", "--no-healthcheck", f"--volume={NAME}:/data", "--env=INVENTORY_KEY_PEPPER_FILE=/run/pepper"),
]
# Runs in the container: method, path, key, and a body of JSON or CSV.
REQUEST = """
import sys
from http.client import HTTPConnection
method, path, key, body = sys.argv[1:]
connection = HTTPConnection("127.0.0.1", 8000, timeout=30)
media_type = "application/json" if body.startswith("{") else "text/csv"
connection.request(method, path, body or None, {"X-API-Key": key, "Content-Type": media_type})
response = connection.getresponse()
print(response.status, response.read().decode())
"""
# Half of an upload. Says when the service has begun to read it, and waits for the end of the connection.
STALLED_UPLOAD = """
import socket, sys
client = socket.create_connection(("127.0.0.1", 8000))
head = f"POST /import/products HTTP/1.1\\r\\nHost: localhost\\r\\nX-API-Key: {sys.argv[1]}\\r\\n"
head += "Content-Type: text/csv\\r\\nContent-Length: 1000\\r\\nExpect: 100-continue\\r\\n\\r\\n"
client.sendall(head.encode() + b"sku,name\\r\\n")
print(client.recv(1000).decode(), flush=True)
client.recv(1)
"""
DOCKER_KILLS_AFTER = 10


class Trial:
    def __init__(self, runner: str, image: str) -> None:
        self.runner, self.image = runner, image
        self.started = time.monotonic()

    def run(self, *arguments: str) -> str:
        """Output of a command of the container engine."""
        ended = subprocess.run([self.runner, *arguments], capture_output=True, text=True, check=False)
        expect(ended.returncode == 0, f"{' '.join(arguments)}: exit code {ended.returncode}\n{ended.stderr}")
        return ended.stdout.strip()

    def execute(self, *command: str) -> str:
        return self.run("exec", NAME, *command)

    def request(self, method: str, path: str, key: str = "", body: str = "") -> tuple[int, Any]:
        status, _, text = self.execute("python", "-c", REQUEST, method, path, key, body).partition(" ")
        return int(status), text if text.startswith("sku,") else json.loads(text)

    def say(self, words: object) -> None:
        print(f"{time.monotonic() - self.started:5.1f} s  {words}", flush=True)


def expect(condition: object, message: object) -> None:
    if not condition:
        sys.exit(f"FAILED: {message}")


@contextmanager
def container(trial: Trial) -> Iterator[None]:
    """A migrated database in a volume, and the service."""
    with tempfile.TemporaryDirectory() as folder:
        pepper = Path(folder, "pepper")
        pepper.write_text(secrets.token_hex(32))
        # The user of the container reads it.
        pepper.chmod(0o644)
        Path(folder).chmod(0o755)
        confined = [*CONFINED, f"--volume={pepper}:/run/pepper:ro"]
        try:
            trial.run("run", "--rm", *confined, trial.image, "flask", "db", "upgrade")
            trial.say("migrated")
            trial.run("run", "--detach", f"--name={NAME}", *confined, trial.image)
            yield
        finally:
            subprocess.run([trial.runner, "rm", "--force", NAME], capture_output=True, check=False)
            subprocess.run([trial.runner, "volume", "rm", NAME], capture_output=True, check=False)


def await_health(trial: Trial) -> None:
    """Run the health check of the image until it succeeds, as the container engine would."""
    text = Path(__file__).parent.parent.joinpath("Dockerfile").read_text()
    check = json.loads(re.findall(r"^HEALTHCHECK .*\n +CMD (\[.*\])$", text, re.MULTILINE)[0])
    deadline = time.monotonic() + 60
    while subprocess.run([trial.runner, "exec", NAME, *check], capture_output=True, check=False).returncode:
        expect(time.monotonic() < deadline, f"not healthy:\n{trial.run('logs', NAME)}")
        time.sleep(0.2)
    trial.say("healthy")


def use(trial: Trial) -> str:
    """A key, a product, a sale, an export and an import. Returns the key."""
    key = trial.execute("flask", "keys", "create", "trial", "--scopes", "read,stock,catalogue").splitlines()[-1]
    status, category = trial.request("POST", "/categories", key, '{"name": "Kitchen"}')
    expect(status == 201, category)
    product = {"sku": "MUG-01", "name": "Mug", "price": 12.5, "quantity_on_hand": 10, "category_id": category["id"]}
    status, made = trial.request("POST", "/products", key, json.dumps(product))
    expect(status == 201, made)
    sale = {"sku": "MUG-01", "transaction_type": "sale", "quantity": 4}
    status, sold = trial.request("POST", "/transactions", key, json.dumps(sale))
    expect((status, sold["balance_after"]) == (201, 6), sold)
    trial.say(f"sold: {sold['quantity']} of 10, {sold['balance_after']} left")
    status, exported = trial.request("GET", "/export/products", key)
    expect(status == 200, exported)
    status, imported = trial.request("POST", "/import/products", key, exported)
    expect((status, imported["unchanged"]) == (200, 1), imported)
    trial.say(f"exported and imported: {imported}")
    status, refused = trial.request("GET", "/products")
    expect((status, refused["error"]) == (401, "unauthorized"), refused)
    return key


def maintain(trial: Trial) -> None:
    for command in (["verify"], ["backup", "/data/backup.db"]):
        trial.say(f"flask {command[0]}: {trial.execute('flask', *command)}")


def stop(trial: Trial, key: str) -> None:
    """The service ends by itself before the engine kills it, even with an upload that does not end."""
    upload = [trial.runner, "exec", NAME, "python", "-c", STALLED_UPLOAD, key]
    with subprocess.Popen(upload, stdout=subprocess.PIPE, text=True) as client:
        first_line = client.stdout.readline() if client.stdout else ""
        expect(" 100 " in first_line, f"the upload did not begin: {first_line}")
        started = time.monotonic()
        trial.run("stop", "-t", str(DOCKER_KILLS_AFTER), NAME)
        seconds = time.monotonic() - started
    code = trial.run("inspect", "--format={{.State.ExitCode}}", NAME)
    expect(code == "0", f"exit code {code} after SIGTERM")
    trial.say(f"stopped with an unfinished upload: exit code {code} after {seconds:.1f} s")


def main() -> None:
    trial = Trial(*sys.argv[1:])
    with container(trial):
        await_health(trial)
        key = use(trial)
        maintain(trial)
        stop(trial, key)


if __name__ == "__main__":
    main()
