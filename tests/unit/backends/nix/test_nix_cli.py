"""NixCli on scripted programs: what it makes of answers, and which host it blames."""

import json
from pathlib import Path

import pytest

from nixkube_deploy.backends.nix.cli import NixCli
from nixkube_deploy.model.closure import Evaluated
from nixkube_deploy.model.names import HostName
from nixkube_deploy.ports.shell import SshInvocation
from tests.builders import store_path
from tests.fakes.process import FakeProcesses
from tests.fakes.shell import FakeShell

FLAKE = "/srv/fleet"
METADATA = json.dumps({"resolvedUrl": "path:/srv/fleet", "locked": {"narHash": "sha256-AAAA", "type": "path"}})
SYSTEM = store_path("nixos-system-w1")


class World:
    """One controller: programs, a shell, a chroot store in which builds leave their outputs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes = FakeProcesses().answers("nix", "flake", "metadata", stdout=METADATA)
        self.processes.answers("nix", "--version", stdout="nix (Nix) 2.28.5\n")
        self.shell = FakeShell()
        self.nix = NixCli(self.processes, self.ssh, self.shell, environ={"NIX_REMOTE": str(root)})

    @staticmethod
    def ssh(host) -> SshInvocation:
        return SshInvocation(f"root@{host.address}")

    def realise(self, path: str) -> None:
        (self.root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)


def data(name: str) -> dict[str, str]:
    out = store_path(f"nixos-system-{name}")
    return {"drvPath": f"{out}.drv", "out": out, "system": "x86_64-linux"}


def an_evaluated(name: str) -> Evaluated:
    d = data(name)
    return Evaluated(
        host=HostName(name), drv=d["drvPath"], out=store_path(f"nixos-system-{name}"), system="x86_64-linux"
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
