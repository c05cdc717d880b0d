"""A plan in words, for people: what will be done to which hosts, why, in which order, and what may go wrong.

Stable and without colour; equal hosts are drawn together, so that a hundred of them still fit on a screen.
It deliberately computes nothing: everything it says is in the plan.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping

from nixkube_deploy.model.change import ChangeClass
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.rollout import HostPlan, Plan
from nixkube_deploy.plan.contents import contents
from nixkube_deploy.plan.diagram import dot, mermaid
from nixkube_deploy.plan.outline import ASIDE, chains, grouped, stretches
from nixkube_deploy.plan.wording import host_list, hosts

__all__ = ["describe", "dot", "mermaid"]

REVISION = 12
"""Characters of a revision that people read."""
WIDTH = 100
"""Columns after which a list of hosts is wrapped; sentences and commands never are."""


def describe(plan: Plan) -> str:
    """The whole plan as text, ending in a newline."""
    blocks = [
        list(_header(plan)),
        list(_order(plan)),
        *map(list, _changes(plan)),
        *map(list, _not_done(plan)),
        *contents(plan),
        _listed("Budgets", (budget.name for budget in plan.graph.rules.budgets)),
        _listed("Notes", plan.notes),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _header(plan: Plan) -> Iterator[str]:
    dirty = ", with uncommitted changes" if plan.flake.dirty else ""
    yield f"{plan.inventory}: {hosts(len(plan.hosts))}"
    yield f"{plan.flake.url} at {plan.flake.revision[:REVISION]}{dirty}"
    yield ", ".join(_counts(plan))
    if not plan.changes_anything:
        yield "Nothing to do."


def _counts(plan: Plan) -> Iterator[str]:
    kinds = [host.change.kind for host in plan.hosts if host.change is not None and not host.skipped]
    yield from (f"{kinds.count(kind)} {kind}" for kind in reversed(ChangeClass) if kind in kinds)
    if skipped := sum(1 for host in plan.hosts if host.skipped):
        yield f"{skipped} skipped"
    if problems := sum(1 for host in plan.hosts if host.problem is not None):
        yield f"{problems} cannot be planned"


def _order(plan: Plan) -> Iterator[str]:
    found = stretches(plan)
    if found:
        yield "Order"
    yield from (_named(f"  {stretch.title}", stretch.members) for stretch in found)


def _listed(title: str, lines: Iterable[str]) -> list[str]:
    found = [f"  {line}" for line in lines]
    return [title, *found] if found else []


# --- what is done ----------------------------------------------------------------------------------------------------


def _changes(plan: Plan) -> Iterator[Iterator[str]]:
    steps = chains(plan)
    acting = [host for host in plan.hosts if host.host in steps]
    groups = grouped(acting, lambda host: (host.change, host.risks, steps[host.host]))
    for kind in reversed(ChangeClass):
        for group in groups:
            if group[0].change is not None and group[0].change.kind is kind:
                yield _change(kind, group, steps)


def _change(kind: ChangeClass, group: list[HostPlan], steps: Mapping[HostName, tuple[str, ...]]) -> Iterator[str]:
    first = group[0]
    yield _named(kind, group)
    yield from (f"    {reason}" for reason in (first.change.reasons if first.change is not None else ()))
    yield f"    steps: {', '.join(step for step in steps[first.host] if step not in ASIDE)}"
    if asides := [step for step in steps[first.host] if step in ASIDE]:
        yield f"    on failure: {', '.join(asides)}"
    yield from (f"    risk: {risk}" for risk in first.risks)


# --- what is not done ------------------------------------------------------------------------------------------------


def _not_done(plan: Plan) -> Iterator[Iterator[str]]:
    idle = [host for host in plan.hosts if host.wave is None]
    unchanged = [host for host in idle if host.problem is None and not host.skipped]
    skipped = [host for host in idle if host.skipped]
    failed = [host for host in idle if host.problem is not None]
    for group in grouped(unchanged, lambda host: (host.change, host.risks)):
        yield _unchanged(group)
    for group in grouped(skipped, lambda host: (host.change, _replaced(host.skipped, host.host, ""))):
        yield _skipped(group)
    for group in grouped(failed, lambda host: _without_name(host.problem, host.host)):
        yield _problem(group)


def _unchanged(group: list[HostPlan]) -> Iterator[str]:
    first = group[0]
    yield _named("unchanged", group)
    yield from (f"    {reason}" for reason in (first.change.reasons if first.change is not None else ()))
    yield from (f"    risk: {risk}" for risk in first.risks)


def _skipped(group: list[HostPlan]) -> Iterator[str]:
    first = group[0]
    yield _named("skipped", group)
    yield from (f"    {reason}" for reason in (first.change.reasons if first.change is not None else ()))
    yield f"    {_for_all(first.skipped, group)}"


def _problem(group: list[HostPlan]) -> Iterator[str]:
    problem = group[0].problem
    assert problem is not None
    yield _named("cannot be planned", group)
    yield f"    {_for_all(problem.message, group)}"
    for label, text in (("expected", problem.expected), ("seen", problem.seen)):
        if text:
            yield f"    {label}: {_for_all(text, group)}"
    yield from (f"    | {_for_all(line, group)}" for line in problem.evidence)
    if problem.next:
        yield f"    next: {_for_all(problem.next, group)}"


def _for_all(text: str, group: list[HostPlan]) -> str:
    """A sentence about the first host, as one about each of them; a command, as one for all."""
    if len(group) == 1:
        return text
    everybody = ",".join(host.host for host in group)
    return _replaced(text, group[0].host, everybody if "--on" in text else "<host>")


def _without_name(problem: Failure | None, name: HostName) -> str:
    return _replaced(repr(problem), name, "")


def _replaced(text: str, name: HostName, by: str) -> str:
    return re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", lambda _: by, text)


def _named(start: str, group: Iterable[HostPlan]) -> str:
    """``start: w1..w4, w9``, wrapped where the names have no order to draw together."""
    text = f"{start}: {host_list(host.host for host in group)}"
    return textwrap.fill(
        text, WIDTH, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
