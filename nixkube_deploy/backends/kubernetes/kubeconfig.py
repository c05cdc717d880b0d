"""Kubeconfig files as text and data: read, made fit for a controller elsewhere, reduced to one context.

It deliberately opens no connection and knows no client library; contents of secrets pass through and are not printed.
"""

import base64
import ipaddress
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import yaml

from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind

FILE_KEYS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
"""Keys whose value is a path; all but tokenFile have a twin ``<key>-data`` that holds the content in base64."""

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds the token and the CA of its service account."""

EXEC_GROUP = "client.authentication.k8s.io/"


def tls_name_of(config: Mapping[str, Any] | None) -> str:
    """The name that the server's certificate is for, where that is not the one it is reached by."""
    return str(config["clusters"][0]["cluster"].get("tls-server-name") or "") if config is not None else ""


@dataclass(frozen=True, slots=True)
class KubeconfigText:
    """The content of a kubeconfig that was fetched, for example over SSH. It holds keys: never shown."""

    text: str = field(repr=False)
    elsewhere: tuple[str, ...] = ()
    """Other addresses at which the same API is served, on the same port."""


def fetched(text: str, address: str, others: Iterable[str]) -> KubeconfigText:
    """What a control-plane host at ``address`` keeps, made fit for use from elsewhere.

    A server on loopback is that host's own API server, and the ``others`` of the control plane have theirs; any other
    server is an address the cluster was given for all of them, and stays the only one.

    Raises:
        TaskError: CLUSTER, the text is not a kubeconfig.
    """
    rewritten = rewrite_server(text, address)
    own = rewritten != rewrite_server(text, "localhost")
    return KubeconfigText(rewritten, tuple(dict.fromkeys(o for o in others if o != address)) if own else ())


def servers_of(config: Mapping[str, Any], elsewhere: Iterable[str]) -> tuple[str, ...]:
    """The API servers of a reduced kubeconfig: its own, then the same URL at the other addresses."""
    server = str(config["clusters"][0]["cluster"].get("server", ""))
    return (server, *(_moved(server, address) for address in elsewhere))


def rewrite_server(text: str, address: str) -> str:
    """A kubeconfig made on a control-plane host, for use from elsewhere: loopback servers become ``address``.

    Port and scheme stay. A server that is not on loopback is left as it is.

    Raises:
        TaskError: CLUSTER, the text is not a kubeconfig.
    """
    config = _parse(text, "the fetched kubeconfig")
    for entry in config["clusters"]:
        server = urlsplit(str(entry["cluster"].get("server", "")))
        if _is_loopback(server.hostname or ""):
            entry["cluster"]["server"] = _moved(server.geturl(), address)
    return yaml.safe_dump(config, sort_keys=False)


def _moved(url: str, address: str) -> str:
    server = urlsplit(url)
    host = f"[{address}]" if ":" in address else address
    port = f":{server.port}" if server.port else ""
    return urlunsplit(server._replace(netloc=host + port))


def referenced_files(text: str) -> tuple[str, ...]:
    """Paths of the certificate and key files a kubeconfig points to; on another machine they must be inlined.

    Raises:
        TaskError: CLUSTER, the text is not a kubeconfig.
    """
    config = _parse(text, "the fetched kubeconfig")
    found = [entry[key] for entry in _holders(config) for key in FILE_KEYS if entry.get(key)]
    return tuple(dict.fromkeys(found))


def inline_files(text: str, contents: Mapping[str, str]) -> str:
    """The same kubeconfig with files replaced by what is in them; a file that is not in ``contents`` stays a path.

    Raises:
        TaskError: CLUSTER, the text is not a kubeconfig.
    """
    config = _parse(text, "the fetched kubeconfig")
    for entry in _holders(config):
        for key in FILE_KEYS:
            content = contents.get(entry.get(key, ""))
            if content is None:
                continue
            del entry[key]
            if key == "tokenFile":
                entry["token"] = content.strip()
            else:
                entry[f"{key}-data"] = base64.b64encode(content.encode()).decode()
    return yaml.safe_dump(config, sort_keys=False)


def load(source: str | KubeconfigText, context: str | None) -> tuple[dict[str, Any], str]:
    """A kubeconfig with exactly one context, its files absolute and its exec plug-in ready to be started.

    The second value names the source for messages.

    Raises:
        TaskError: CLUSTER, with what is missing and where.
    """
    if isinstance(source, KubeconfigText):
        name, folder, text = "the fetched kubeconfig", Path("/"), source.text
    else:
        path = Path(source).expanduser().absolute()
        name, folder, text = str(path), path.parent, _read(path)
    config = _parse(text, name)
    wanted = context or config.get("current-context")
    if not wanted:
        raise _unusable(name, "no context is chosen and it has no current-context", "set cluster.context")
    chosen = _named(config["contexts"], wanted, "context", name)
    cluster = dict(_named(config["clusters"], chosen.get("cluster", ""), "cluster", name))
    user = dict(_named(config.get("users") or [], chosen["user"], "user", name)) if chosen.get("user") else {}
    for entry in (cluster, user):
        for key in FILE_KEYS:
            if entry.get(key):
                entry[key] = str(folder / Path(str(entry[key])).expanduser())
    if user.get("exec"):
        user["exec"] = _told(user["exec"], folder, cluster)
    return _reduced(wanted, cluster, user), name


def is_local(server: str) -> bool:
    """Whether a server URL is on this machine, where no proxy of the environment applies (as in kubectl)."""
    return _is_loopback(urlsplit(server).hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def without_plugin(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A reduced kubeconfig for a client that runs no exec plug-ins, and the plug-in."""
    user = dict(config["users"][0]["user"])
    plugin = user.pop("exec", None)
    named = {**config["users"][0], "user": user}
    return {**config, "users": [named]}, plugin


def in_cluster(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> dict[str, Any]:
    """A reduced kubeconfig for the service account of the pod we run in; its token is read anew when it is refused.

    Raises:
        TaskError: CLUSTER, this is no pod, or one without a service account's token.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    files = {"certificate-authority": folder / "ca.crt", "tokenFile": folder / "token"}
    if not host or not all(path.is_file() for path in files.values()):
        why = "KUBERNETES_SERVICE_HOST is not set" if not host else f"{folder} has no ca.crt and token"
        raise _unusable("of the pod", f"this does not run in a pod with a service account: {why}", "set a path instead")
    address = f"[{host}]" if ":" in host else host
    cluster = {"server": f"https://{address}:{port}", "certificate-authority": str(files["certificate-authority"])}
    return _reduced("pod", cluster, {"tokenFile": str(files["tokenFile"])})


def _reduced(context: str, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "current-context": context,
        "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }


def _told(plugin: Mapping[str, Any], folder: Path, cluster: Mapping[str, Any]) -> dict[str, Any]:
    """The plug-in as kubectl would start it: told its API version, and the cluster where it asks for that."""
    command, version = str(plugin.get("command", "")), str(plugin.get("apiVersion", f"{EXEC_GROUP}v1"))
    spec: dict[str, Any] = {"interactive": False}
    if plugin.get("provideClusterInfo"):
        known = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
        spec["cluster"] = {key: cluster[key] for key in known if key in cluster}
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    if os.sep in command:
        command = str(folder / Path(command).expanduser())
    told = [*(plugin.get("env") or []), {"name": "KUBERNETES_EXEC_INFO", "value": json.dumps(info)}]
    return {**plugin, "command": command, "env": told}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _unusable(str(path), f"cannot be read: {reason}", "set cluster.kubeconfig in the inventory") from error


def _parse(text: str, name: str) -> dict[str, Any]:
    """The document, checked as far as everything here relies on it."""
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # The error quotes the text, and the text holds keys.
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise _unusable(name, f"is not YAML{where}", "look at it with: kubectl config view") from None
    if not isinstance(config, dict):
        raise _unusable(name, "is not a kubeconfig", "look at it with: kubectl config view")
    for key, inner in (("clusters", "cluster"), ("contexts", "context"), ("users", "user")):
        entries = config.get(key) or []
        if not isinstance(entries, list) or not all(_is_entry(entry, inner) for entry in entries):
            raise _unusable(name, f"has {key} that are not a list of named entries", "kubectl config view")
        config[key] = entries
    return config


def _is_entry(entry: object, inner: str) -> bool:
    return isinstance(entry, dict) and "name" in entry and isinstance(entry.get(inner), dict)


def _holders(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of a kubeconfig that may point to files."""
    return [entry["cluster"] for entry in config["clusters"]] + [entry["user"] for entry in config["users"]]


def _named(entries: list[dict[str, Any]], wanted: str, what: str, name: str) -> dict[str, Any]:
    for entry in entries:
        if entry["name"] == wanted:
            found: dict[str, Any] = entry[what]
            return found
    known = ", ".join(str(entry["name"]) for entry in entries) or "(none)"
    raise _unusable(name, f"has no {what} {wanted!r}; it has {known}", "kubectl config get-contexts")


def _unusable(name: str, why: str, then: str) -> TaskError:
    return task_error(FailureKind.CLUSTER, f"kubeconfig {name}: {why}", expected="a usable kubeconfig", next=then)
