"""A child process that ends with its owner."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from usage_worker.errors import ProcessError
from usage_worker.local.account import Account, credentials
from usage_worker.logs import pass_on

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
TAIL_BYTES = 4096


class ChildProcess:
    """A command in its own session, so that Ctrl-C in the terminal reaches only its owner.

    On Linux the kernel sends it `orphan_signal` when its owner dies, SIGKILL included. The kernel watches the *thread*
    that starts the command: start it from a thread that lives as long as the child should.

    Args:
        name: its name in messages and before each line of its output.
        command: program and arguments.
        stop_signal: the signal that asks it to stop.
        orphan_signal: the signal that it gets when its owner dies; the stop signal when None.
        env: its whole environment; that of the owner when None.
        log: the file to which its output is appended; when None, it goes to standard error, with the name before each
            line.
        account: the account to run it under; that of the owner when None.
        pass_fds: open files that it inherits.

    Raises:
        ProcessError: it cannot be started.
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
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        self._asked_to_stop = False
        output = subprocess.PIPE if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = _start(command, output, orphan_signal or stop_signal, env, account, pass_fds)
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
        """Exit code, None while it runs; the negative number of the signal that ended it."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Send the stop signal, once: a second one would make Celery abandon the tasks that it is finishing."""
        if not self._asked_to_stop:
            self._asked_to_stop = True
            self.send(self._stop_signal)

    def send(self, signal_number: signal.Signals) -> None:
        self._process.send_signal(signal_number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends, and return the exit code.

        Raises:
            TimeoutError: it still runs.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout} s") from None

    def stop(self, timeout: float) -> bool:
        """Ask it to stop, kill it after `timeout` seconds, and return whether it stopped without that."""
        self.ask_to_stop()
        try:
            self.wait(timeout)
        except TimeoutError:
            self.kill()
            return False
        self._kill_group()  # child processes that still run
        return True

    def kill(self) -> None:
        """Kill it and its child processes."""
        self._kill_group()
        self._process.kill()
        self._process.wait()

    def log_tail(self) -> str:
        """Return the last lines of its log file."""
        if self.log is None or not self.log.exists():
            return ""
        return self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return  # the group is empty, for which macOS has EPERM

    def _pass_through(self) -> None:
        stream = self._process.stdout
        if stream is None:
            return
        with stream:
            for line in stream:
                pass_on(self.name, line.decode(errors="replace").rstrip("\n"))


def _start(
    command: Sequence[str | Path],
    output: int,
    orphan_signal: signal.Signals,
    env: Mapping[str, str] | None,
    account: Account | None,
    pass_fds: Sequence[int],
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=env,
        cwd="/" if account else None,  # the account may be unable to enter the owner's folder
        pass_fds=pass_fds,
        start_new_session=True,
        preexec_fn=_stop_with_owner(orphan_signal),  # noqa: PLW1509 - two system calls that take no lock
        **credentials(account),
    )


def _stop_with_owner(orphan_signal: signal.Signals) -> Callable[[], None] | None:
    """Return what the child does between fork and exec; a change of account would undo it, and comes before."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # found before the fork: nothing is loaded between fork and exec
    owner = os.getpid()

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, int(orphan_signal), 0, 0, 0)
        if os.getppid() != owner:
            os._exit(1)  # the owner died before the kernel watched it

    return prepare
