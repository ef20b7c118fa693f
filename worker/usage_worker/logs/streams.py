"""Standard error and output as log lines: what libraries and commands print is JSON, too, where logs are JSON."""

from __future__ import annotations

import atexit
import json
import logging
import sys
import threading
from contextlib import suppress
from typing import Any, TextIO, cast

from usage_worker.printable import LINE_LENGTH, printable

# Longest line of a child process that is passed on; a log line has several fields, each cut for itself.
PASSED_LENGTH = 10 * LINE_LENGTH


class LoggedStream:
    """Takes the place of a standard stream, and logs each line that is written to it.

    It is no `io` object on purpose: code that finds a `fileno` would write past it.
    """

    encoding, errors, closed = "utf-8", "backslashreplace", False

    def __init__(self, stream: TextIO | None, name: str, level: int, handler: logging.Handler) -> None:
        self.stream = stream
        self._name, self._level, self._handler = name, level, handler
        # The beginning of a line of each thread, and whether the handler itself is writing.
        self._state = threading.local()

    def write(self, text: str) -> int:
        *lines, self._state.rest = (getattr(self._state, "rest", "") + text).split("\n")
        for line in lines:
            self._log(line)
        return len(text)

    def writelines(self, texts: list[str]) -> None:
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        """Do nothing: a line is logged when it ends."""

    def finish(self) -> None:
        """Log the line that has not ended."""
        if getattr(self._state, "rest", ""):
            self.write("\n")

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def pass_on(self, process: str, line: str) -> None:
        """Write a line of a child process with its name; log it unless it is a log line already."""
        try:
            fields = json.loads(line)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            self._handler.handle(logging.LogRecord(process, self._level, "", 0, line, None, None))
        elif self.stream:
            self._handler.acquire()
            try:
                self.stream.write(json.dumps({"process": process, **fields}) + "\n")
                self.stream.flush()
            finally:
                self._handler.release()

    def _log(self, line: str) -> None:
        text = line.strip()
        # A handler that fails reports to standard error, which would begin again.
        if not text or getattr(self._state, "busy", False):
            return
        self._state.busy = True
        try:
            # Not through a logger: what was printed has no level by which it may be left out.
            self._handler.handle(logging.LogRecord(self._name, self._level, "", 0, text, None, None))
        finally:
            self._state.busy = False


def original(stream: TextIO | None) -> TextIO | None:
    """Return the stream itself, or the one whose place a `LoggedStream` has taken."""
    return stream.stream if isinstance(stream, LoggedStream) else stream


def capture_streams(handler: logging.Handler, *, stdout: bool) -> None:
    """Log what is printed to standard error, and to standard output if wished."""
    errors = LoggedStream(original(sys.stderr), "stderr", logging.WARNING, handler)
    # Celery and others write to the original streams, too.
    sys.stderr = sys.__stderr__ = cast("Any", errors)  # type: ignore[misc]
    atexit.register(errors.finish)
    if stdout:
        output = LoggedStream(original(sys.stdout), "stdout", logging.INFO, handler)
        sys.stdout = sys.__stdout__ = cast("Any", output)  # type: ignore[misc]
        atexit.register(output.finish)


def report_failure(message: str) -> None:
    """Write why a command fails: one line for people, an error in the log for machines."""
    line = printable(message, LINE_LENGTH)
    if isinstance(sys.stderr, LoggedStream):
        logging.getLogger("usage-worker").error(line)
    elif sys.stderr:
        sys.stderr.write(f"usage-worker: {line}\n")


def pass_on(process: str, line: str) -> None:
    """Write a line of a child process to standard error, whatever becomes of it: the child waits for its reader."""
    with suppress(OSError, ValueError):
        if isinstance(sys.stderr, LoggedStream):
            sys.stderr.pass_on(process, line)
        elif sys.stderr:
            sys.stderr.write(f"{process:<8} | {printable(line, PASSED_LENGTH)}\n")
