"""A real browser: headless Chromium, spoken to through its DevTools pipe, without any package."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
ADVICE = "no Chromium: install it, such as with apt-get install chromium (make test does as root)"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PATIENCE = 120
"""Seconds that one may wait for an answer on a busy machine."""
# Chromium reads commands from file 3 and writes to file 4, whatever lies there now.
START = "import os, sys; r, w = map(int, sys.argv[1:3]); os.dup2(r, 3); os.dup2(w, 4); "
START += "os.execv(sys.argv[3], sys.argv[3:])"


class Tab:
    """One page of the browser, and all that it complained of or asked the network for."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self.browser, self.session = browser, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **arguments)

    def open(self, path: Path, width: int, height: int = 844, *, dark: bool = False) -> None:
        """Shows a file on a screen of so many CSS pixels, a phone's where it is narrow."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        self.browser.wait_for("Page.loadEventFired", self.session)

    def evaluate(self, expression: str) -> Any:
        options = {"returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, clip: dict[str, float] | None = None) -> bytes:
        """A PNG of the whole page, or of a part of it."""
        more = {"clip": {**clip, "scale": 1}} if clip else {}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, **more)
        return base64.b64decode(found["data"])

    def events(self, *methods: str) -> list[dict[str, Any]]:
        """What was told of so far, by the names of the events."""
        heard = self.browser.events
        return [e["params"] for e in heard if e["method"] in methods]


class Browser:
    """A Chromium process with a profile of its own."""

    def __init__(self, program: str, profile: Path) -> None:
        reads, self._writes = os.pipe()
        self._reads, writes = os.pipe()
        theirs = [fcntl(fd, F_DUPFD_CLOEXEC, 10) for fd in (reads, writes)]
        command = [sys.executable, "-c", START, *map(str, theirs), program, *FLAGS]
        self.process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (reads, writes, *theirs):
            os.close(fd)
        self.events: list[dict[str, Any]] = []
        self._buffer, self._last = b"", 0

    def call(self, method: str, session: str | None = None, **arguments: Any) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": arguments}
        message |= {"sessionId": session} if session else {}
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == self._last:
                assert "error" not in heard, heard
                return heard["result"]

    def wait_for(self, event: str, session: str) -> None:
        while True:
            heard = self._hear()
            if (heard.get("method"), heard.get("sessionId")) == (event, session):
                return

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._reads], [], [], PATIENCE)[0], "Chromium says nothing"
            more = os.read(self._reads, 1 << 20)
            assert more, "Chromium ended"
            self._buffer += more
        text, self._buffer = self._buffer.split(b"\0", 1)
        heard: dict[str, Any] = json.loads(text)
        if "method" in heard:
            self.events.append(heard)
        return heard

    def tab(self) -> Tab:
        """A new page that has heard nothing yet."""
        self.events.clear()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        return Tab(self, attached["sessionId"])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        for fd in (self._reads, self._writes):
            os.close(fd)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests; without any they are skipped, and say what to install."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(ADVICE)
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def tab(browser: Browser) -> Tab:
    """A fresh page."""
    return browser.tab()
