"""Every error the product raises on purpose. Anything else is a bug.

DeployError             ends the command with its exit code and a message
+-- UsageError          2: the command line or the inventory is wrong
+-- Refused             3: a preflight or a plan says no; nothing was touched
+-- Locked              6: somebody else is at work
TaskError               one task failed as tasks may; carries a Failure, never leaves the engine
"""

import traceback

from nixkube_deploy.model.failure import Failure, FailureKind


class DeployError(Exception):
    """A command cannot go on. ``hint`` is what to type or change next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DeployError):
    """The command line or the inventory is wrong."""

    exit_code = 2


class Refused(DeployError):  # noqa: N818 (reads as a sentence: ``raise Refused``)
    """A preflight check or a saved plan says no. Nothing was touched. ``failures`` are shown in full."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", failures: tuple[tuple[str, Failure], ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.failures = failures


class Locked(DeployError):  # noqa: N818
    """A live lock is held by somebody else; the message names the holder."""

    exit_code = 6


class TaskError(Exception):
    """An expected failure of one task."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Unreachable(TaskError):  # noqa: N818
    """No connection could be made; nothing happened on the host."""


class OutcomeUnknown(TaskError):  # noqa: N818
    """The connection or the deadline was lost while a command ran: it may have succeeded, failed, or still run."""


def task_error(kind: FailureKind, message: str, **details: object) -> TaskError:
    """A ``TaskError`` in one line; ``details`` are fields of ``Failure``."""
    return TaskError(Failure(kind=kind, message=message, **details))  # type: ignore[arg-type]


def failure_of(error: Exception) -> Failure:
    """The failure an exception stands for; of kind BUG when it is none that a task may raise.

    A task group wraps even a single error in an ExceptionGroup, so such wrappings are looked through.
    """
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    match error:
        case TaskError():
            return error.failure
        case TimeoutError():
            return Failure(kind=FailureKind.TIMEOUT, message=str(error) or "took too long", transient=True)
        case _:
            trace = "".join(traceback.format_exception(error)).splitlines()[-20:]
            return Failure(kind=FailureKind.BUG, message=f"a bug: {error!r}", evidence=tuple(trace))
