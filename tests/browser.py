"""A headless Chromium, spoken to through a pipe (the DevTools protocol), where one is installed."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
"""The browser's path, or None where there is none."""
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Browser:
    """A page in a browser; a context manager.

    Args:
        profile: An empty directory for the browser's files.
    """

    def __init__(self, profile: Path) -> None:
        theirs, self._write = os.pipe()
        self._read, ours = os.pipe()
        pipes = f"exec {CHROMIUM} {' '.join(FLAGS)} --user-data-dir={profile} about:blank 3<&{theirs} 4>&{ours}"
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", pipes], pass_fds=(theirs, ours), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(ours)
        self._rest, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: object) -> dict[str, Any]:
        """Return the answer to a command of the protocol; what happens meanwhile is kept in ``events``."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found
                result: dict[str, Any] = found["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._read, 1 << 16)
            assert piece, "the browser has gone"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        if "method" in found:
            self.events.append(found)
        return found

    def open(self, page: Path | str) -> None:
        """Load a file or an address and wait until it is there."""
        self.events.clear()
        self.send("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._next()

    def size(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Make the window so many pixels wide and high, in a light or dark scheme."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def run(self, script: str) -> Any:  # noqa: ANN401
        """Return the value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path: Path, height: int | None = None) -> None:
        """Write a screenshot of the whole page, or of its first pixels."""
        metrics = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": metrics["width"], "height": height or metrics["height"], "scale": 1}
        shot = self.send("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """What the console says of the page, its script's exceptions, and requests that did not stay on this disk."""
        methods = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        said = [event for event in self.events if event["method"] in methods]
        sent = [event["params"]["request"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return said + [request for request in sent if not request["url"].startswith("file:")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)


def photograph(page: Path | str, target: Path, height: int, script: str = "", patience: float = 0) -> None:
    """Write the first pixels of a page, 1400 wide, as a small PNG: the pictures of reports and TensorBoard in docs/.

    A page with a ``script`` is loaded again after it has run there. One that goes on loading by itself is given
    ``patience``, in seconds.
    """
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder)) as browser:
        browser.size(1400, height)
        browser.open(page)
        if script:
            browser.run(script)
            browser.open("about:blank")  # else a mere fragment of the same page would be another one, never loaded
            browser.open(page)
        time.sleep(patience)
        browser.picture(target, height)
    with Image.open(target) as picture:
        small = picture.convert("RGB").resize((1000, height * 1000 // 1400), Image.Resampling.LANCZOS)
    small.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":  # python -m tests.browser PAGE PNG HEIGHT
    photograph(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
