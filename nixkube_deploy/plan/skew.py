"""Kubernetes' version skew policy: no kubelet newer than an API server, none too old for one, no minor version skipped.

Only versions that are known are judged; about the others a note says that nobody checked. It deliberately leaves
alone what is skewed already: a host whose minor version stays is not refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Fleet
from nixkube_deploy.model.names import HostName
from nixkube_deploy.plan.budget import control_plane
from nixkube_deploy.plan.classify import changes_node_units
from nixkube_deploy.plan.intent import Intent
from nixkube_deploy.plan.prepared import Prepared
from nixkube_deploy.plan.version import Minor, minor, running, said
from nixkube_deploy.plan.wording import host_list

Versions = Mapping[HostName, Minor]

LAG, OLD_LAG, SHORT_LAG_BEFORE = 3, 2, (1, 25)
"""Minor versions a kubelet may be older than an API server; kubelets before 1.25 may be less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Skew:
    """What is known before the run. ``now`` holds every Node's version, ``wanted`` only those that change."""

    fleet: Fleet
    control: frozenset[HostName]
    now: Versions
    wanted: Versions


def without_skew(fleet: Fleet, intents: Sequence[Intent], prepared: Prepared) -> list[Intent]:
    """The intents, with a problem on each host whose new version Kubernetes does not support beside the others'."""
    skew = _known(fleet, intents, prepared)
    refused = {name: f for name in skew.wanted if name in skew.control and (f := _of_server(skew, name))}
    unknown = {i.host.name for i in intents if _restarts(i) and i.host.name not in _told(i, prepared)}
    coming = {name: version for name, version in skew.wanted.items() if name not in refused}
    after = {n: coming.get(n, v) for n, v in {**coming, **skew.now}.items() if n in skew.control and n not in unknown}
    workers = [name for name in skew.wanted if name not in skew.control]
    refused |= {name: f for name in workers if (f := _of_kubelet(skew, name, after))}
    return [replace(i, problem=refused[i.host.name]) if i.host.name in refused else i for i in intents]


def skew_notes(fleet: Fleet, intents: Sequence[Intent], prepared: Prepared) -> Iterator[str]:
    """What of the versions nobody could check, and where a new kubelet may meet an old API server."""
    changing = [i for i in intents if _restarts(i)]
    blind = [i.host.name for i in changing if i.host.name not in _told(i, prepared)]
    if blind:
        yield f"version skew is not checked for {host_list(blind)}: which Kubernetes comes cannot be read beforehand"
    skew = _known(fleet, intents, prepared)
    unseen = [name for name in sorted(skew.control) if name not in skew.now]
    if skew.wanted and unseen:
        yield f"version skew is not checked against {host_list(unseen)}: what runs there is not known"
    ahead = [n for n, v in skew.wanted.items() if n in skew.control and any(_apart(v, o) > 0 for o in _peers(skew, n))]
    if ahead:
        yield (
            f"the kubelet of {host_list(ahead)} is newer than the API servers still to come: "
            "until they are through, it should speak to its own, not to a load balancer"
        )


def _known(fleet: Fleet, intents: Sequence[Intent], prepared: Prepared) -> _Skew:
    facts = {name: each for name, each in prepared.facts.items() if each.node is not None}
    now = {name: version for name, each in facts.items() if (version := running(each)) is not None}
    wanted: dict[HostName, Minor] = {}
    for intent in filter(_changes, intents):
        stays = intent.drains and intent.host.name in prepared.undrainable
        told = {} if stays else _told(intent, prepared)
        wanted |= {name: version for name, version in told.items() if version != now.get(name)}
    return _Skew(fleet=fleet, control=control_plane(fleet), now=now, wanted=wanted)


def _changes(intent: Intent) -> bool:
    return intent.acts and intent.expect_node and (intent.activates or intent.installs)


def _restarts(intent: Intent) -> bool:
    """Whether the host may get another Kubernetes."""
    return _changes(intent) and intent.change is not None and (intent.installs or changes_node_units(intent.change))


def _told(intent: Intent, prepared: Prepared) -> Versions:
    version = minor(prepared.closures[intent.host.name].contents.kubernetes)
    return {intent.host.name: version} if version is not None else {}


def _peers(skew: _Skew, host: HostName) -> list[Minor]:
    return [version for name, version in skew.now.items() if name in skew.control and name != host]


def _apart(one: Minor, other: Minor) -> int:
    """Minor versions from ``other`` up to ``one``; another major version is farther than any policy allows."""
    return (one[0] - other[0]) * 1000 + one[1] - other[1]


def _lags(kubelet: Minor, server: Minor) -> bool:
    return _apart(server, kubelet) > (LAG if kubelet >= SHORT_LAG_BEFORE else OLD_LAG)


def _of_server(skew: _Skew, host: HostName) -> Failure | None:
    """Against what runs now: API servers may be one minor version apart, and the kubelets stay until it is through."""
    wanted = skew.wanted[host]
    own = skew.now.get(host)
    if own is not None and abs(_apart(wanted, own)) > 1:
        step = said((own[0], own[1] + (1 if wanted > own else -1)))
        return _refusal(
            f"{host} would skip a minor version: its API server is {said(own)}, the new system brings {said(wanted)}",
            f"Kubernetes {step} first: one minor version at a time",
            said(wanted),
            f"pin Kubernetes {step} in the configuration of {host}, then deploy apply {skew.fleet.source}",
        )
    for name, version in skew.now.items():
        if name in skew.control and abs(_apart(wanted, version)) > 1:
            return _beside(skew, host, name, "API server")
        if name not in skew.control and (_apart(version, wanted) > 0 or _lags(version, wanted)):
            return _beside(skew, host, name, "kubelet")
    return None


def _beside(skew: _Skew, host: HostName, name: HostName, what: str) -> Failure:
    wanted, there = said(skew.wanted[host]), said(skew.now[name])
    return _refusal(
        f"{host}'s API server would be {wanted}, beside {name}'s {what} {there}: Kubernetes does not support that",
        "API servers at most one minor version apart, no kubelet newer, none more than three minor versions older",
        f"{wanted} beside {there}",
        f"bring {name} to a version that fits both: deploy apply {skew.fleet.source} --on {name}",
    )


def _of_kubelet(skew: _Skew, host: HostName, servers: Versions) -> Failure | None:
    """Against what the API servers will be then: they come first."""
    wanted = skew.wanted[host]
    for name, version in sorted(servers.items()):
        newer = _apart(wanted, version) > 0
        if newer or _lags(wanted, version):
            how = "newer than" if newer else "too old for"
            return _refusal(
                f"{host}'s kubelet would be {said(wanted)}, {how} the API server of {name}, {said(version)}",
                "no kubelet newer than an API server, none more than three minor versions older",
                said(wanted),
                f"upgrade the control plane first: deploy apply {skew.fleet.source} --on {name}"
                if newer
                else f"pin a Kubernetes nearer to {said(version)} in the configuration of {host}",
            )
    return None


def _refusal(message: str, expected: str, seen: str, then: str) -> Failure:
    return Failure(kind=FailureKind.PREFLIGHT, message=message, expected=expected, seen=seen, next=then)
