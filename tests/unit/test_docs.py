"""The documents name files, functions, rooms, targets and terms that exist."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "worker" / "usage_worker"
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text("utf-8")
# A name, spaces, and the file that has it.
NAMED = re.compile(r"([\w.]+) {2,}(\w+/\w+\.(?:py|sql))\b")


def names_of(file: Path) -> set[str]:
    """Return the functions, methods and classes of a module, or the named queries of an SQL file."""
    text = file.read_text("utf-8")
    if file.suffix == ".sql":
        return set(re.findall(r"^-- name: (\w+)$", text, re.MULTILINE))
    return set(_names(ast.parse(text).body))


def _names(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield f"{prefix}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _names(node.body, f"{node.name}.")


def test_diagram_names_existing_functions() -> None:
    diagram = ARCHITECTURE.split("```")[1]
    named = NAMED.findall(diagram)
    assert len(named) == len(re.findall(r"\.(?:py|sql)\b", diagram)) > 30
    assert [(name, file) for name, file in named if name not in names_of(PACKAGE / file)] == []


@pytest.mark.parametrize("room", ["publisher", "ingest"])
def test_tables_have_the_files_of_a_room(room: str) -> None:
    table = ARCHITECTURE.split(f"### The files of {room}\n\n")[1].split("\n\n")[0]
    named = re.findall(r"`(\w+\.py)`", "".join(row.split("|")[1] for row in table.splitlines()))
    assert sorted(named) == sorted(file.name for file in (PACKAGE / room).glob("[!_]*.py"))


def test_contributing_names_what_the_code_has() -> None:
    recipes = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## How to add")[1]
    files = [file for folder in (PACKAGE, ROOT / "tests", ROOT / "migrations") for file in folder.rglob("*.*")]
    code = set(
        re.findall(r"\w+", "".join(it.name + it.read_text("utf-8") for it in files if it.suffix in {".py", ".sql"}))
    )
    named = {name for dotted in re.findall(r"`([A-Za-z_.]*_[a-z_.]+)`", recipes) for name in dotted.split(".")}
    assert len(named) > 20
    assert named - code == set()


def test_architecture_lists_every_redis_key() -> None:
    code = "".join(file.read_text("utf-8") for file in (PACKAGE / "queue").glob("*.py"))
    keys = set(re.findall(r'f?"(usage:[a-z]+)', code))
    assert len(keys) > 7
    assert sorted(key for key in keys if f"`{key}" not in ARCHITECTURE.split("## Where state is kept")[1]) == []


def test_architecture_lists_every_room_from_top_to_bottom() -> None:
    rooms = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", ARCHITECTURE.split("## Rooms")[1].split("## ")[0], re.MULTILINE)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    assert [set(re.findall(r"\w+", room)) for room in rooms] == [
        set(re.findall(r"\w+", layer)) for layer in contracts[0]["layers"]
    ]


def test_glossary_defines_terms_before_use() -> None:
    definitions = re.findall(r"^- \*\*([^*]+)\*\*: (.+?)(?=^- |^## |\Z)", GLOSSARY, re.MULTILINE | re.DOTALL)
    assert len(definitions) > 40
    # Neither code nor links count as use.
    prose = [re.sub(r"`[^`]*`|\[[^]]*\]\([^)]*\)", "", text) for _, text in definitions]
    early = [
        (term, later)
        for place, (term, _) in enumerate(definitions)
        for later, _ in definitions[place + 1 :]
        if re.search(rf"\b{_forms(later)}\b", prose[place])
    ]
    assert early == []


def _forms(term: str) -> str:
    """Return a pattern of the term's singular and plural."""
    return f"{term.removesuffix('y')}(?:y|ies)" if term.endswith("y") else f"{term}s?"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_point_to_files(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text("utf-8"))
    files = [target for target in targets if not re.match(r"\w+:", target)]
    assert [target for target in files if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_point_to_headings(document: Path) -> None:
    targets = re.findall(r"\]\(((?!\w+:)[^)#\s]*)#([^)\s]+)\)", document.read_text("utf-8"))
    pages = [(document.parent / file if file else document, anchor) for file, anchor in targets]
    assert [(page.name, anchor) for page, anchor in pages if anchor not in _anchors(page)] == []


@cache
def _anchors(page: Path) -> set[str]:
    """Return what GitHub calls the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_documents_name_existing_make_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = chain.from_iterable(
        re.findall(r"(?:`|^ {4})make ([a-z-]+)", document.read_text("utf-8"), re.MULTILINE) for document in DOCUMENTS
    )
    assert set(named) - targets == set()
