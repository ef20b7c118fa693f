"""One child process that cannot outlive its owner."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from usage_worker.errors import ProcessError
from usage_worker.local.account import Account, identity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
TAIL_BYTES = 4096


class ChildProcess:
    """A command in a session of its own, so that Ctrl-C in the terminal reaches only its owner.

    On Linux the kernel sends it `orphan_signal` when its owner dies, SIGKILL included. That watch is on the
    *thread* that starts it: start from one that lives as long as the child shall.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        orphan_signal: signal.Signals | None = None,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        account: Account | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start the command.

        Args:
            name: how messages and the passed through output call it.
            command: program and arguments.
            stop_signal: what asks it to stop.
            orphan_signal: what it gets when its owner dies; the stop signal when None.
            env: its whole environment; the owner's when None.
            log: the file that its output is appended to; when None, it is passed through to standard error,
                the name before each line.
            account: whom to run it as; the owner when None.
            pass_fds: open files that it inherits.

        Raises:
            ProcessError: it cannot be started.
        """
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        self._asked_to_stop = False
        output = subprocess.PIPE if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd="/" if account else None,  # the account may be unable to enter the owner's
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=_stop_with_owner(orphan_signal or stop_signal),  # noqa: PLW1509 - two system calls, nothing that locks
                **identity(account),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ProcessError(f"{name} cannot be started: {error}") from error
        finally:
            if log is not None:
                os.close(output)
        if log is None:
            threading.Thread(target=self._pass_through, name=f"output of {name}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; a negative signal number where a signal ended it."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Send the stop signal, once: a second one would make Celery drop what it is finishing."""
        if not self._asked_to_stop:
            self._asked_to_stop = True
            self.send(self._stop_signal)

    def send(self, signal_number: signal.Signals) -> None:
        self._process.send_signal(signal_number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code.

        Raises:
            TimeoutError: it still runs.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout} s") from None

    def stop(self, timeout: float) -> bool:
        """Ask it to stop, kill it after `timeout` seconds, and return whether it stopped by itself."""
        self.ask_to_stop()
        try:
            self.wait(timeout)
        except TimeoutError:
            self.kill()
            return False
        self._kill_group()  # children that it may have left behind
        return True

    def kill(self) -> None:
        """End it and its children at once."""
        self._kill_group()
        self._process.kill()
        self._process.wait()

    def log_tail(self) -> str:
        """The end of its log file."""
        if self.log is None or not self.log.exists():
            return ""
        return self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return  # nobody is left in it (macOS says so with EPERM)

    def _pass_through(self) -> None:
        stream = self._process.stdout
        if stream is None:
            return
        with stream:
            for line in stream:
                sys.stderr.write(f"{self.name:<8} | {line.decode(errors='replace')}")


def _stop_with_owner(orphan_signal: signal.Signals) -> Callable[[], None] | None:
    """What the child does between fork and exec, after the change of account that would undo it."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: no loading between fork and exec
    owner = os.getpid()

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, int(orphan_signal), 0, 0, 0)
        if os.getppid() != owner:
            os._exit(1)  # the owner died before the kernel was told to watch it

    return prepare
