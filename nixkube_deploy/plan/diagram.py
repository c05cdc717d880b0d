"""A plan as a diagram, for Mermaid and Graphviz: a box for every wave, in it one for all hosts that go the same way.

Collapsed on purpose: a thousand tasks drawn one by one tell nobody anything.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nixkube_deploy.model.names import HostName
from nixkube_deploy.model.rollout import HostPlan, Plan
from nixkube_deploy.plan.outline import ASIDE, chains, grouped, stretches
from nixkube_deploy.plan.wording import host_list, hosts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """One wave and the lines of each group of hosts in it."""

    number: int
    title: str
    cells: tuple[tuple[str, ...], ...]


def mermaid(plan: Plan) -> str:
    """A Mermaid flowchart."""
    lines = ["flowchart TD"]
    boxes = list(_boxes(plan))
    previous = ""
    if copies := _copies(plan):
        lines.append(f'    staged(["{copies}"])')
        previous = "staged"
    for box in boxes:
        lines.append(f'    subgraph wave{box.number}["{_mermaid_text(box.title)}"]')
        for index, cell in enumerate(box.cells, 1):
            label = "<br/>".join(map(_mermaid_text, cell))
            lines.append(f'        w{box.number}g{index}["{label}"]')
        lines.append("    end")
        if previous:
            lines.append(f"    {previous} --> wave{box.number}")
        previous = f"wave{box.number}"
    if not boxes:
        lines.append('    nothing["nothing to do"]')
    return "\n".join(lines) + "\n"


def dot(plan: Plan) -> str:
    """A Graphviz digraph."""
    lines = ["digraph plan {", "    compound=true;", '    node [shape=box, fontname="sans-serif"];']
    boxes = list(_boxes(plan))
    previous = ("", "")
    if copies := _copies(plan):
        lines.append(f'    staged [shape=oval, label="{copies}"];')
        previous = ("staged", "")
    for box in boxes:
        cluster, first = f"cluster_wave{box.number}", f"w{box.number}g1"
        lines.append(f"    subgraph {cluster} {{")
        lines.append(f'        label="{_dot_text(box.title)}";')
        for index, cell in enumerate(box.cells, 1):
            label = "\\n".join(map(_dot_text, cell))
            lines.append(f'        w{box.number}g{index} [label="{label}"];')
        lines.append("    }")
        if previous[0]:
            tail = f"ltail={previous[1]}, " if previous[1] else ""
            lines.append(f"    {previous[0]} -> {first} [{tail}lhead={cluster}];")
        previous = (first, cluster)
    if not boxes:
        lines.append('    nothing [label="nothing to do"];')
    return "\n".join([*lines, "}"]) + "\n"


def _boxes(plan: Plan) -> Iterator[_Box]:
    steps = chains(plan)
    for stretch in stretches(plan):
        groups = grouped(stretch.members, lambda host: (host.change and host.change.kind, steps[host.host]))
        cells = tuple(tuple(_cell(group, steps)) for group in groups)
        yield _Box(number=stretch.first, title=stretch.title, cells=cells)


def _cell(group: list[HostPlan], steps: Mapping[HostName, tuple[str, ...]]) -> Iterator[str]:
    first = group[0]
    yield host_list(host.host for host in group)
    main = [step for step in steps[first.host] if step not in ASIDE and step != "copy"]
    yield f"{first.change.kind if first.change is not None else ''}: {', '.join(main)}"
    if asides := [step for step in steps[first.host] if step in ASIDE]:
        yield f"on failure: {', '.join(asides)}"


def _copies(plan: Plan) -> str:
    count = sum(1 for task in plan.graph if task.endswith("/copy"))
    return f"copy closures to {hosts(count)}" if count else ""


def _mermaid_text(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "#quot;").replace("<", "&lt;").replace(">", "&gt;")


def _dot_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
