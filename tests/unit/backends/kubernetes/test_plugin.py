"""Credentials of exec plug-ins: real programs, a scripted API server over real sockets."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
import yaml

from nixkube_deploy.backends.kubernetes.connect import open_cluster
from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText
from nixkube_deploy.model.error import TaskError
from tests.fakes.clock import EPOCH, ManualClock
from tests.fakes.http_server import Asked, HttpServer, Says

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

NODE = {"metadata": {"name": "w1", "resourceVersion": "1"}}


class Plugin:
    """A program that numbers its tokens; how often it ran is seen from outside."""

    def __init__(self, folder: Path, **status: object) -> None:
        self.runs = folder / "runs"
        self.script = folder / "plugin.py"
        self.script.write_text(
            "import json, os, sys\n"
            f"runs = {str(self.runs)!r}\n"
            "open(runs, 'a').write('x')\n"
            "version = json.loads(os.environ['KUBERNETES_EXEC_INFO'])['apiVersion'].rpartition('/')[2]\n"
            f"status = {status!r}\n"
            "status['token'] = f'{version}-{os.path.getsize(runs)}-' + os.environ.get('SUFFIX', '')\n"
            "print(json.dumps({'kind': 'ExecCredential', 'status': status}))\n"
        )

    @property
    def count(self) -> int:
        return self.runs.stat().st_size

    def config(self, version: str = "v1", **fields: object) -> dict[str, object]:
        env = [{"name": "SUFFIX", "value": "mine"}]
        args = {"command": sys.executable, "args": [str(self.script)], "env": env}
        return {"apiVersion": f"client.authentication.k8s.io/{version}", **args, **fields}


def kubeconfig(server: str, plugin: dict[str, object]) -> KubeconfigText:
    return KubeconfigText(
        yaml.safe_dump(
            {
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "users": [{"name": "u", "user": {"exec": plugin}}],
            }
        )
    )


def tokens(server: HttpServer) -> list[str]:
    return [asked.headers["authorization"] for asked in server.asked]


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha1"])
async def test_a_plugin_of_any_version_gives_a_token_once(tmp_path: Path, version: str) -> None:
    plugin, server = Plugin(tmp_path), HttpServer(lambda _: Says(data=NODE))
    async with server.running():
        text = kubeconfig(server.url, plugin.config(version))
        async with open_cluster(text, None, clock=ManualClock()) as cluster, anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(cluster.node, "w1")

    assert tokens(server) == [f"Bearer {version}-1-mine"] * 3
    assert plugin.count == 1


async def test_a_token_is_renewed_before_it_expires(tmp_path: Path) -> None:
    expires = (EPOCH + timedelta(minutes=10)).isoformat().replace("+00:00", "Z")
    plugin, server, clock = (
        Plugin(tmp_path, expirationTimestamp=expires),
        HttpServer(lambda _: Says(data=NODE)),
        ManualClock(),
    )
    async with (
        server.running(),
        open_cluster(kubeconfig(server.url, plugin.config()), None, clock=clock) as cluster,
    ):
        await cluster.node("w1")
        clock.advance(500)
        await cluster.node("w1")
        clock.advance(80)
        await cluster.node("w1")

    assert tokens(server) == ["Bearer v1-1-mine", "Bearer v1-1-mine", "Bearer v1-2-mine"]


async def test_a_token_the_server_refuses_is_replaced_once(tmp_path: Path) -> None:
    def judge(asked: Asked) -> Says:
        return Says(data=NODE) if asked.headers["authorization"] == "Bearer v1-2-mine" else Says(status=401, data={})

    plugin, server = Plugin(tmp_path), HttpServer(judge)
    async with (
        server.running(),
        open_cluster(kubeconfig(server.url, plugin.config()), None, clock=ManualClock()) as cluster,
    ):
        assert await cluster.node("w1") is not None

    assert plugin.count == 2


async def test_a_plugin_whose_tokens_are_all_refused_is_not_asked_for_ever(tmp_path: Path) -> None:
    plugin, server = Plugin(tmp_path), HttpServer(lambda _: Says(status=401, data={}))
    async with (
        server.running(),
        open_cluster(kubeconfig(server.url, plugin.config()), None, clock=ManualClock()) as cluster,
    ):
        with pytest.raises(TaskError, match="does not accept our credentials"):
            await cluster.node("w1")

    assert plugin.count == 2


def printing(text: str) -> dict[str, object]:
    return {"command": sys.executable, "args": ["-c", f"print({text!r})"]}


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        ({"command": "/nowhere/plugin", "installHint": "brew install it"}, "cannot be run: No such file.*brew install"),
        ({"command": "true", "interactiveMode": "Always"}, "wants a terminal"),
        ({"command": sys.executable, "args": ["-c", "import sys; sys.exit('log in first')"]}, "ended with 1: log in"),
        (printing("s3cret"), "printed no ExecCredential"),
        (printing('{"status": "s3cret"}'), "without a status"),
        (printing('{"status": {}}'), "neither a token nor a certificate"),
        (printing('{"status": {"token": "s3cret", "expirationTimestamp": "soon"}}'), "is not a time"),
        (
            printing('{"status": {"clientCertificateData": "s3cret", "clientKeyData": "k"}}'),
            "certificate and key cannot",
        ),
    ],
)
async def test_a_plugin_that_gives_nothing_usable_is_a_final_failure_without_what_it_printed(
    plugin: dict[str, object], says: str
) -> None:
    server = HttpServer(lambda _: Says(data=NODE))
    async with server.running(), open_cluster(kubeconfig(server.url, plugin), None, clock=ManualClock()) as cluster:
        with pytest.raises(TaskError, match=f"no credentials for the Kubernetes API: .*{says}") as caught:
            await cluster.node("w1")

    assert not caught.value.failure.transient
    assert "s3cret" not in json.dumps(repr(caught.value.failure))
    assert server.asked == []
