"""The command line itself, as real processes: help, version, completion, wrong words, and Ctrl-C at any moment."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from textwrap import dedent
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.commands import PROGRAM, Cli, events
from tests.integration.database import run
from usage_worker.cli.commands import NAMES

if TYPE_CHECKING:
    from pathlib import Path

COMPLETE = """
    PATH="$(dirname "$1"):$PATH"
    eval "$(usage-worker --show-completion)"
    COMP_WORDS=(usage-worker {words}) COMP_CWORD={index}
    $(complete -p usage-worker | sed 's/.*-F \\([^ ]*\\).*/\\1/') usage-worker
    echo "${{COMPREPLY[@]}}"
"""
# The name of the program stands in the messages.
BY_ITSELF = ("env", PROGRAM)
READING = ("status", "schedule", "report", "dead-letters list", "anomalies", "migrate status", "run reconcile", "drain")


@pytest.fixture
def bare_cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def cli(tmp_path: Path, database: str, redis_url: str) -> Cli:
    return Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)


def test_help_has_two_names_everywhere_and_at_most_20_commands_at_the_top(bare_cli: Cli) -> None:
    for command in ("", "run", "run purge", "dead-letters list", "bench"):
        short, long = (bare_cli.run(*command.split(), option) for option in ("-h", "--help"))
        assert (short.returncode, short.stdout) == (0, long.stdout)
    (listed,) = [part for part in bare_cli.run("-h").stdout.split("╭─ ") if part.startswith("Commands")]
    assert re.findall(r"^│ ([\w-]+) ", listed, re.MULTILINE) == list(NAMES)
    assert len(NAMES) <= 20


def test_bash_completes_commands_and_options(bare_cli: Cli) -> None:
    def offered(words: str, index: int) -> set[str]:
        script = COMPLETE.format(words=words, index=index)
        command = ["bash", "-c", script, "bash", PROGRAM]
        done = subprocess.run(command, env=bare_cli.env, capture_output=True, text=True, timeout=60, check=True)
        assert not done.stderr
        return set(done.stdout.split())

    assert offered("dead", 1) == {"dead-letters"}
    assert {"purge", "reconcile", "dead-letters"} <= offered("run ''", 2)
    assert offered("report --b", 2) == {"--by"}


def test_zsh_is_offered_commands_with_their_help(bare_cli: Cli) -> None:
    bare_cli.env |= {"_USAGE_WORKER_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "usage-worker dead-letters "}
    assert '"replay":"Send dead letters again' in bare_cli.run(program=BY_ITSELF).stdout
    bare_cli.env["_USAGE_WORKER_COMPLETE"] = "source_zsh"
    assert bare_cli.run(program=BY_ITSELF).stdout.lstrip().startswith("#compdef usage-worker")


def test_wrong_words_are_one_line_and_exit_with_2(bare_cli: Cli) -> None:
    for command, line in {
        "frob": "No such command 'frob'; see `usage-worker --help`",
        "run purge --frob": "No such option: --frob; see `usage-worker run purge --help`",
        "dead-letters show": "Missing argument 'ID'; see `usage-worker dead-letters show --help`",
    }.items():
        done = bare_cli.run(*command.split(), program=BY_ITSELF)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"usage-worker: {line}\n")


def test_wrong_argument_is_not_called_a_setting(cli: Cli) -> None:
    for command, reason in {
        "dead-letters show 99999999": "there is no dead letter 99999999",
        "related nobody": "there is no agent 'nobody'",
        "publish missing.ndjson": "missing.ndjson: No such file or directory",
        "run purge --older-than soon": "--older-than: write 30d, 12h, 45m or 90s",
    }.items():
        assert cli.error_line(command) == f"usage-worker: an argument is wrong: {reason}"


def test_up_refuses_its_data_folder_before_anything_starts(cli: Cli) -> None:
    (cli.folder / "file").touch()
    for folder in ("file", "file/below"):
        line = cli.error_line(f"up --flower-port 0 --data-dir {folder}")
        assert (
            line == f"usage-worker: a setting is wrong: {cli.folder / 'file'} cannot be the data folder; set --data-dir"
        )
    # /proc is a folder in which even root can create none.
    assert "cannot create /proc/below" in cli.run("up", "--flower-port", "0", "--data-dir", "/proc/below").stderr


def test_up_prints_nothing_but_warnings_of_its_processes(cli: Cli, tmp_path: Path) -> None:
    command = [PROGRAM, "up", "--flower-port", "0", "--concurrency", "1", "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(
        command, cwd=cli.folder, env=cli.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert any(line.startswith("ready") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_url_that_cannot_be_read_is_the_same_error_in_every_command(cli: Cli) -> None:
    cli.env["DATABASE_URL"] = "postgresql://somebody:p%zz@localhost/usage"
    commands = ("report", "run graph", "migrate up", "dead-letters list", "search x", "anomalies", "drain")
    (line,) = set(cli.error_lines(*commands))
    assert line.startswith("usage-worker: a setting is wrong: DATABASE_URL cannot be read; write ")


def test_ctrl_c_at_any_moment_ends_a_command_without_a_traceback(cli: Cli) -> None:
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    cases = [(command, moments.uniform(0.0, 0.9)) for command in READING for _ in range(3)]

    def interrupted(command: str, after: float) -> tuple[str, float, int, str]:
        process = subprocess.Popen(
            [PROGRAM, *command.split()], cwd=cli.folder, env=cli.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=30)[1].decode()
        return command, after, process.returncode, errors

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda case: interrupted(*case), cases))
    for command, after, code, errors in done:
        # The interpreter itself, before it runs a line of ours, is ended by the signal and prints where it was.
        is_ours = re.search(r"usage_worker/.*, in main$", errors, re.MULTILINE)
        is_starting = not is_ours and (code == -signal.SIGINT or "Fatal Python error: init_" in errors)
        assert is_starting or code in {130, 0, 1}, (seed, command, after, code, errors)
        assert is_starting or not re.search("Traceback|Interrupt", errors), (seed, command, after, errors)
    assert sum(code == 130 for _, _, code, _ in done) > len(done) / 4


@pytest.mark.parametrize("command", ["report", "run reconcile", "run quality", "status"])
def test_ctrl_c_during_a_query_ends_a_command(cli: Cli, database: str, command: str) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(database) as holder:
        holder.execute("LOCK TABLE public.usage_dead_letters, public.usage_daily, public.usage_intake")
        holder.execute("LOCK TABLE public.usage_task_runs, public.user_agents, public.agents")
        process = subprocess.Popen(
            [PROGRAM, *command.split()], cwd=cli.folder, env=cli.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        eventually(lambda: run(database, waiting) != [(0,)], 30)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors


def test_driver_reports_no_rollback_that_fails_after_an_interruption(cli: Cli) -> None:
    """Ctrl-C came between a statement and its result; the error that ends the command is another one."""
    script = """
        import os, psycopg
        from usage_worker.logs import configure_from_environment
        configure_from_environment()
        try:
            with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
                connection.pgconn.send_query(b"SELECT pg_sleep(5)")
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print("ended")
    """
    done = cli.run(program=(sys.executable, "-c", dedent(script)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


def on_terminal(cli: Cli, width: int, command: str) -> list[str]:
    """Return the lines that a command prints on a terminal of this width, without colours."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (50, width))
    env = {name: value for name, value in cli.env.items() if name not in {"COLUMNS", "LINES"}} | {"TERM": "xterm"}
    process = subprocess.Popen([PROGRAM, *command.split()], cwd=cli.folder, env=env, stdout=its, stderr=its)
    os.close(its)
    printed = b""
    with suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:  # its end is an error
        while chunk := terminal.read(65_536):
            printed += chunk
    assert process.wait(30) == 0, printed
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.decode()).splitlines()


def test_tables_cut_nothing_at_any_width(cli: Cli) -> None:
    cli.env |= {"USAGE_UNKNOWN": "create", "USAGE_TIMEZONE": "Asia/Kolkata"}
    one = events(1, input_tokens=1_204_331, cost_usd="1234.5", response_time_ms=1_500).encode()
    assert cli.run("publish", "-", stdin=one).returncode == 0
    assert cli.run("run", "partitions").returncode == cli.run("drain").returncode == 0
    ended = json.loads(cli.run("schedule", "--json").stdout)["schedule"]
    (last,) = [datetime.fromisoformat(it["last_run"]) for it in ended if it["name"] == "partitions"]
    words = {
        "report --days 1": ["1,204,331", "$1,234.50", "1,500", "success", "users"],
        "schedule": [f"{last:%Y-%m-%d}", f"{last:%H:%M:%S}", "IST", "next", "took", "dead_letters"],
        "migrate status": ["033_usage_hour_marking", "applied", "UTC", "took"],
    }
    cases = [(width, command) for command in words for width in (40, 80, 100, 160)]
    with ThreadPoolExecutor(2) as pool:
        shown = dict(zip(cases, pool.map(lambda case: on_terminal(cli, *case), cases), strict=True))
    for width in (100, 160):
        assert any(line.startswith("┏") for line in shown[width, "report --days 1"]), width
    for (width, command), lines in shown.items():
        # A sentence below a table is broken by the terminal.
        assert max(len(line) for line in lines if not line.startswith("the schema is")) <= width, (
            width,
            command,
            lines,
        )
        assert set(words[command]) <= set(" ".join(lines).split()), (width, command, "\n".join(lines))
    assert [len(line.split("\t")) for line in cli.run("report", "--days", "1").stdout.splitlines()] == [11, 11]
