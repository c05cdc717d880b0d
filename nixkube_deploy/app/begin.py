"""The quick start of the commands that evaluate: Nix is at work while the rest of the product is being read.

Only what must be known before that is imported here. What a command does is in ``commands``.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread

from nixkube_deploy.app.request import Request, Target, read_target
from nixkube_deploy.app.tools import Tools, open_tools

C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What is there already when a command is called."""

    target: Target
    tools: Tools


@dataclass(slots=True)
class _Ended(Generic[C]):
    console: C | None = None
    result: Any = None
    error: Exception | None = None


async def begin(command: str, request: Request, open_console: Callable[[], C]) -> tuple[C, Any]:
    """Run ``commands.<command>``; what the console is made of is read meanwhile, too.

    Raises:
        DeployError, TaskError: the command's own, as if it had been called.
    """
    target, ended = read_target(request), _Ended[C]()
    async with open_tools(target) as tools, anyio.create_task_group() as group:
        group.start_soon(tools.evaluator.begin, target.fleet.flake, tuple(target.fleet.hosts.values()))
        try:  # Not out of the group, which would make a group of it.
            ended.console, function = await anyio.to_thread.run_sync(_read_the_rest, command, open_console)
            ended.result = await function(request, ended.console, Begun(target=target, tools=tools))
        except Exception as error:  # noqa: BLE001 (raised again below)
            ended.error = error
        group.cancel_scope.cancel()
    if ended.error is not None:
        raise ended.error
    assert ended.console is not None
    return ended.console, ended.result


def _read_the_rest(command: str, open_console: Callable[[], C]) -> tuple[C, Callable[..., Any]]:
    gc.disable()
    try:
        function: Callable[..., Any] = getattr(import_module("nixkube_deploy.app.commands"), command)
        return open_console(), function
    finally:
        gc.freeze()
        gc.enable()
