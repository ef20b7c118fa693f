"""The manifests for Kubernetes, which no cluster runs here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
MANIFESTS = FOLDER / "usage-worker.yaml"


@pytest.fixture(scope="module")
def pods() -> dict[str, Any]:
    """Return the specification of each container's pod, by the name of the container."""
    items = yaml.safe_load(MANIFESTS.read_text("utf-8"))["items"]
    templates = [item["spec"]["template"]["spec"] for item in items if item["kind"] in {"Job", "Deployment"}]
    return {pod["containers"][0]["name"]: pod for pod in templates}


def test_each_pod_has_the_secrets_that_it_reads_and_no_others(pods: dict[str, Any]) -> None:
    for pod in pods.values():
        [secret] = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        mounted = {item["path"]: item["key"] for item in secret.get("items", [])}
        read = set(re.findall(r"/run/secrets/([\w.]+)", yaml.safe_dump(pod["containers"])))
        assert mounted == {name: name for name in read}


def test_owner_is_only_in_pods_of_migrations_and_maintenance(pods: dict[str, Any]) -> None:
    assert {name for name, pod in pods.items() if "owner_url" in str(pod["volumes"])} == {"migrate", "maintenance"}


def test_pods_have_no_variables_of_services(pods: dict[str, Any]) -> None:
    assert {name for name, pod in pods.items() if pod["enableServiceLinks"] is not False} == set()


def test_probes_wait_longer_than_a_busy_machine_takes(pods: dict[str, Any]) -> None:
    probes = [probe for pod in pods.values() for kind, probe in pod["containers"][0].items() if kind.endswith("Probe")]
    assert len(probes) == 5
    for probe in probes:
        # 7 s were measured for a command in a container that lives.
        assert probe["timeoutSeconds"] >= (60 if "exec" in probe else 10)


def test_autoscaler_has_one_value_of_all_shards() -> None:
    text = (FOLDER / "scale-by-lag.yaml").read_text("utf-8")
    adapter = yaml.safe_load(re.sub("(?m)^# {3}", "", "".join(re.findall(r"(?m)^# {3}.*\n", text))))
    [rule] = adapter["rules"]["external"]
    [metric] = yaml.safe_load(text)["spec"]["metrics"]
    assert metric["external"]["metric"] == {"name": rule["name"]["as"]}
    assert rule["metricsQuery"].startswith("max(")
