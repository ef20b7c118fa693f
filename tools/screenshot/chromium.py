"""Debian's Chromium without a window, driven by its DevTools protocol over two pipes.

This needs no package and fits any version; Playwright would be 165 MB, Selenium another Debian package.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from select import select
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # it refuses to run as root with it, as in a container; the pages are ours
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)
SECONDS = 60
END = b"\0"


@dataclass
class Tab:
    """A tab of the browser; `events` has what the browser has told, in order."""

    _commands: IO[bytes]
    _answers: int
    session: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    _read: bytes = b""
    _last: int = 0

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Execute a command and return its result.

        Raises:
            RuntimeError: the command failed.
            TimeoutError: there was no answer for a minute.
        """
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        self._commands.write(json.dumps(message).encode() + END)
        self._commands.flush()
        deadline = time.monotonic() + SECONDS
        while (answer := self._next(deadline)).get("id") != self._last:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str, *, idle: bool = False) -> None:
        """Load a page; `events` is then what has happened since. With `idle`, wait until its scripts load no more."""
        self.send("Page.setLifecycleEventsEnabled", enabled=idle)
        self.events.clear()
        loader = self.send("Page.navigate", url=url).get("loaderId")
        deadline = time.monotonic() + SECONDS
        while not any(_is_loaded(event, loader, idle=idle) for event in self.events):
            self.events.append(self._next(deadline))

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, or that of its promise.

        Raises:
            RuntimeError: it threw.
        """
        done = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(str(done["exceptionDetails"]))
        return done["result"].get("value")

    def next_frame(self) -> None:
        """Wait until what has changed is laid out and painted; resize observers have run then."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done))).then(() => null)")

    def set_width(self, width: int, *, phone: bool = False) -> None:
        """Set the size of the screen in CSS pixels; the window itself cannot be narrower than 500."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=phone)

    def set_scheme(self, scheme: str) -> None:
        """Let the system prefer the scheme light or dark."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def _next(self, deadline: float) -> dict[str, Any]:
        while END not in self._read:
            if not select([self._answers], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            self._read += os.read(self._answers, 1 << 20) or _ended()
        message, _, self._read = self._read.partition(END)
        found: dict[str, Any] = json.loads(message)
        return found


def _is_loaded(event: dict[str, Any], loader: str | None, *, idle: bool) -> bool:
    told = event.get("params", {})
    if idle:
        return (told.get("name"), told.get("loaderId")) == ("networkIdle", loader)
    return bool(event.get("method") == "Page.loadEventFired")


def _ended() -> bytes:
    raise RuntimeError("Chromium has ended")


@contextmanager
def chromium() -> Iterator[Tab]:
    """Start a browser with an empty profile; yield its tab, whose page, network, log and scripts are watched.

    Raises:
        FileNotFoundError: there is no Chromium.
    """
    program = shutil.which("chromium")
    if program is None:
        raise FileNotFoundError("apt-get install chromium: there is no chromium")
    # Its processes may write into the profile until they have ended, too.
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile, _started(program, profile) as tab:
        target = tab.send("Target.createTarget", url="about:blank")["targetId"]
        tab.session = tab.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            tab.send(f"{domain}.enable")
        yield tab


@contextmanager
def _started(program: str, profile: str) -> Iterator[Tab]:
    """Start the browser, which reads commands from file descriptor 3 and writes answers to 4."""
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    # bash gives the pipes their numbers; Popen can only keep those that they have here.
    arguments = [program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    shell = ["bash", "-c", f'exec "$@" 3<&{commands_out} 4>&{answers_in}', "bash", *arguments]
    process = subprocess.Popen(
        shell,
        pass_fds=(commands_out, answers_in),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(commands_out)
    os.close(answers_in)
    try:
        with os.fdopen(commands_in, "wb") as commands:
            yield Tab(commands, answers_out)
    finally:
        os.close(answers_out)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
