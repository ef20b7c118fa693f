"""Signals that end a process which publishes: its events are sent before the signal takes its usual effect.

A server may end by restoring the handler that it found and raising the signal again, as uvicorn does: where there was
none, nothing runs then, not even `atexit`. Only the main thread can install handlers.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from usage_worker.publisher.recorders import RECORDERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

# Seconds for which a further SIGTERM, or the handler of an application or a server, waits until the events are sent.
WAIT_SECONDS = 1.0
# Seconds until the signal is raised again where it interrupted what may have buffered half of an event; that takes µs.
RETRY_SECONDS = 0.01
# Not empty once C code was found to have a handler: `track` is the caller, and must not read a file for each event.
_LEFT_TO_C: list[int] = []
# Sent by a closed terminal, and by container runtimes (STOPSIGNAL). An application that handles them need not end.
_OTHERS = (signal.SIGHUP, signal.SIGQUIT)


class Senders(Protocol):
    """What the handler asks of the senders of the process."""

    def busy(self) -> bool: ...

    def send_all(self, timeout: float) -> None: ...

    def finish(self) -> None: ...


def send_before_end(senders: Senders) -> None:
    """Let SIGTERM send the events first, unless it does already, is ignored, or this is not the main thread.

    It is repeated with the events: a server may install its handler after the application has made its publisher. Each
    time it installs its handler of SIGTERM, it also installs one for SIGHUP and SIGQUIT where nothing handles these.
    """
    if RECORDERS or threading.current_thread() is not threading.main_thread():
        return
    earlier = signal.getsignal(signal.SIGTERM)
    if callable(earlier):
        if not isinstance(earlier, _Before):
            _install_all(senders, earlier)
    elif earlier is signal.SIG_DFL and not _LEFT_TO_C:
        if _handled_in_c(signal.SIGTERM):
            _LEFT_TO_C.append(signal.SIGTERM)
        else:
            _install_all(senders, None)


class _Before:
    """A handler that sends the events, and then calls the `earlier` one, or ends the process."""

    def __init__(self, senders: Senders, earlier: Callable[[int, FrameType | None], Any] | None) -> None:
        self._senders, self._earlier = senders, earlier

    def __call__(self, number: int, frame: FrameType | None) -> None:
        # The kernel keeps an unhandled signal from process 1 of a container, which goes on until SIGKILL.
        if not self._earlier and os.getpid() != 1:
            self._end(number)
            return
        try:
            with suppress(Exception):
                self._senders.send_all(WAIT_SECONDS)
        finally:  # also after Ctrl-C in the meantime
            if self._earlier:
                self._earlier(number, frame)

    def _end(self, number: int) -> None:
        if self._senders.busy() and _raise_later(number):
            return
        # `timeout` sends it twice: to the process, and to its group. Not SIG_IGN, which a new process would inherit.
        signal.signal(number, _ignored)
        try:
            with suppress(Exception):
                self._senders.send_all(WAIT_SECONDS)
                signal.signal(number, signal.SIG_DFL)  # from now on a second one ends the process at once
                self._senders.finish()
        finally:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def _ignored(_: int, __: FrameType | None) -> None:
    """Do nothing."""


def _install_all(senders: Senders, earlier: Callable[[int, FrameType | None], Any] | None) -> None:
    _install(signal.SIGTERM, _Before(senders, earlier))
    for number in _OTHERS:
        if signal.getsignal(number) is signal.SIG_DFL and not _handled_in_c(number):
            _install(number, _Before(senders, None))


def _install(number: int, handler: _Before) -> None:
    with suppress(ValueError):  # in a subinterpreter
        signal.signal(number, handler)


def _raise_later(number: int) -> bool:
    timer = threading.Timer(RETRY_SECONDS, os.kill, (os.getpid(), number))
    timer.daemon = True
    try:
        timer.start()
    except Exception:  # noqa: BLE001 - whatever keeps a thread from starting
        return False
    return True


def _handled_in_c(number: int) -> bool:
    """Return whether C code has a handler, as that of a JVM or of uWSGI, of which `getsignal` does not know."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not on Linux
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)
