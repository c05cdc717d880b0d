"""Kubeconfigs as text."""

import base64
import json
from pathlib import Path

import pytest
import yaml

from nixkube_deploy.backends.kubernetes.kubeconfig import (
    KubeconfigText,
    in_cluster,
    inline_files,
    is_local,
    load,
    referenced_files,
    rewrite_server,
    without_plugin,
)
from nixkube_deploy.model.error import TaskError


def config(server: str = "https://127.0.0.1:6443", user: dict[str, object] | None = None, **cluster: object) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "default",
            "clusters": [{"name": "default", "cluster": {"server": server, **cluster}}],
            "contexts": [
                {"name": "default", "context": {"cluster": "default", "user": "default"}},
                {"name": "lost", "context": {"cluster": "nowhere", "user": "default"}},
            ],
            "users": [{"name": "default", "user": user or {"token": "t0ken"}}],
        }
    )


def server_of(text: str) -> str:
    return yaml.safe_load(text)["clusters"][0]["cluster"]["server"]


@pytest.mark.parametrize(
    ("server", "address", "rewritten"),
    [
        ("https://127.0.0.1:6443", "10.0.0.11", "https://10.0.0.11:6443"),
        ("https://127.0.0.1:6443", "cp1.lan", "https://cp1.lan:6443"),
        ("https://[::1]:6443", "fd00::1", "https://[fd00::1]:6443"),
        ("https://localhost:6443/prefix", "10.0.0.11", "https://10.0.0.11:6443/prefix"),
        ("http://0.0.0.0:8001", "10.0.0.11", "http://10.0.0.11:8001"),
        ("https://127.0.0.1", "10.0.0.11", "https://10.0.0.11"),
        ("https://api.example:6443", "10.0.0.11", "https://api.example:6443"),
    ],
)
def test_a_loopback_server_becomes_the_hosts_address(server: str, address: str, rewritten: str) -> None:
    assert server_of(rewrite_server(config(server), address)) == rewritten


def test_everything_else_of_a_rewritten_kubeconfig_stays() -> None:
    before, after = yaml.safe_load(config()), yaml.safe_load(rewrite_server(config(), "10.0.0.11"))

    assert after["users"] == before["users"]
    assert after["current-context"] == "default"


def test_files_on_the_host_are_listed_and_inlined() -> None:
    secrets = "/var/lib/kubernetes/secrets"
    user = {"client-certificate": f"{secrets}/admin.pem", "client-key": f"{secrets}/admin-key.pem"}
    text = config(user=user, **{"certificate-authority": f"{secrets}/ca.pem"})

    files = referenced_files(text)
    assert files == (f"{secrets}/ca.pem", f"{secrets}/admin.pem", f"{secrets}/admin-key.pem")

    inlined = inline_files(text, {path: f"content of {path}" for path in files})
    assert referenced_files(inlined) == ()
    key = yaml.safe_load(inlined)["users"][0]["user"]["client-key-data"]
    assert base64.b64decode(key).decode() == f"content of {secrets}/admin-key.pem"


def test_a_token_file_is_inlined_as_the_token() -> None:
    inlined = inline_files(config(user={"tokenFile": "/run/token"}), {"/run/token": "abc\n"})

    assert yaml.safe_load(inlined)["users"][0]["user"] == {"token": "abc"}


def test_a_kubeconfigs_text_is_never_shown() -> None:
    assert "t0ken" not in repr(KubeconfigText(config()))


def test_relative_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(config(user={"tokenFile": "token"}, **{"certificate-authority": "/etc/ca.pem"}))

    loaded, name = load(str(path), None)

    assert name == str(path)
    assert loaded["users"][0]["user"]["tokenFile"] == str(tmp_path / "token")
    assert loaded["clusters"][0]["cluster"]["certificate-authority"] == "/etc/ca.pem"


def test_an_exec_plugin_is_told_its_version_and_the_cluster_where_it_asks() -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "aws", "provideClusterInfo": True}
    loaded, _ = load(KubeconfigText(config(user={"exec": plugin})), None)

    known = loaded["users"][0]["user"]["exec"]
    info = json.loads(known["env"][-1]["value"])
    assert known["command"] == "aws"
    assert info["apiVersion"] == "client.authentication.k8s.io/v1"
    assert info["spec"]["cluster"]["server"] == loaded["clusters"][0]["cluster"]["server"]


def test_an_exec_plugin_beside_the_kubeconfig_is_found_there(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(config(user={"exec": {"command": "./login"}}))
    loaded, _ = load(str(tmp_path / "config"), None)

    bare, plugin = without_plugin(loaded)
    assert plugin is not None
    assert plugin["command"] == str(tmp_path / "login")
    assert bare["users"] == [{"name": "u", "user": {}}]


def a_pod(folder: Path) -> dict[str, str]:
    for name in ("ca.crt", "token"):
        (folder / name).write_text(name)
    return {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}


def test_a_pod_has_a_kubeconfig_of_its_own(tmp_path: Path) -> None:
    found = in_cluster(a_pod(tmp_path), tmp_path)

    ca, token = str(tmp_path / "ca.crt"), str(tmp_path / "token")
    assert found["clusters"][0]["cluster"] == {"server": "https://[fd00::1]:443", "certificate-authority": ca}
    assert found["users"][0]["user"] == {"tokenFile": token}


def test_what_is_no_pod_says_so(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="KUBERNETES_SERVICE_HOST is not set"):
        in_cluster({}, tmp_path)
    environ = a_pod(tmp_path)
    (tmp_path / "token").unlink()
    with pytest.raises(TaskError, match="has no ca"):
        in_cluster(environ, tmp_path)


@pytest.mark.parametrize(
    ("text", "context", "message"),
    [
        ("[", None, r"is not YAML \(line 1\)"),
        ("hello", None, "is not a kubeconfig"),
        ("clusters: 7", None, "has clusters that are not a list"),
        ("clusters: [{name: a}]", None, "has clusters that are not a list of named entries"),
        ("{}", None, "no context is chosen"),
        (config(), "other", "has no context 'other'; it has default, lost"),
        (config(), "lost", "has no cluster 'nowhere'"),
    ],
)
def test_an_unusable_kubeconfig_says_what_is_wrong(text: str, context: str | None, message: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        load(KubeconfigText(text), context)

    assert not caught.value.failure.transient
    assert "t0ken" not in str(caught.value.failure)


def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="No such file") as caught:
        load(str(tmp_path / "none"), None)
    assert str(tmp_path / "none") in caught.value.failure.message


def test_only_this_machine_is_local() -> None:
    assert is_local("http://127.0.0.1:8080")
    assert is_local("https://localhost:6443")
    assert is_local("https://[::1]:6443")
    assert not is_local("https://10.0.0.1:6443")
    assert not is_local("https://api.example")
