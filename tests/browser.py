"""Chromium without a window, driven over its DevTools protocol, for tests of pages.

The protocol runs over a pair of pipes, so that neither a port nor a library is needed.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: no chromium or google-chrome in PATH")

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--remote-debugging-pipe",
)
_SECONDS = 20.0
#: Schemes that never leave the page or the disk.
_LOCAL = ("file:", "data:", "blob:", "about:", "chrome:", "devtools:")


class Browser:
    """One tab.

    Args:
        profile: Folder for the browser's own files.
        width: Of the window in pixels.
        height: Of the window in pixels.
    """

    def __init__(self, profile: Path, width: int = 1100, height: int = 800) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._events: list[dict[str, Any]] = []
        self._count = 0
        self._rest = b""
        command_out, self._write = os.pipe()
        self._read, command_in = os.pipe()

        def connect() -> None:  # Chromium reads from descriptor 3 and writes to 4
            read, write = os.dup(command_out), os.dup(command_in)
            os.dup2(read, 3)
            os.dup2(write, 4)

        home = {"HOME": str(profile), "XDG_CONFIG_HOME": str(profile), "XDG_CACHE_HOME": str(profile)}
        assert CHROMIUM is not None
        self._process = subprocess.Popen(
            [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | home,
            close_fds=False,
            preexec_fn=connect,
        )
        os.close(command_out)
        os.close(command_in)
        self._session: str | None = None
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + _SECONDS
        while True:
            answer = self._next(until)
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer.get('error')}"
                return dict(answer["result"])

    def wait_for(self, event: str, seconds: float = _SECONDS) -> None:
        """Wait for an event since the last call of :meth:`open`."""
        until = time.monotonic() + seconds
        while not any(found["method"] == event for found in self._events):
            self._next(until)

    def open(self, page: Path | str) -> float:
        """Open a page and wait until it is loaded and drawn.

        Returns:
            Seconds that it took.
        """
        self.requests.clear()
        self.errors.clear()
        self._events.clear()
        began = time.monotonic()
        self.send("Page.navigate", url=page.resolve().as_uri() if isinstance(page, Path) else page)
        self.wait_for("Page.loadEventFired")
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        return time.monotonic() - began

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page; a promise is awaited."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = _SECONDS) -> Any:
        """Return the value of an expression once it is true."""
        until = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < until, f"never true: {script}"
            time.sleep(0.05)
        return value

    @property
    def foreign_requests(self) -> list[str]:
        """Addresses asked for since :meth:`open` that are neither on the disk nor in the page."""
        return [address for address in self.requests if not address.startswith(_LOCAL)]

    def resize(self, width: int, height: int = 800, scale: float = 1, mobile: bool = False) -> None:
        """Give the window another size."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    def media(self, scheme: str = "light", media: str = "") -> None:
        """Choose light or dark, and ``print`` or the screen."""
        self.send(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send ``mouseMoved``, ``mousePressed``, ``mouseReleased`` or ``mouseWheel`` at pixels of the window."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x: float, y: float, count: int = 1) -> None:
        """Click with the left button, twice with ``count=2``."""
        for number in range(1, count + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.mouse(kind, x, y, button="left", buttons=1, clickCount=number)

    def key(self, name: str, code: int = 0, text: str = "") -> None:
        """Press a key such as ``ArrowRight``, ``Tab``, ``Escape`` or ``+``."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowUp": 38}
        codes |= {"ArrowRight": 39, "ArrowDown": 40}
        pressed = {"key": name, "windowsVirtualKeyCode": code or codes.get(name, 0)}
        self.send("Input.dispatchKeyEvent", type="keyDown", **pressed, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def place(self, selector: str) -> dict[str, float]:
        """Return ``x``, ``y``, ``width`` and ``height`` of an element in the window, after scrolling to it."""
        script = f"""(() => {{ const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "center", behavior: "instant"}});
            const {{x, y, width, height}} = element.getBoundingClientRect(); return {{x, y, width, height}}; }})()"""
        return dict(self.run(script))

    def screenshot(self, selector: str | None = None, whole: bool = False) -> bytes:
        """Return a PNG of the window, of an element, or of the whole page."""
        if whole:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        elif selector is not None:
            clip = self.place(selector) | {"scale": 1}
            top = self.run("({x: scrollX, y: scrollY})")
            clip |= {"x": clip["x"] + top["x"], "y": clip["y"] + top["y"]}
            answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        else:
            answer = self.send("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])

    def pdf(self) -> bytes:
        """Return the page as it is printed."""
        return base64.b64decode(self.send("Page.printToPDF", printBackground=False)["data"])

    def _next(self, until: float) -> dict[str, Any]:
        """Return the next message, and note requests and errors."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self._read, 2**20)
            assert more, "the browser has ended"
            self._rest += more
        first, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        if "method" in message:
            self._note(message["method"], message["params"])
            self._events.append({"method": message["method"]})
        return message

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.errors.append(parameters["entry"]["text"])
