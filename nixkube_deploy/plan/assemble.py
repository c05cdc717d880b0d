"""From the intents of a whole fleet to a plan: order, rules, graph, and the lines for people.

What is to be done with each host was decided before; here it is only put together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nixkube_deploy.model.fleet import Fleet
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.packages import HostDifference
from nixkube_deploy.model.rollout import HostPlan, Plan
from nixkube_deploy.model.task import Section, Task, TaskGraph
from nixkube_deploy.plan.budget import budgets, control_plane, domains, rules
from nixkube_deploy.plan.intent import Intent
from nixkube_deploy.plan.note import notes
from nixkube_deploy.plan.order import Order, order
from nixkube_deploy.plan.packages import shared
from nixkube_deploy.plan.prepared import Choices, Prepared
from nixkube_deploy.plan.risk import risks
from nixkube_deploy.plan.room import short_of_store
from nixkube_deploy.plan.steps import Settings, copy, stage, steps
from nixkube_deploy.plan.version import overtakers
from nixkube_deploy.plan.voters import etcd_notes, without_quorum


def assemble(fleet: Fleet, intents: Sequence[Intent], prepared: Prepared, choices: Choices) -> Plan:
    """The plan that does what the intents say, in waves, within budgets."""
    control = control_plane(fleet)
    intents = without_quorum([_drainable(intent, prepared) for intent in intents], prepared.etcd)
    intents = [replace(i, risks=(*i.risks, *_risks(fleet, i, prepared, control))) for i in intents]
    made = budgets(fleet, intents, prepared.voters)
    zones = domains(fleet, intents)
    newer = overtakers(prepared, control, (i.host.name for i in intents if i.acts))
    ordered = order(fleet, intents, made, zones, newer)
    allowed = rules(fleet, intents, made, zones, ordered)
    return Plan(
        inventory=fleet.source,
        digest=choices.digest,
        flake=prepared.flake,
        hosts=tuple(_line(intent, ordered.waves, prepared.differences.get(intent.host.name)) for intent in intents),
        graph=TaskGraph(*_work(fleet, intents, ordered), allowed),
        notes=(*notes(fleet, intents, allowed, prepared), *etcd_notes(intents, prepared.etcd)),
        mode=choices.mode,
        strategy=fleet.strategy,
        differences=shared(prepared.differences),
    )


def _risks(fleet: Fleet, intent: Intent, prepared: Prepared, control: frozenset[HostName]) -> tuple[str, ...]:
    room = short_of_store(intent.host, intent.facts, prepared.differences.get(intent.host.name))
    waits = prepared.drain_waits.get(intent.host.name, ()) if intent.acts and intent.drains else ()
    return (*(room if intent.copies else ()), *risks(intent, fleet.cluster.distribution, control), *waits)


def _drainable(intent: Intent, prepared: Prepared) -> Intent:
    """A host that has to be emptied and cannot be is not begun."""
    failure = prepared.undrainable.get(intent.host.name)
    return replace(intent, problem=failure) if failure is not None and intent.acts and intent.drains else intent


def _work(fleet: Fleet, intents: Sequence[Intent], ordered: Order) -> tuple[list[Task], list[Section]]:
    by_name = {intent.host.name: intent for intent in intents}
    acting = [by_name[name] for name in ordered.waves]
    copies = [copy(intent) for intent in acting if intent.copies]
    settings = Settings(gates=fleet.gates, rolls_back=fleet.strategy.on_failure.rolls_back, staged=bool(copies))
    barrier = [stage(copies)] if copies else []
    made = [steps(intent, ordered.waves[intent.host.name], settings) for intent in acting]
    tasks = [*copies, *barrier, *(task for each in made for task in each.tasks)]
    return tasks, [each.section for each in made]


def _line(intent: Intent, waves: Mapping[HostName, int], difference: HostDifference | None) -> HostPlan:
    facts = intent.facts
    return HostPlan(
        host=intent.host.name,
        change=intent.change,
        wave=waves.get(intent.host.name),
        current=facts.current.path if facts is not None and facts.current is not None else None,
        target=intent.target,
        boot_id=facts.boot_id if facts is not None else "",
        profile=facts.profile if facts is not None and facts.runs_specialisation else None,
        node=facts.node.name if facts is not None and facts.node is not None else None,
        risks=intent.risks,
        skipped=intent.skipped,
        problem=intent.problem,
        sizes=difference.sizes if difference is not None else None,
    )
