"""Services of the compose file as processes: with its root, user, mounts and limits of rights, and one network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from tests.integration.installed import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.system.image import Image

Service = dict[str, Any]
OUR_IMAGE = "usage-worker"
# Users of others' images, whose names differ on Debian.
ACCOUNTS = {"valkey": "redis"}
SECRETS = "/run/secrets"


def read_compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the compose file with its variables replaced, as compose does; one that is required must be given."""

    def value(match: re.Match[str]) -> str:
        name, operator, default = match["name"], match["operator"], match["default"]
        return variables[name] if name in variables or operator == ":?" else default

    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    pattern = r"(?<!\$)\$\{(?P<name>\w+)(?P<operator>:[-?])(?P<default>[^}]*)\}"
    document: dict[str, Any] = yaml.safe_load(re.sub(pattern, value, text).replace("$$", "$"))
    return document


class Containers:
    """Runs services in the root of our image, or in that of Debian with its servers; kills what is left at the end."""

    def __init__(self, compose: dict[str, Any], image: Image, debian: Image, folder: Path) -> None:
        self.services: dict[str, Service] = compose["services"]
        self._secrets = {name: Path(secret["file"]) for name, secret in compose["secrets"].items()}
        self._image, self._debian, self._folder = image, debian, folder
        (folder / "hosts").write_text(f"127.0.0.1 localhost {' '.join(self.services)}\n")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._network = subprocess.Popen(["unshare", "--net", "sh", "-ec", "ip link set lo up; exec sleep infinity"])

    def start(self, name: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(self._command(name, self.services[name]["command"]), stdout=log, stderr=log)
        self._processes[name] = process
        return process

    def run(
        self, name: str, command: list[str] | None = None, timeout: float = 100
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a container of a service, by default its own, until it ends."""
        words = self._command(name, command or self.services[name]["command"])
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)

    def is_healthy(self, name: str) -> bool:
        """Run the health check of a service."""
        kind, *words = self.services[name]["healthcheck"]["test"]
        done = self.run(name, ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words)
        if done.returncode:
            sys.stderr.write(f"{name}: {done.stdout}{done.stderr}")  # pytest shows it where the test fails
        return done.returncode == 0

    def stop(self, name: str) -> int:
        """Stop a service as a container engine does; return its exit code."""
        process = self._processes.pop(name)
        process.terminate()
        return process.wait(int(self.services[name].get("stop_grace_period", "10s").rstrip("s")))

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text("utf-8")

    def _command(self, name: str, command: list[str]) -> list[str]:
        service = self.services[name]
        image = self._image if service["image"] == OUR_IMAGE else self._debian
        user = ACCOUNTS.get(service.get("user", ""), service.get("user", image.user))
        rights = ["--inh-caps=-all", "--bounding-set=-all"] if service["cap_drop"] == ["ALL"] else []
        rights += ["--no-new-privs"] if "no-new-privileges:true" in service["security_opt"] else []
        variables = image.environment | {"HOSTNAME": name} | service.get("environment", {})
        inside = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *rights]
        inside += ["env", "--ignore-environment", f"--chdir={image.folder}"]
        inside += [f"{key}={value}" for key, value in variables.items()]
        script = "\n".join([*self._mounts(name, image.root), f'exec chroot {image.root} "$@"'])
        network = ["nsenter", f"--net=/proc/{self._network.pid}/ns/net", "unshare", "--mount", "--uts"]
        return [*network, "sh", "-ec", script, "sh", *inside, *command]

    def _mounts(self, name: str, root: Path) -> list[str]:
        """Return the shell commands that give a container its files."""
        service = self.services[name]
        binds = {"/etc/hosts": self._folder / "hosts"}
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            binds[target] = (ROOT if source.startswith(".") else self._folder) / source
        binds |= {f"{SECRETS}/{secret}": self._secrets[secret] for secret in service.get("secrets", [])}
        # Mount points are made while they can be; /run is empty at first.
        early = [_mount_point(root, *bind) for bind in binds.items() if not bind[0].startswith("/run")]
        late = [_mount_point(root, *bind) for bind in binds.items() if bind[0].startswith("/run")]
        return [
            f"hostname {name}",
            *early,
            f"mount --rbind {root} {root}",
            # A root without programs has those of this machine.
            *(f"mount --rbind /{name} {root}/{name}" for name in ("usr", "etc") if not (root / "usr" / "bin").exists()),
            *([f"mount -o remount,bind,ro {root}"] if service.get("read_only") else []),
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            f"mount -t tmpfs tmpfs {root}/run",
            *late,
            *(f"mkdir -p {root}{it}; mount -t tmpfs -o mode=1777 tmpfs {root}{it}" for it in service.get("tmpfs", [])),
            *(f"mount --bind {source} {root}{target}" for target, source in binds.items()),
            f"mount -o remount,ro {root}/run",
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._processes.values(), self._network):
            process.kill()
            process.wait()


def _mount_point(root: Path, target: str, source: Path) -> str:
    place = f"{root}{target}"
    return f"mkdir -p {place}" if source.is_dir() else f"mkdir -p {Path(place).parent}; touch {place}"
