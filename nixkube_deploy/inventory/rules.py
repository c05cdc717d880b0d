"""The grammar of how a rollout may proceed: strategy, maintenance windows, gates.

Described as in ``grammar``, which says where these stand in an inventory; nothing here is about hosts.
"""

from pathlib import Path

from nixkube_deploy.inventory import units, values
from nixkube_deploy.inventory.shape import Choice, Count, Field, Flag, ListOf, Record, Text, Unfit, fields_of
from nixkube_deploy.model.labels import label_selector
from nixkube_deploy.model.strategy import (
    AlertBlocker,
    CommandGate,
    DrainOptions,
    HostPolicy,
    HttpGate,
    KubeletGate,
    Mode,
    OnFailure,
    PodBlocker,
    PodsGate,
    PrometheusGate,
    RebootBlockers,
    RebootMethod,
    RebootPolicy,
    SelectedPods,
    Strategy,
)

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DRAIN = Record(
    name="drain",
    doc="kubectl drain's knobs.",
    fields=fields_of(
        DrainOptions,
        {
            "enabled": (Flag(), "false: never cordon and drain."),
            "timeout": (units.duration(least=0.001), "Give up, uncordon and fail after this long."),
            "grace_period": (
                Count(minimum=-1, maximum=86_400),
                "Seconds each pod gets to end; -1 keeps the pod's own (a bare number, as in kubectl).",
            ),
            "delete_emptydir_data": (Flag(), "Evict pods that use emptyDir; their data is lost."),
            "force": (Flag(), "Delete pods that no controller will bring back."),
            "disable_eviction": (Flag(), "Delete in place of evict: past every disruption budget."),
            "live": (Flag(), "Drain also for a change that touches no node unit."),
        },
    ),
)


def _selector(text: str, _: Path) -> str:
    try:
        label_selector(text)
    except ValueError as error:
        raise Unfit(str(error), hint="as for kubectl -l: app=backup, or tier in (a, b)") from None
    return text


BLOCKERS = Record(
    name="reboot_blockers",
    doc="What a reboot waits for before the host is touched.",
    fields=fields_of(
        RebootBlockers,
        {
            "pods": (
                ListOf(
                    item=Record(
                        name="pod_blocker",
                        doc="Pods that keep their Node from rebooting until they are gone.",
                        fields=fields_of(
                            PodBlocker,
                            {
                                "selector": (
                                    Text(what="a label selector such as app=backup", convert=_selector),
                                    "Their labels, as for `kubectl -l`.",
                                ),
                                "namespace": (values.NAME, "Their namespace; all of them when absent."),
                            },
                        ),
                    )
                ),
                "A reboot of a host waits until none of these runs on its Node.",
            ),
            "prometheus": (
                ListOf(
                    item=Record(
                        name="alert_blocker",
                        doc="Alerts that keep every host from rebooting.",
                        fields=fields_of(
                            AlertBlocker,
                            {
                                "url": (values.URL, "The Prometheus server."),
                                "query": (values.WORD, "PromQL; an empty result lets hosts reboot."),
                                "timeout": (units.duration(least=0.001), "How long one answer may take."),
                            },
                        ),
                    )
                ),
                "No host reboots while one of these queries has a result.",
            ),
            "timeout": (units.duration(least=0.001), "Give up, the host untouched, after this long."),
        },
    ),
)

_POLICY = fields_of(
    HostPolicy,
    {
        "soak": (units.duration(), "Watch a host this long before the next may count on it."),
        "drain": (DRAIN, "How pods leave a node."),
        "reboot": (Choice.of(RebootPolicy), "auto: when the change needs one."),
        "reboot_timeout": (units.duration(least=0.001), "A host that takes longer to come back counts as lost."),
        "reboot_method": (
            Choice.of(RebootMethod),
            "kexec: straight into the new kernel, past firmware and boot loader; where it cannot be, a reboot.",
        ),
        "reboot_blockers": (BLOCKERS, "What a reboot waits for before the host is touched."),
        "activation_timeout": (units.duration(least=0.001), "An activation that takes longer is looked into."),
        "confirm_timeout": (
            units.duration(least=1.0),
            "The host's own timer undoes an unconfirmed change this long after activation or gate should be over.",
        ),
    },
)

WINDOW = Record(
    name="window",
    doc="A weekly maintenance window; `to` before `from` means past midnight.",
    fields={
        "days": Field(
            ListOf(
                item=Choice(words=DAYS, make=DAYS.index, synonyms=dict(zip(_DAY_NAMES, DAYS, strict=True))),
                least=1,
                unique=True,
            ),
            "The days it begins on; all when absent.",
        ),
        "from": Field(units.time_of_day(), "When it begins.", required=True),
        "to": Field(units.time_of_day(), "When it ends; 24:00 is the end of the day.", required=True),
        "tz": Field(units.time_zone(), "The time zone of both.", "UTC"),
    },
)

STRATEGY = Record(
    name="strategy",
    doc="How a rollout may proceed.",
    fields={
        **fields_of(
            Strategy,
            {
                "canary": (Count(minimum=0, maximum=100_000), "How many hosts go first, alone."),
                "max_unavailable": (
                    units.HostLimit(least=1),
                    "Per group, how many hosts may be unavailable at once; at least 1, control plane always 1.",
                ),
                "mode": (
                    Choice.of(Mode),
                    "rolling: the next host starts as soon as the budget has room; waves: when the wave is done.",
                ),
                "spread": (values.LABEL_KEY, "A label whose values (zones) are never disrupted two at once."),
                "max_failures": (units.HostLimit(), "More failed hosts than this stop the rollout."),
                "on_failure": (
                    Choice.of(OnFailure),
                    "rollback: take a failed host back; halt: leave it and stop; continue: leave it and go on.",
                ),
                "windows": (ListOf(item=WINDOW), "When hosts may be disrupted; always when empty."),
            },
        ),
        **_POLICY,
    },
)

HOST_STRATEGY = Record(name="host_strategy", doc="The part of the strategy that may differ by host.", fields=_POLICY)
GROUP_STRATEGY = Record(
    name="group_strategy",
    doc="The part of the strategy that may differ by group.",
    fields={
        "max_unavailable": Field(units.HostLimit(least=1), "How many of this group may be unavailable at once.", None),
        **_POLICY,
    },
    hints=dict.fromkeys(
        ("canary", "mode", "spread", "max_failures", "on_failure", "windows"),
        "this rule is the whole rollout's: put it into the top-level `strategy`",
    ),
)

_GATE_COMMAND = Record(
    name="command_gate",
    doc="A shell command that must exit 0.",
    fields=fields_of(
        CommandGate,
        {
            "run": (values.COMMAND_LINE, "The command."),
            "on": (values.SELECTOR, "Run it on these hosts; on the host itself when absent."),
            "timeout": (units.duration(least=0.001), "How long it may take."),
        },
    ),
)
_GATE_HTTP = Record(
    name="http_gate",
    doc="A URL that must answer.",
    fields=fields_of(
        HttpGate,
        {
            "url": (values.URL, "Asked from the controller with GET."),
            "expect": (Count(minimum=100, maximum=599), "The status code it must answer with."),
            "timeout": (units.duration(least=0.001), "How long it may take."),
        },
    ),
)
_GATE_PROMETHEUS = Record(
    name="prometheus_gate",
    doc="An instant query with an expected result.",
    fields=fields_of(
        PrometheusGate,
        {
            "url": (values.URL, "The Prometheus server."),
            "query": (values.WORD, "PromQL."),
            "expect": (Choice(words=("empty", "nonempty")), "Whether the result must be empty."),
            "timeout": (units.duration(least=0.001), "How long it may take."),
        },
    ),
)
_SELECTED_PODS = Record(
    name="selected_pods",
    doc="Pods that must all be Ready, on whichever node.",
    fields=fields_of(
        SelectedPods,
        {
            "selector": (
                Text(what="a label selector such as app=ceph-mon", convert=_selector),
                "Their labels, as for `kubectl -l`.",
            ),
            "namespace": (values.NAME, "Their namespace; all of them when absent."),
            "at_least": (Count(minimum=0, maximum=100_000), "How many there must be, so that none at all is noticed."),
        },
    ),
)
GATES = Record(
    name="gates",
    doc="What must hold before a host counts as back.",
    fields={
        "kubelet": Field(
            Record(
                name="kubelet_gate",
                doc="The node must be Ready without a break.",
                fields=fields_of(
                    KubeletGate,
                    {
                        "ready_for": (units.duration(), "How long without a break."),
                        "timeout": (units.duration(least=0.001), "Within how long."),
                    },
                ),
            ),
            "The host's Node.",
        ),
        "pods": Field(
            Record(
                name="pods_gate",
                doc="Which pods must be Ready again.",
                fields=fields_of(
                    PodsGate,
                    {
                        "daemonsets": (Flag(), "The node's DaemonSet pods."),
                        "critical": (Flag(), "The node's system-critical pods."),
                        "selected": (ListOf(item=_SELECTED_PODS), "Pods of the whole cluster, such as the storage's."),
                    },
                ),
            ),
            "Pods of the node, and others that count.",
        ),
        "http": Field(ListOf(item=_GATE_HTTP), "URLs that must answer.", ()),
        "command": Field(ListOf(item=_GATE_COMMAND), "Commands that must succeed.", ()),
        "prometheus": Field(ListOf(item=_GATE_PROMETHEUS), "Queries that must come out as expected.", ()),
    },
)
