"""Logs for programs: JSON lines by structlog, with run, host and task ids from the context.

For post-mortems and log collectors, not for the person at the terminal; nothing is logged unless a place was named.
It deliberately configures the standard library's logging too, so that libraries' warnings land in the same file.
"""

import logging
import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

import structlog

from nixkube_deploy.model.error import UsageError
from nixkube_deploy.model.names import HostName, RunId, TaskId
from nixkube_deploy.model.secret import Secret

_SHARED: tuple[structlog.typing.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
_TRACEBACKS: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
"""Where it happened, and not with what: local variables are where secrets are."""


@contextmanager
def logging_to(target: Path | TextIO, level: str = "info") -> Iterator[None]:
    """Log to a file (0600, appended to) or a stream until the block ends.

    Raises:
        UsageError: the file cannot be opened, or there is no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise UsageError(f"no log level {level!r}", hint="debug, info, warning or error")
    handler: logging.StreamHandler[TextIO] = logging.StreamHandler(_open(target))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _hide_secrets,
                _TRACEBACKS,
                structlog.processors.JSONRenderer(default=repr, ensure_ascii=True),
            ],
        )
    )
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(number)
    configure()
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.flush()
        if isinstance(target, Path):
            handler.stream.close()


def configure() -> None:
    """Route structlog through the standard library, whose handlers decide what happens."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


@contextmanager
def log_context(
    *, run: RunId | None = None, host: HostName | None = None, task: TaskId | None = None
) -> Iterator[None]:
    """Every log line inside the block carries these ids."""
    named = {key: value for key, value in (("run", run), ("host", host), ("task", task)) if value is not None}
    with structlog.contextvars.bound_contextvars(**named):
        yield


def _open(target: Path | TextIO) -> TextIO:
    if not isinstance(target, Path):
        return target
    try:
        return os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot log to {target}: {error.strerror}") from error


def _hide_secrets(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, Secret):
            event[key] = "***"
    return event
