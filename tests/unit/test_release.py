"""A release: one version everywhere, and a workflow that runs what CI runs."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_changelog_begins_with_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.findall(
        r"^## ([0-9.]+) - [0-9]{4}-[0-9]{2}-[0-9]{2}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert newest[0] == project["version"] == version("usage-worker")


def test_manifest_deploys_the_version_of_the_package() -> None:
    """A Job of the same name as that of the release before would not run again."""
    release = version("usage-worker")
    manifest = (ROOT / "deploy/kubernetes/usage-worker.yaml").read_text()
    assert set(re.findall(r"image: usage-worker:(\S+)", manifest)) == {release}
    for text in (manifest, (ROOT / "docs/deploy.md").read_text()):
        assert set(re.findall(r"usage-migrate-(\d[\d-]*)", text)) == {release.replace(".", "-")}


def test_workflow_calls_what_ci_runs() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert re.findall(r"^ +- run: (.+)$", workflow, re.MULTILINE) == [".ci/run"]


@pytest.mark.parametrize("page", ["deploy.md", "stability.md"])
def test_servers_install_the_wheel_of_this_checkout(page: str) -> None:
    """The name on PyPI may be anybody's."""
    installed = re.findall(r"pip install (.+)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    assert len(installed) == 1
    wheel = re.escape(f"./dist/usage_worker-{version('usage-worker')}-py3-none-any.whl")
    assert re.match(rf"'{wheel}\[\w+\]'", installed[0])
