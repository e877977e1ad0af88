"""Headless Chromium, driven over the DevTools protocol through a pipe, and a server for the folders it opens.

The protocol: https://chromedevtools.github.io/devtools-protocol. A page's workers are watched like the page itself.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import json
import os
import select
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SWITCHES = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # whatever a page asks for, nothing leaves the machine
    "--remote-debugging-pipe",
)
PATIENCE_S = 60.0


def chromium() -> str | None:
    """The browser's command; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """A Chromium of its own, with a profile that is made for it.

    Args:
        profile: an empty folder.
    """

    def __init__(self, profile: Path) -> None:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # which Chromium refuses to make for root
        command = chromium()
        assert command, "there is no Chromium here: apt-get install chromium"
        self._pid, self._in, self._out = _start([command, *SWITCHES, *sandbox, f"--user-data-dir={profile}"])
        self._buffer, self._calls, self._answers = b"", 0, dict[int, Any]()
        self._pages: dict[str, Page] = {}  # by session, their workers' sessions too

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Call a method of the protocol, of the browser or of a session, and wait for its result."""
        number = self.send(method, session, **parameters)
        end = time.monotonic() + PATIENCE_S
        while number not in self._answers:
            self.listen(end - time.monotonic())
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def send(self, method: str, session: str | None = None, **parameters: Any) -> int:
        """Call a method without waiting."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters}
        os.write(self._out, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        return self._calls

    def listen(self, seconds: float) -> None:
        """Take what the browser says next, for at most so long."""
        if not select.select([self._in], [], [], max(seconds, 0))[0]:
            raise TimeoutError("Chromium says nothing")
        said = os.read(self._in, 1 << 20)
        assert said, "Chromium has ended"
        *messages, self._buffer = (self._buffer + said).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            elif page := self._pages.get(message.get("sessionId", "")):
                page.hear(message["method"], message["params"])

    def open(self, url: str, width: int = 1000, height: int = 1400, scheme: str = "light") -> Page:
        """A new page, of so many CSS pixels, that prefers a light or dark scheme."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        self.watch(session, page)
        self.call("Page.enable", session)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", session, **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", session, features=features)
        self.call("Page.navigate", session, url=url)  # answers once the new page is there
        page.wait("document.readyState === 'complete'")
        return page

    def watch(self, session: str, page: Page) -> None:
        """Hear what happens in a session, and in the workers it starts."""
        self._pages[session] = page
        for method in ("Runtime.enable", "Log.enable", "Network.enable"):
            self.send(method, session)
        self.send("Target.setAutoAttach", session, autoAttach=True, waitForDebuggerOnStart=True, flatten=True)
        self.send("Runtime.runIfWaitingForDebugger", session)

    def close(self) -> None:
        """End it, and wait until it has."""
        with contextlib.suppress(BrokenPipeError):
            self.send("Browser.close")
        for _ in range(100):
            if os.waitpid(self._pid, os.WNOHANG)[0]:
                break
            time.sleep(0.1)
        else:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._in)
        os.close(self._out)


def _start(command: list[str]) -> tuple[int, int, int]:
    """Start a browser, which reads from descriptor 3 and writes to 4: its process, our ends to read and to write."""
    pipes = [os.pipe(), os.pipe()]
    (their_in, our_out), (our_in, their_out) = (
        tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pair) for pair in pipes
    )
    for end in (*pipes[0], *pipes[1]):
        os.close(end)
    actions = [
        (os.POSIX_SPAWN_DUP2, their_in, 3),
        (os.POSIX_SPAWN_DUP2, their_out, 4),
        *((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)),
    ]
    process = os.posix_spawn(command[0], [*command, "about:blank"], os.environ, file_actions=actions)
    os.close(their_in)
    os.close(their_out)
    return process, our_in, our_out


class Page:
    """A page that is open.

    Attributes:
        requests: every address asked for, by the page and its workers.
        errors: what was written to the console as an error or warning, and what was thrown and not caught.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.requests: list[str] = []
        self.errors: list[str] = []

    def hear(self, method: str, event: dict[str, Any]) -> None:
        """Take an event of the page or of a worker."""
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(event["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(event["exceptionDetails"].get("exception", {}).get("description", str(event)))
            case "Runtime.consoleAPICalled" if event["type"] in ("error", "warning", "assert"):
                self.errors.append(" ".join(str(one.get("value", one)) for one in event["args"]))
            case "Log.entryAdded" if event["entry"]["level"] in ("error", "warning"):
                self.errors.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")
            case "Target.attachedToTarget":
                self._browser.watch(event["sessionId"], self)

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is waited for."""
        answer = self._browser.call(
            "Runtime.evaluate", self._session, expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = PATIENCE_S) -> None:
        """Until an expression is true, at most so long."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"after {seconds:g} s this is not true: {condition}; console: {self.errors}"
            with contextlib.suppress(TimeoutError):
                self._browser.listen(0.02)

    def wait_for_file(self, path: Path, seconds: float = PATIENCE_S) -> None:
        """Until a download is there; Chromium gives it its name once it is whole."""
        end = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < end, f"after {seconds:g} s there is no {path}"
            with contextlib.suppress(TimeoutError):
                self._browser.listen(0.05)

    def press(self, *keys: str) -> None:
        """Press keys one after another, by name."""
        codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, " ": 32}
        for key in keys:
            text = {"Enter": "\r", " ": " "}.get(key, key if len(key) == 1 else "")
            code = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
            self._browser.call("Input.dispatchKeyEvent", self._session, type="keyDown", text=text, **code)
            self._browser.call("Input.dispatchKeyEvent", self._session, type="keyUp", **code)

    def choose_files(self, selector: str, *paths: Path) -> None:
        """Give files to a file input."""
        found = self._browser.call(
            "Runtime.evaluate", self._session, expression=f"document.querySelector({selector!r})"
        )
        self._browser.call(
            "DOM.setFileInputFiles",
            self._session,
            objectId=found["result"]["objectId"],
            files=[str(path) for path in paths],
        )

    def screenshot(self, whole: bool = True) -> bytes:
        """A PNG of the page, whole or what the window shows."""
        shot = self._browser.call(
            "Page.captureScreenshot", self._session, format="png", captureBeyondViewport=whole, **self._clip(whole)
        )
        return base64.b64decode(shot["data"])

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self._browser.call("Page.getLayoutMetrics", self._session)["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser that is ended in any case."""
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Say nothing: pytest shows what is wrong."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, as `python -m http.server` serves it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
