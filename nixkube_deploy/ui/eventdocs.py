"""The documentation of the event stream, written from the types themselves, so that it cannot be wrong.

It deliberately knows nothing about streams; a test keeps ``docs/events.md`` equal to what it returns.
"""

import typing

from nixkube_deploy.model.event import Event, TaskReported
from nixkube_deploy.ui.jsonl import EVENTS_VERSION, event_type
from nixkube_deploy.ui.typedocs import section, values

_HEAD = f"""# The event stream

`deploy apply --events FILE` (or `--events -` for standard output) writes one JSON object a line, as things happen.
An event is written after it is in the journal, so what a program reads here has happened.

This is version {EVENTS_VERSION}. New event types and new fields may come at any time: skip what you do not know.
A field that changes its meaning or goes away raises the version.

This page is written from the types in `nixkube_deploy/model/event.py`; a test keeps both equal.

## Every event

| field | type | meaning |
|---|---|---|
| `version` | integer | {EVENTS_VERSION} |
| `seq` | integer or null | Position in the run's journal, from 0 without gaps; null for `task-reported`. |
| `at` | string | When, ISO 8601 in UTC with milliseconds. |
| `type` | string | One of the types below. |
| `run` | string or null | The run's id, as `deploy show` takes it. |

Events about a task (those whose type begins with `task-`) also have:

| field | type | meaning |
|---|---|---|
| `task` | string | The task's id, `host/step`. |
| `host` | string or null | The inventory's name for the host; null for a task of the whole fleet. |
| `step` | string | What is done: `copy`, `drain`, `activate`, `gate`, ... |
"""


def events_markdown() -> str:
    """The whole page, with a newline at the end."""
    events = (*typing.get_args(Event), TaskReported)
    nested: dict[str, type] = {}
    parts = [_HEAD, "## Types\n"]
    common = frozenset({"task", "run"})
    parts.extend(section(event_type(kind), kind, nested, common) for kind in events)
    parts.append("## Values\n")
    parts.extend(values(nested))
    return "\n".join(parts)
