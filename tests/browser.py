"""A real browser for tests of pages: headless Chromium driven through chromedriver's HTTP interface (W3C WebDriver)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = None if CHROMIUM and CHROMEDRIVER else "needs chromium and chromedriver (Debian: chromium, chromium-driver)"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,900"
).split()
FIND_TEXT = (
    "return [...document.querySelectorAll(arguments[0])].filter(e => e.textContent.includes(arguments[1])).at(-1)"
)
BOXES = "[...document.querySelectorAll('input, select, textarea')]"
FIND_BOX = f"const box = {BOXES}.find(e => e.getAttribute('aria-label') === arguments[0]);"
FILL_BOX = """
box.value = box.tagName === "SELECT" ? [...box.options].find(o => o.text === arguments[1]).value : arguments[1];
box.dispatchEvent(new Event("input", { bubbles: true }));
"""


class Browser:
    """One Chromium with a profile of its own in `folder`; use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        self.driver = subprocess.Popen([str(CHROMEDRIVER), "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self.driver.stdout is not None
        found = next(filter(None, (re.search(r"successfully on port (\d+)", line) for line in self.driver.stdout)))
        self.address = f"http://127.0.0.1:{found[1]}/session"
        options = {
            "binary": CHROMIUM,
            "args": [*FLAGS, f"--user-data-dir={folder / 'profile'}"],
            "prefs": {
                "download.default_directory": str(self.downloads),
                "profile.default_content_setting_values.automatic_downloads": 1,
            },
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            answer = self._call("", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self.driver.kill()
            raise
        self.address += f"/{answer['sessionId']}"

    def _call(self, what: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.address + what, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call("", method="DELETE")
        finally:
            self.driver.terminate()
            self.driver.wait(timeout=20)

    def open(self, page: Path) -> None:
        self._call("/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that `script`, the body of a function in the page, returns."""
        return self._call("/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, read: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
        """What `read` returns once it is `wanted`, or after five seconds.

        What a page keeps in localStorage reaches the next page a moment after it, where that runs in another process.
        """
        for _ in range(100):
            value = read()
            if wanted(value):
                break
            time.sleep(0.05)
        return value

    def errors(self) -> list[str]:
        """What the page wrote to the console since the last call, less the images that it could not load."""
        lines = [entry["message"] for entry in self._call("/se/log", {"type": "browser"})]
        return [line for line in lines if "ERR_FILE_NOT_FOUND" not in line]

    def click(self, selector: str, text: str = "") -> None:
        """Click the last element that `selector` finds with `text` in it, as a mouse does; wait until there is one."""
        element = self.wait(lambda: self.run(FIND_TEXT, selector, text), bool)
        assert element, f"no {selector} with {text!r}"
        self._call(f"/element/{next(iter(element.values()))}/click")

    def type(self, label: str, text: str) -> None:
        """Put `text` into the box that is called `label`, or choose it there."""
        self.run(FIND_BOX + FILL_BOX, label, text)

    def value(self, label: str) -> str:
        """What the box that is called `label` holds."""
        return self.run(f"{FIND_BOX} return box.value;", label)

    def downloaded(self, name: str) -> str:
        """The text of a finished download, which is taken away."""
        path = self.downloads / name
        for _ in range(200):
            if path.is_file() and path.stat().st_size:
                text = path.read_text(encoding="utf-8")
                path.unlink()
                return text
            time.sleep(0.05)
        raise AssertionError(f"{name} was not downloaded; there is {[p.name for p in self.downloads.iterdir()]}")

    def screenshot(self, path: Path) -> None:
        import base64

        path.write_bytes(base64.b64decode(self._call("/screenshot", method="GET")))
