"""The lab's etcd: a member on every control-plane host, one leader among them, and the answers of its HTTP gateway.

What it stores is ``kube.store``'s; this is only who is a member, who is alive and who leads. It deliberately knows no
more calls than etcd's health, status, member list, alarms and the move of its leader.
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from nixkube_deploy.lab.faults import FaultPlan
from nixkube_deploy.lab.kubelet import Kubelet, Phase
from nixkube_deploy.lab.machine import Machine, Personality

PLAIN_PORTS = (2379, 2381)
"""Where it is embedded the second serves health and metrics only, and needs no certificate."""
TLS_PORT = 2382
UNIT = "etcd.service"
Answer = tuple[int, dict[str, Any]]


class Peer(Protocol):
    """A host, as far as etcd knows it."""

    machine: Machine
    role: str
    kubelet: Kubelet | None


class LabEtcd:
    """All members, as far as they are known to one another: the lab's network never breaks between them."""

    def __init__(self, hosts: Mapping[str, Peer], faults: FaultPlan) -> None:
        self._hosts = hosts
        self._faults = faults
        self._leader = ""
        self._index = 4_000

    @property
    def members(self) -> tuple[str, ...]:
        """Hosts with a member, dead or alive: control-plane hosts with a Kubernetes."""
        return tuple(
            name
            for name, host in self._hosts.items()
            if host.role == "control-plane" and host.kubelet and host.machine.personality is Personality.NIXOS
        )

    @property
    def learners(self) -> frozenset[str]:
        """Members that do not vote."""
        return frozenset(name for name in self.members if self._faults.peek(name, "etcd-learner"))

    @property
    def alarms(self) -> tuple[tuple[str, str], ...]:
        """Who raised which."""
        found = ((name, self._faults.peek(name, "etcd-alarm")) for name in self.members)
        return tuple((name, fault.argument) for name, fault in found if fault is not None)

    @property
    def leader(self) -> str:
        """Who leads now; empty without a quorum. A leader that is gone is followed by the first that can."""
        alive = [name for name in self.members if self.is_up(name) and name not in self.learners]
        voters = len(self.members) - len(self.learners)
        if len(alive) <= voters // 2:
            return ""
        if self._leader not in alive:
            self._leader = alive[0]
        return self._leader

    def is_up(self, name: str) -> bool:
        """Whether a member's process runs: in the node's unit, or in one of its own."""
        host = self._hosts[name]
        if not host.machine.powered or self._faults.peek(name, "etcd-member-down"):
            return False
        if UNIT in host.machine.units:
            return host.machine.units[UNIT].is_active
        return host.kubelet is not None and host.kubelet.phase is Phase.RUNNING

    def serves(self, name: str, port: int | None) -> bool:
        """Whether something listens there."""
        if name not in self.members or not self.is_up(name):
            return False
        return port in PLAIN_PORTS if UNIT in self._hosts[name].machine.units else port in (2381, TLS_PORT)

    def trouble(self, name: str) -> str | None:
        """Why a member is not healthy. An alarm is everybody's, whichever member raised it."""
        if not self.is_up(name) or not self.leader:
            return "RAFT NO LEADER"
        if self.alarms:
            return f"ALARM {self.alarms[0][1]}"
        return "RANGE ERROR:rpc not supported for learner" if name in self.learners else None

    def answer(self, name: str, path: str, body: str) -> Answer:
        """Status and JSON of one call at one member."""
        if path == "/health":
            why = self.trouble(name)
            return (200, {"health": "true", "reason": ""}) if why is None else (503, {"health": "false", "reason": why})
        if path == "/v3/maintenance/status":
            return 200, self._status(name)
        if name in self.learners:
            return _wrong(503, "rpc not supported for learner", 14)
        if not self.leader:
            return _wrong(503, "etcdserver: request timed out", 14)
        match path:
            case "/v3/cluster/member/list":
                return 200, {"header": self._header(name), "members": [self._member(each) for each in self.members]}
            case "/v3/maintenance/alarm":
                raised = [{"memberID": member_id(each), "alarm": kind} for each, kind in self.alarms]
                return 200, {"header": self._header(name)} | ({"alarms": raised} if raised else {})
            case "/v3/maintenance/transfer-leadership":
                return self._transfer(name, body)
            case _:
                return _wrong(404, "Not Found", 5)

    def _header(self, name: str) -> dict[str, str]:
        return {"cluster_id": "14841639068965178418", "member_id": member_id(name), "raft_term": "7"}

    def _status(self, name: str) -> dict[str, Any]:
        self._index += 1
        found: dict[str, Any] = {"header": self._header(name), "version": "3.5.16", "dbSize": "20480"}
        if self.leader:
            found["leader"] = member_id(self.leader)
        found |= {"raftIndex": str(self._index), "raftTerm": "7", "raftAppliedIndex": str(self._index)}
        return found | ({"isLearner": True} if name in self.learners else {})

    def _member(self, name: str) -> dict[str, Any]:
        found = {
            "ID": member_id(name),
            "name": name,
            "peerURLs": [f"https://{name}:2380"],
            "clientURLs": [f"https://{name}:2379"],
        }
        return found | ({"isLearner": True} if name in self.learners else {})

    def _transfer(self, name: str, body: str) -> Answer:
        """Only the leader can hand over, and only to a voter that is there."""
        try:
            wanted = str(json.loads(body)["targetID"])
        except (ValueError, KeyError, TypeError):
            return _wrong(400, "invalid request", 3)
        target = next((each for each in self.members if member_id(each) == wanted), "")
        if name != self.leader:
            return _wrong(412, "etcdserver: not leader", 9)
        if not target or target in self.learners or not self.is_up(target):
            return _wrong(412, "etcdserver: bad leader transferee", 9)
        self._leader = target
        return 200, {"header": self._header(name)}


def _wrong(status: int, message: str, code: int) -> Answer:
    return status, {"error": message, "code": code, "message": message}


def member_id(name: str) -> str:
    """A member's id, in decimal as the gateway has it."""
    return str(sum((i + 7) * 1_000_003 ** (i % 3) * b for i, b in enumerate(name.encode())))
