"""What a host says over its own loopback, and small tools around Kubernetes: curl, etcdctl, ip."""

import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from nixkube_deploy.lab.etcd import member_id
from nixkube_deploy.lab.host import Call, LabHost

KUBELET_PORT = 10248
_REFUSED = 7
_HTTP_ERROR = 22
_NO_CERTIFICATE = 56
_CERTIFICATE_UNREADABLE = 58
_TAKES_VALUE = frozenset({"-w", "--data", "-d", "--max-time", "--connect-timeout", "--cacert", "--cert", "--key"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    code: int = 0
    status: int = 0
    message: str = ""


async def curl(call: Call) -> int:
    """GET the kubelet's or etcd's health, or POST to etcd's gateway; nothing else listens."""
    words, options, flags = iter(call.args), dict[str, str](), ""
    urls = []
    for word in words:
        if word in _TAKES_VALUE:
            options[word] = next(words, "")
        elif word.startswith("-"):
            flags += "" if word.startswith("--") else word
        else:
            urls.append(word)
    if not urls:
        call.err("curl: no URL specified!\n")
        return 2
    ended = _get(call, urls[0], options, flags)
    if ended.code:
        call.err(f"curl: ({ended.code}) {ended.message}\n")
    for name, value in (
        ("exitcode", f"{ended.code}"),
        ("http_code", f"{ended.status:03}"),
        ("errormsg", ended.message),
    ):
        options["-w"] = options.get("-w", "").replace("\\n", "\n").replace(f"%{{{name}}}", value)
    call.out(options["-w"])
    return ended.code


def _get(call: Call, address: str, options: dict[str, str], flags: str) -> _Ended:
    url = urlsplit(address)
    here = url.hostname in ("127.0.0.1", "localhost")
    if not here or not _listens(call.host, url.port):
        what = f"Failed to connect to {url.hostname} port {url.port or 80} after 0 ms: Could not connect to server"
        return _Ended(code=_REFUSED, message=what)
    if url.scheme == "https" and not call.is_root:
        return _Ended(code=_CERTIFICATE_UNREADABLE, message="could not load PEM client certificate")
    if url.scheme == "https" and not {"--cert", "--key", "--cacert"} <= options.keys():
        return _Ended(code=_NO_CERTIFICATE, message="tlsv13 alert certificate required")
    status, body = _served(call.host, url.port, url.path, options.get("--data") or options.get("-d", ""))
    if status >= HTTPStatus.BAD_REQUEST and "f" in flags:
        return _Ended(code=_HTTP_ERROR, status=status, message=f"The requested URL returned error: {status}")
    call.out(body)
    return _Ended(status=status)


def _listens(host: LabHost, port: int | None) -> bool:
    if port == KUBELET_PORT:
        return host.kubelet is not None and host.kubelet.healthz() is not None
    return host.setting.etcd.serves(host.name, port)


def _served(host: LabHost, port: int | None, path: str, body: str) -> tuple[int, str]:
    if port == KUBELET_PORT:
        told = host.kubelet.healthz() if host.kubelet is not None else None
        return told if told is not None and path == "/healthz" else (404, "404 page not found")
    status, answer = host.setting.etcd.answer(host.name, path, body)
    return status, json.dumps(answer, separators=(",", ":"))


async def etcdctl(call: Call) -> int:
    """``etcdctl endpoint health|status``, ``member list`` and ``alarm list``."""
    words = [word for word in call.args if not word.startswith("-")]
    etcd = call.host.setting.etcd
    healthy = {name: etcd.trouble(name) is None for name in etcd.members}
    if call.host.name not in healthy:
        call.err("Error: context deadline exceeded\n")
        return 1
    match words:
        case ["endpoint", "health"]:
            chosen = list(healthy) if "--cluster" in call.args else [call.host.name]
            return _health(call, {name: healthy[name] for name in chosen})
        case ["member", "list"]:
            return _members(call, list(healthy), etcd.learners)
        case ["alarm", "list"]:
            call.out("".join(f"memberID:{member_id(name)} alarm:{kind} \n" for name, kind in etcd.alarms))
            return 0
        case ["endpoint", "status"]:
            call.out(
                "".join(
                    f"https://{name}:2379, {_hex(name)}, 3.5.16, 20 MB, {str(name == etcd.leader).lower()}\n"
                    for name in healthy
                )
            )
            return 0
        case _:
            call.err(f'Error: unknown command "{" ".join(words)}" for "etcdctl"\n')
            return 1


def _health(call: Call, healthy: dict[str, bool]) -> int:
    for name, fine in healthy.items():
        if fine:
            call.out(f"https://{name}:2379 is healthy: successfully committed proposal: took = 2.1ms\n")
        else:
            call.err(f"https://{name}:2379 is unhealthy: failed to commit proposal: context deadline exceeded\n")
    if all(healthy.values()):
        return 0
    call.err("Error: unhealthy cluster\n")
    return 1


def _members(call: Call, names: list[str], learners: frozenset[str]) -> int:
    if "-w=json" in call.args or "--write-out=json" in call.args:
        members = [{"ID": int(member_id(name)), "name": name, "isLearner": name in learners} for name in names]
        call.out(json.dumps({"members": members}) + "\n")
        return 0
    for name in names:
        learner = str(name in learners).lower()
        call.out(f"{_hex(name)}, started, {name}, https://{name}:2380, https://{name}:2379, {learner}\n")
    return 0


def _hex(name: str) -> str:
    return f"{int(member_id(name)):016x}"


async def flock(call: Call) -> int:
    """``flock [--nonblock] [--conflict-exit-code N] FILE COMMAND...``."""
    words = list(call.args)
    conflict, nonblock = 1, False
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word in ("-n", "--nonblock", "--nb"):
            nonblock = True
        elif word in ("-E", "--conflict-exit-code") and words:
            conflict = int(words.pop(0))
        elif word not in ("-x", "--exclusive", "-o", "--close"):
            return call.fail(f"unrecognized option '{word}'", 64)
    if len(words) < 2:  # noqa: PLR2004 (a file and a command)
        return call.fail("requires a file and a command", 64)
    path, argv = words[0], tuple(words[1:])
    if not call.is_root:
        return call.fail(f"cannot open lock file {path}: Permission denied", 66)
    held_by_fault = call.host.fault("host-lock-held")
    if held_by_fault is not None:
        call.host.machine.files["/run/nixkube-deploy.holder"] = held_by_fault.argument + "\n"
    if held_by_fault is not None or path in call.host.flocks:
        return conflict if nonblock else call.fail("would wait for ever", conflict)
    call.host.machine.files.setdefault(path, "")
    call.host.flocks.add(path)
    try:
        return await call.host.run_program(call.user, argv, call.streams, call.env)
    finally:
        call.host.flocks.discard(path)


async def pgrep(call: Call) -> int:
    """``pgrep -f PATTERN``: of what runs on the machine only the work of its installation has a name here."""
    patterns = [word for word in call.args if not word.startswith("-")]
    if not patterns:
        return call.fail("no matching criteria specified", 2)
    if not call.host.machine.at_work or re.search(patterns[0], call.host.machine.at_work) is None:
        return 1
    call.out("812\n")
    return 0


async def pkill(call: Call) -> int:
    """No process of the lab's outlives its connection, so there is never anything to be ended."""
    words = [word for word in call.args if not word.startswith("-")]
    return 1 if words else call.fail("no matching criteria specified", 2)
