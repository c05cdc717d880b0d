"""What a host says over its own loopback, and small tools around Kubernetes: curl, etcdctl, ip."""

import json
import re
from http import HTTPStatus
from urllib.parse import urlsplit

from nixkube_deploy.lab.host import Call, LabHost

KUBELET_PORT = 10248
ETCD_PORTS = (2379, 2381)
_REFUSED = 7
_HTTP_ERROR = 22


async def curl(call: Call) -> int:
    """GET the kubelet's or etcd's health; nothing else listens. ``-w`` knows ``%{exitcode}`` only."""
    code = await _get(call)
    if "-w" in call.args[:-1]:
        call.out(call.args[call.args.index("-w") + 1].replace("\\n", "\n").replace("%{exitcode}", str(code)))
    return code


async def _get(call: Call) -> int:
    urls = [word for word in call.args if word.startswith("http")]
    if not urls:
        call.err("curl: no URL specified!\n")
        return 2
    url = urlsplit(urls[0])
    answer = _served(call.host, url.port, url.path) if url.hostname in ("127.0.0.1", "localhost") else None
    if answer is None:
        call.err(f"curl: (7) Failed to connect to {url.hostname} port {url.port or 80} after 0 ms: Could not connect\n")
        return _REFUSED
    status, body = answer
    flags = "".join(word for word in call.args if word.startswith("-") and not word.startswith("--"))
    if status >= HTTPStatus.BAD_REQUEST and "f" in flags:
        call.err(f"curl: (22) The requested URL returned error: {status}\n")
        return _HTTP_ERROR
    call.out(body)
    return 0


def _served(host: LabHost, port: int | None, path: str) -> tuple[int, str] | None:
    """Status and body; None when nothing listens there. An embedded etcd lives and dies with the node's unit."""
    kubelet = host.kubelet.healthz() if host.kubelet is not None else None
    if kubelet is None or port not in (KUBELET_PORT, *ETCD_PORTS):
        return None
    if port == KUBELET_PORT:
        return kubelet if path == "/healthz" else (404, "404 page not found")
    if host.role != "control-plane":
        return None
    if (trouble := _trouble(host)) is not None:
        return 503, json.dumps({"health": "false", "reason": trouble}, separators=(",", ":"))
    return 200, '{"health":"true","reason":""}'


def _trouble(host: LabHost) -> str | None:
    """Why the host's etcd member is not healthy. An alarm is everybody's, whichever member raised it."""
    faults = host.setting.faults
    if faults.peek(host.name, "etcd-member-down"):
        return "RAFT NO LEADER"
    alarms = [alarm for name in host.setting.peers if (alarm := faults.peek(name, "etcd-alarm")) is not None]
    if alarms:
        return f"ALARM {alarms[0].argument}"
    return "RANGE ERROR:rpc not supported for learner" if faults.peek(host.name, "etcd-learner") else None


async def etcdctl(call: Call) -> int:
    """``etcdctl endpoint health|status``, ``member list`` and ``alarm list`` of the embedded etcd."""
    words = [word for word in call.args if not word.startswith("-")]
    faults, peers = call.host.setting.faults, call.host.setting.peers
    members = [host for host in peers.values() if host.role == "control-plane"]
    healthy = {host.name: host.machine.powered and _trouble(host) is None for host in members}
    learners = {name for name in healthy if faults.peek(name, "etcd-learner")}
    if call.host.name not in healthy:
        call.err("Error: context deadline exceeded\n")
        return 1
    match words:
        case ["endpoint", "health"]:
            chosen = list(healthy) if "--cluster" in call.args else [call.host.name]
            return _health(call, {name: healthy[name] for name in chosen})
        case ["member", "list"]:
            return _members(call, list(healthy), learners)
        case ["alarm", "list"]:
            raised = [(name, fault) for name in healthy if (fault := faults.peek(name, "etcd-alarm")) is not None]
            call.out("".join(f"memberID:{int(_member_id(n), 16)} alarm:{fault.argument} \n" for n, fault in raised))
            return 0
        case ["endpoint", "status"]:
            call.out(
                "".join(
                    f"https://{name}:2379, {_member_id(name)}, 3.5.16, 20 MB, {name == min(healthy)}\n"
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


def _members(call: Call, names: list[str], learners: set[str]) -> int:
    if "-w=json" in call.args or "--write-out=json" in call.args:
        members = [{"ID": int(_member_id(name), 16), "name": name, "isLearner": name in learners} for name in names]
        call.out(json.dumps({"members": members}) + "\n")
        return 0
    for name in names:
        learner = str(name in learners).lower()
        call.out(f"{_member_id(name)}, started, {name}, https://{name}:2380, https://{name}:2379, {learner}\n")
    return 0


def _member_id(name: str) -> str:
    return f"{sum((i + 7) * 1_000_003 ** (i % 3) * b for i, b in enumerate(name.encode())):016x}"


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
