"""What the etcd member of a host says, asked on the host itself with the certificates that lie there.

etcd's HTTP gateway is asked with curl, which every NixOS has; etcdctl is not where etcd is embedded. It deliberately
judges nothing (``model.etcd`` does) and moves nothing (``quorum`` does).
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from nixkube_deploy.model.error import OutcomeUnknown, TaskError
from nixkube_deploy.model.etcd import Member, Voice
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Distribution, Host
from nixkube_deploy.ports.shell import Command, Shell
from nixkube_deploy.protocols.script import END, Question, answers, ask

_UNITS: Final = "/etc/systemd/system"
UNIT_FILE: Final = f"{_UNITS}/etcd.service"
_DROP_IN: Final = f"{UNIT_FILE}.d/overrides.conf"
_API_SERVER: Final = f"{_UNITS}/kube-apiserver.service"
_SECRETS: Final = "/var/lib/kubernetes/secrets"

_CONNECT, _ANSWER = 2, 4
"""Seconds for a connection and for a whole answer: a member that was stopped takes connections and says nothing."""
_PATIENCE: Final = 30.0
REFUSED: Final = 7
NOT_FOUND: Final = 127
_HTTP_OK: Final = 200
_OUTCOME = re.compile(r"(\d+) (\d{3}) ?(.*)")

STATUS: Final = "/v3/maintenance/status"
MEMBERS: Final = "/v3/cluster/member/list"
ALARMS: Final = "/v3/maintenance/alarm"
TRANSFER: Final = "/v3/maintenance/transfer-leadership"
HEALTH: Final = "/health"

_ASKED: Final = (
    ("status", STATUS, "{}"),
    ("members", MEMBERS, "{}"),
    ("alarms", ALARMS, '{"action":"GET"}'),
    ("health", HEALTH, ""),
)
"""Its health is a read through the leader: a member that answers it with yes has caught up with what was committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to ask a member: where, and as whom."""

    url: str
    ca: str = ""
    cert: str = ""
    key: str = ""

    def curl(self, path: str, body: str = "") -> str:
        """The command, for a shell; what it prints after the answer is read by ``_answer``."""
        argv = ["curl", "-sS", "--connect-timeout", str(_CONNECT), "--max-time", str(_ANSWER)]
        for option, value in (("--cacert", self.ca), ("--cert", self.cert), ("--key", self.key)):
            argv += [option, value] if value else []
        argv += ["--data", body] if body else []
        argv += ["-w", "\\n%{exitcode} %{http_code} %{errormsg}\\n", f"{self.url}{path}"]
        return f"{shlex.join(argv)} 2>/dev/null"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A member's voice, and in which ways it can be asked."""

    voice: Voice
    ways: tuple[Way, ...] = ()


async def hear(shell: Shell, host: Host, distribution: Distribution) -> Heard | None:
    """What the host's member says, in one round trip where etcd is embedded and two where it is a unit.

    None: the host has no member. Trouble on the way is told as the member's.

    Raises:
        TaskError: HOST_KEY; that is no trouble of etcd.
    """
    try:
        if distribution.etcd_folder is not None and host.role.is_control_plane:
            ways = embedded(distribution.etcd_folder)
            found = await _ask(shell, host, ways, there=f"{distribution.etcd_folder}/db/etcd")
            if found is not None:
                return Heard(voice=found, ways=ways)
        ways = await _of_unit(shell, host)
        if not ways:
            return None
        voice = await _ask(shell, host, ways)
    except TaskError as error:
        if error.failure.kind is FailureKind.HOST_KEY:
            raise
        if isinstance(error, OutcomeUnknown):
            await shell.forget(host)
        return Heard(voice=Voice(trouble=error.failure.message))
    assert voice is not None
    return Heard(voice=voice, ways=ways)


def embedded(folder: str) -> tuple[Way, ...]:
    """k3s and rke2 of today serve HTTP beside gRPC, on a port of its own; those before it on the same."""
    tls = f"{folder}/tls/etcd"
    names = {"ca": f"{tls}/server-ca.crt", "cert": f"{tls}/client.crt", "key": f"{tls}/client.key"}
    server = names | {"cert": f"{tls}/server-client.crt", "key": f"{tls}/server-client.key"}
    return tuple(Way(url=f"https://127.0.0.1:{port}", **pair) for port in ("2382", "2379") for pair in (names, server))


async def _of_unit(shell: Shell, host: Host) -> tuple[Way, ...]:
    files = {"unit": UNIT_FILE, "changes": _DROP_IN, "api": _API_SERVER}
    told = await ask(shell, host, (Question(name=name, command=f"cat {path}") for name, path in files.items()))
    unit = f"{told.get('unit', '')}\n{told.get('changes', '')}".strip()
    return tuple(ways_of(unit, told.get("api", ""))) if unit else ()


def ways_of(unit: str, api_server: str) -> Iterator[Way]:
    """How to ask the etcd of a unit file: at its own address, with whatever certificate of the host it may accept.

    Best is the one that the host's API server uses; the one of etcd itself serves where it may be a client's, too.
    """
    advertised = _split(_setting(unit, "ADVERTISE_CLIENT_URLS"))
    listening = [url.replace("//0.0.0.0:", "//127.0.0.1:") for url in _split(_setting(unit, "LISTEN_CLIENT_URLS"))]
    listening = [url.replace("//[::]:", "//[::1]:") for url in listening]
    over_http = _split(_setting(unit, "LISTEN_CLIENT_HTTP_URLS"))
    plain = [url for url in listening if url.startswith("http:")]
    urls = list(dict.fromkeys((*over_http, *plain, *advertised, *listening))) or ["http://127.0.0.1:2379"]
    ca = _setting(unit, "TRUSTED_CA_FILE") or f"{_SECRETS}/ca.pem"
    client = f"{_SECRETS}/kube-apiserver-etcd-client"
    pairs = [
        (_environment(unit, "ETCDCTL_CERT"), _environment(unit, "ETCDCTL_KEY")),
        (_flag(api_server, "etcd-certfile"), _flag(api_server, "etcd-keyfile")),
        (_setting(unit, "CERT_FILE"), _setting(unit, "KEY_FILE")),
        (f"{client}.pem", f"{client}-key.pem"),
    ]
    pairs = [pair for pair in dict.fromkeys(pairs) if all(pair)]
    for url in urls:
        if url.startswith("https:"):
            yield from (Way(url=url, ca=ca, cert=cert, key=key) for cert, key in pairs)
        else:
            yield Way(url=url)


def _split(urls: str) -> list[str]:
    return [url.rstrip("/") for url in urls.split(",") if url]


def _setting(unit: str, name: str) -> str:
    """A setting of etcd; a flag comes before the environment, as in etcd itself."""
    return _flag(unit, name.lower().replace("_", "-")) or _environment(unit, f"ETCD_{name}")


def _environment(unit: str, name: str) -> str:
    found = re.findall(rf"(?:[\"'=]|\s){name}=([^\"'\s]*)", unit)
    return found[-1] if found else ""


def _flag(unit: str, name: str) -> str:
    found = re.findall(rf"\s--?{name}[= ][\"']?([^\"'\s\\]+)", unit)
    return found[-1] if found else ""


async def _ask(shell: Shell, host: Host, ways: tuple[Way, ...], there: str = "") -> Voice | None:
    """None where ``there`` is not: without its data there is no member."""
    lines = [f"test -d {there} || exit 0"] if there else []
    for name, path, body in _ASKED:
        lines += [f"echo @{name}", " || ".join((*(way.curl(path, body) for way in ways), "exit 0"))]
    lines += ["echo", f"echo @{END}"]
    command = Command(argv=("sh", "-c", "\n".join(lines)), privileged=True, timeout=_PATIENCE)
    result = await shell.run(host, command)
    said = answers(result.stdout, (name for name, _, _ in _ASKED))
    if said:
        return voice_of(said)
    if there and result.ok:
        return None
    return Voice(trouble=f"exit code {result.exit_code}: {' '.join(result.tail(1))}".rstrip(": "))


async def ask_from(shell: Shell, host: Host, ways: tuple[Way, ...], urls: Iterable[str]) -> Voice:
    """What a member that is on no host of ours says at its client URL, asked from ``host`` with its certificates."""
    certificates = dict.fromkeys((way.ca, way.cert, way.key) for way in ways)
    there = tuple(
        Way(url=url.rstrip("/"), ca=ca, cert=cert, key=key)
        for url in urls
        for ca, cert, key in certificates
        if bool(cert) == url.startswith("https:")
    )
    if not there:
        return Voice(trouble="it names no address that could be asked")
    try:
        voice = await _ask(shell, host, there)
    except TaskError as error:
        return Voice(trouble=error.failure.message)
    assert voice is not None
    return voice


def voice_of(said: Mapping[str, str]) -> Voice:
    """What the answers to all questions mean together."""
    status, trouble, refused = _answer(said.get("status", ""))
    header = status.get("header")
    own = _text(header, "member_id") if isinstance(header, dict) else ""
    if not own:
        return Voice(trouble=trouble or "its answer is not etcd's", absent=refused)
    members, no_members, _ = _answer(said.get("members", ""))
    alarms, no_alarms, _ = _answer(said.get("alarms", ""))
    health, no_health, _ = _answer(said.get("health", ""))
    learner = status.get("isLearner") is True
    healthy = str(health.get("health")).lower() == "true"
    reason = "" if healthy else (_text(health, "reason") or no_health or "its /health says no")
    errors = ", ".join(str(each) for each in _list(status, "errors"))
    return Voice(
        id=own,
        trouble=("" if learner else no_members or no_alarms) or reason or errors,
        leader=_text(status, "leader"),
        learner=learner,
        index=_number(status, "raftIndex"),
        applied=_number(status, "raftAppliedIndex") or _number(status, "raftIndex"),
        members=tuple(_member(each) for each in _list(members, "members") if isinstance(each, dict)),
        alarms=tuple(
            (_text(each, "memberID"), _text(each, "alarm"))
            for each in _list(alarms, "alarms")
            if isinstance(each, dict)
        ),
    )


def _answer(text: str) -> tuple[dict[str, Any], str, bool]:
    """The JSON of the last way that was tried, what went wrong, and whether every way was refused a connection."""
    lines = [line for line in text.splitlines() if line.strip()]
    outcomes = [match for line in lines if (match := _OUTCOME.fullmatch(line.strip()))]
    if not outcomes:
        return {}, "curl is not on the host, or said nothing", False
    code, status = outcomes[-1][1], outcomes[-1][2]
    if int(code):
        worst = next((m for m in reversed(outcomes) if int(m[1]) != REFUSED), outcomes[-1])
        refused = all(int(match[1]) == REFUSED for match in outcomes)
        return {}, worst[3] or f"curl ended with exit code {worst[1]}", refused
    body = lines[-2] if len(lines) > 1 else ""
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        return {}, f"status {status}, and no JSON: {body[:80]}", False
    if int(status) != _HTTP_OK:
        return (
            data,
            _text(data, "message") or _text(data, "error") or _text(data, "reason") or f"status {status}",
            False,
        )
    return data, "", False


def _member(data: Mapping[str, Any]) -> Member:
    return Member(
        id=_text(data, "ID"),
        name=_text(data, "name"),
        learner=data.get("isLearner") is True,
        peers=tuple(str(url) for url in _list(data, "peerURLs")),
        clients=tuple(str(url) for url in _list(data, "clientURLs")),
    )


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    found = data.get(key)
    return found if isinstance(found, list) else []


def _text(data: Mapping[str, Any], key: str) -> str:
    found = data.get(key)
    return str(found) if isinstance(found, str | int) and not isinstance(found, bool) else ""


def _number(data: Mapping[str, Any], key: str) -> int:
    found = _text(data, key)
    return int(found) if re.fullmatch(r"[0-9]{1,20}", found) else 0
