"""A real browser, driven through chromedriver (W3C WebDriver), that can reach nothing but loopback."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Self

from tests.clients import HttpClient

if TYPE_CHECKING:
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]


class Browser:
    def __init__(self, folder: Path) -> None:
        assert DRIVER is not None
        self.driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self.driver.stdout is not None
        started = next(found for line in self.driver.stdout if (found := re.search(r"on port (\d+)\.", line)))
        self.client = HttpClient(f"http://127.0.0.1:{started[1]}")
        chrome = {"binary": CHROMIUM, "args": [*OPTIONS, f"--user-data-dir={folder}"]}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": chrome}}}
        self.session = ""
        self.session = f"/session/{self.command('/session', wanted)['sessionId']}"

    def command(self, path: str, fields: Any) -> Any:
        answer = self.client.post(f"{self.session}{path}", fields)
        assert answer.status == 200, answer.content
        return answer.json["value"]

    def open(self, url: str) -> None:
        """Load a page, and wait until it has loaded."""
        self.command("/url", {"url": url})

    def result_of(self, script: str) -> Any:
        """What the body of an asynchronous function returns in the page."""
        body = f"const done = arguments[0]; (async () => {{ {script} }})().then(done, error => done(String(error)));"
        return self.command("/execute/async", {"script": body, "args": []})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.client.request("DELETE", self.session)
        self.client.connection.close()
        self.driver.terminate()
        self.driver.wait(60)
        assert self.driver.stdout is not None
        self.driver.stdout.close()
