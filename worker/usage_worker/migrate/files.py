"""Find the migration files, read their headers and split them into statements."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from usage_worker.errors import MigrationError

EMPTY = "0.0.0"
"""The version of a database in which no migration has been applied."""

_DIRECTIVE = re.compile(r"^--\s*(version|transaction|lock_timeout):\s*(\S+)\s*$", re.MULTILINE)
_NAME = re.compile(r"(\d{3})_(\w+)\.up\.sql")
_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>--[^\n]*)
    | (?P<block>/\*)
    | [eE]'(?:[^'\\]|\\.|'')*'
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | [A-Za-z_\u0080-\uffff][\w$]*
    | (?P<dollar>\$(?:[A-Za-z_\u0080-\uffff]\w*)?\$)
    | (?P<end>;)
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK_EDGE = re.compile(r"/\*|\*/")


@dataclass(frozen=True)
class Migration:
    """One numbered step of the schema, with its rollback."""

    number: int
    name: str
    version: str
    transactional: bool
    lock_timeout: str
    up: Path

    @cached_property
    def up_sql(self) -> str:
        return self.up.read_text(encoding="utf-8")

    @property
    def down_sql(self) -> str:
        path = self._sibling("down")
        if not path.exists():
            raise MigrationError(f"{path.name} is missing, so {self.label} cannot be rolled back")
        return path.read_text(encoding="utf-8")

    @property
    def verify_sql(self) -> str | None:
        path = self._sibling("verify")
        return path.read_text(encoding="utf-8") if path.exists() else None

    @cached_property
    def sha256(self) -> str:
        """Checksum of the up file with unified line ends, since a checkout may change them."""
        return hashlib.sha256(self.up_sql.encode()).hexdigest()

    @property
    def label(self) -> str:
        return f"{self.number:03d}_{self.name}"

    def _sibling(self, role: str) -> Path:
        return self.up.with_name(f"{self.label}.{role}.sql")


def version_key(version: str) -> tuple[int, ...]:
    """Convert a version to a tuple that sorts in the order of versions.

    Raises:
        MigrationError: the version is not of the form 1.2.3.
    """
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        raise MigrationError(f"{version} is not a version; it looks like 3.0.0")
    return tuple(int(part) for part in version.split("."))


def discover(directory: Path | None = None) -> tuple[Migration, ...]:
    """Read all migrations in order, from `directory` or by default from the installation.

    Raises:
        MigrationError: there are none, or their headers or order are wrong.
    """
    found = tuple(_read(path) for path in sorted((directory or _directory()).glob("*.up.sql")))
    if not found:
        raise MigrationError("no migration files found; reinstall usage-worker")
    for before, after in pairwise(found):
        if before.number == after.number or version_key(before.version) > version_key(after.version):
            raise MigrationError(f"{after.label} does not follow {before.label}")
    return found


def latest_version() -> str:
    """Return the newest schema version of this code."""
    return discover()[-1].version


def split_statements(sql: str) -> list[str]:
    """Split a file into statements, without trailing comments and empty statements."""
    statements: list[str] = []
    start = position = 0
    empty = True
    while position < len(sql):
        token = _TOKEN.match(sql, position)
        assert token  # noqa: S101 - the last alternative takes any character
        position = token.end()
        if token["dollar"]:
            closing = sql.find(token["dollar"], position)
            position = len(sql) if closing < 0 else closing + len(token["dollar"])
        elif token["block"]:
            position = _block_end(sql, position)
            continue
        if token["end"]:
            if not empty:
                statements.append(sql[start : position - 1].strip())
            start, empty = position, True
        elif empty and not token["space"] and not token["comment"]:
            start, empty = token.start(), False
    if not empty:
        statements.append(sql[start:].strip())
    return statements


def _block_end(sql: str, position: int) -> int:
    """Find the end of a block comment; in SQL they nest."""
    depth = 1
    while depth and (edge := _BLOCK_EDGE.search(sql, position)):
        depth += 1 if edge.group() == "/*" else -1
        position = edge.end()
    return len(sql) if depth else position


def _directory() -> Path:
    package = Path(__file__).resolve().parent.parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent.parent / "migrations"


def _read(path: Path) -> Migration:
    name = _NAME.fullmatch(path.name)
    if not name:
        raise MigrationError(f"{path.name} is not named like 001_name.up.sql")
    text = path.read_text(encoding="utf-8")
    directives = dict(_DIRECTIVE.findall(text))
    if "version" not in directives:
        raise MigrationError(f"{path.name} has no version header (-- version: 3.0.0)")
    return Migration(
        number=int(name[1]),
        name=name[2],
        version=directives["version"],
        transactional=directives.get("transaction", "on") != "off",
        lock_timeout=directives.get("lock_timeout", "200ms"),
        up=path,
    )
