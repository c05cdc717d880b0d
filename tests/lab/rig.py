"""One embedded lab and the product in front of it, as a person would use both: by their command lines."""

import base64
import json
import os
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Rig:
    """A running lab in ``directory``; ``deploy`` runs the product against it."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def inventory(self) -> Path:
        return self.directory / "inventory.yaml"

    @property
    def flake(self) -> Path:
        return self.directory / "flake"

    def lab(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run([sys.executable, "-m", "nixkube_deploy.lab", *arguments, "--dir", str(self.directory)], None, check)

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "nixkube_deploy", *map(str, arguments)]

    def deploy(self, *arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return run(self.command(*arguments), self.environment, check=False, timeout=timeout)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def state(self) -> dict:
        return json.loads(self.lab("status", "--json").stdout)

    def machines(self) -> dict[str, dict]:
        """Every machine's row of ``nixkube-lab status --json``, with its counters."""
        return {machine["host"]: machine for machine in self.state()["hosts"]}

    def nodes(self) -> dict[str, dict]:
        """Every Node, as the Kubernetes API has it."""
        return {node["metadata"]["name"]: node for node in self.kube("/api/v1/nodes")["items"]}

    def kube(self, path: str, body: object = None, method: str = "GET") -> dict:
        """One request to the Kubernetes API, as the administrator."""
        kubeconfig = json.loads((self.directory / "kubeconfig").read_text())
        cluster, user = kubeconfig["clusters"][0]["cluster"], kubeconfig["users"][0]["user"]
        trust = ssl.create_default_context(cadata=_decoded(cluster["certificate-authority-data"]))
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
            pair.write(_decoded(user["client-certificate-data"]) + _decoded(user["client-key-data"]))
            pair.flush()
            trust.load_cert_chain(pair.name)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            cluster["server"] + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, context=trust) as answer:
            return json.load(answer)

    def configure(self, host: str, **settings: object) -> None:
        """Edit a host's file of the flake: objects are merged, everything else is replaced."""
        path = self.flake / "hosts" / f"{host}.json"
        own = json.loads(path.read_text())
        for key, value in settings.items():
            own[key] = {**own.get(key, {}), **value} if isinstance(value, dict) else value
        path.write_text(json.dumps(own))

    @property
    def journals(self) -> list[Path]:
        """The journals of every run so far, oldest first."""
        return sorted(Path(self.environment["NIXKUBE_DEPLOY_STATE"]).glob("runs/*.jsonl"))


def run(
    argv: list[str], environment: dict[str, str] | None, check: bool = True, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout
    )
    assert done.returncode == 0 or not check, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done


@contextmanager
def a_lab(directory: Path, inventory: str | Path, *arguments: str) -> Iterator[Rig]:
    """A lab for the length of the block. ``arguments`` go to ``nixkube-lab up``."""
    rig = Rig(directory / "lab")
    rig.lab("up", str(ROOT / "inventories" / inventory), *arguments)
    try:
        rig.environment = {
            **os.environ,
            **environment_of(rig.directory / "env"),
            "NIXKUBE_DEPLOY_STATE": str(directory / "state"),
            "NO_COLOR": "1",
        }
        yield rig
    finally:
        rig.lab("down", check=False)


def environment_of(path: Path) -> dict[str, str]:
    """What sourcing the lab's ``env`` file would export."""
    script = f". {path} && env -0"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return dict(item.split("=", 1) for item in done.stdout.split("\0") if item)


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()
