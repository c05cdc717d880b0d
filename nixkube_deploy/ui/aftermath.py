"""What became of a host after a step of it failed, in one line: taken back or not, given back or still cordoned.

When a step fails nobody knows yet; this is told from the steps that answered the failure, once they have settled.
"""

from collections.abc import Iterable

from nixkube_deploy.model.action import (
    ConfirmActivation,
    CopyClosure,
    CordonNode,
    OpenGate,
    RollBack,
    SwitchConfiguration,
    UncordonNode,
)
from nixkube_deploy.model.event import Verdict
from nixkube_deploy.model.fleet import Activator
from nixkube_deploy.ui.rows import TaskView

_HARMLESS = CopyClosure | CordonNode | UncordonNode
"""Actions that leave a host what it is."""


def aftermath(steps: Iterable[TaskView]) -> str:
    """What was done about the failure; empty while that is not settled, or when there is nothing to tell."""
    steps = [step for step in steps if step.matters]
    if not steps or not all(step.is_settled for step in steps):
        return ""
    begun = [step for step in steps if step.started is not None]
    if all(isinstance(s.task.action, _HARMLESS) for s in begun) and not _was_cordoned(begun):
        return "nothing: the host still is what it was"
    return "; ".join(part for part in (_taken_back(begun), _given_back(begun)) if part)


def _taken_back(begun: list[TaskView]) -> str:
    for step in begun:
        if isinstance(step.task.action, RollBack):
            system = step.task.action.way_back.system
            if not _well(step):
                return f"tried to take it back to {system}, which failed: {_why(step)}"
            return f"took it back to {system}{_health(begun)}"
    return _will_go_back(begun)


def _will_go_back(begun: list[TaskView]) -> str:
    """A native switch that was never confirmed has left a timer behind; a reboot since then has not."""
    for step in begun:
        match step.task.action:
            case SwitchConfiguration(mode=mode, activator=Activator.NATIVE, way_back=back) if _well(step):
                if mode.runs_now and not step.detail.endswith("rebooted") and not _was_confirmed(begun):
                    return f"left the host's own timer armed, which takes it back to {back.system}"
            case _:
                pass
    return ""


def _was_confirmed(begun: list[TaskView]) -> bool:
    return any(isinstance(step.task.action, ConfirmActivation) and _well(step) for step in begun)


def _health(begun: list[TaskView]) -> str:
    gate = next((s for s in begun if isinstance(s.task.action, OpenGate) and s.step.startswith("rollback")), None)
    if gate is None:
        return ""
    return ", where it is healthy" if _well(gate) else f", where it is not healthy either: {_why(gate)}"


def _given_back(begun: list[TaskView]) -> str:
    if not _was_cordoned(begun):
        return ""
    uncordons = [step for step in begun if isinstance(step.task.action, UncordonNode)]
    if any(step.verdict is Verdict.SUCCEEDED for step in uncordons):
        return "uncordoned its Node"
    told = next((step.detail for step in uncordons if _well(step) and step.detail), "")
    failed = next((f"it could not be uncordoned: {_why(step)}" for step in uncordons if not _well(step)), "")
    return f"its Node {told or 'stays cordoned'}" + (f"; {failed}" if failed else "")


def _was_cordoned(begun: list[TaskView]) -> bool:
    return any(isinstance(step.task.action, CordonNode) and _well(step) for step in begun)


def _well(step: TaskView) -> bool:
    return step.verdict is not None and step.verdict.went_well


def _why(step: TaskView) -> str:
    return step.failure.message if step.failure is not None else "unknown"
