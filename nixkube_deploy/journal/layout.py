"""How a run lies on disk: one file of JSON lines, a header and then records. Opens no file itself."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nixkube_deploy.model.codec import CodecError, from_plain, to_plain
from nixkube_deploy.model.error import DeployError, UsageError
from nixkube_deploy.model.event import Event, Record
from nixkube_deploy.model.graph_codec import plan_from_plain, plan_to_plain
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.rollout import Plan

VERSION = 1
"""Version of the journal's shape; a journal of another version is refused, never guessed at."""


_OBJECTS = tuple[dict, ...]  # type: ignore[type-arg]  # The codec looks at the bare type.


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The journal's first line. The plan stays plain until somebody asks: it is most of the file."""

    run: RunId
    inventory: str
    digest: str
    plain_plan: dict[str, Any]

    @property
    def plan(self) -> Plan:
        """The plan the run executes. Raises CodecError when it was tampered with."""
        return plan_from_plain(self.plain_plan)

    @property
    def task_hosts(self) -> list[str | None]:
        """The host of every task, without decoding the plan. Raises CodecError when it was tampered with."""
        graph = from_plain(dict, self.plain_plan.get("graph"), "$.plan.graph")
        tasks: tuple[dict[str, Any], ...] = from_plain(_OBJECTS, graph.get("tasks"), "$.plan.graph.tasks")
        return [from_plain(str | None, task.get("host"), "$.plan.graph.tasks.host") for task in tasks]


def journal_path(state: Path, run: RunId) -> Path:
    """Where a run's journal is.

    Raises:
        UsageError: this can be no run's id (and might be somebody's path).
    """
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_-]*", run):
        raise UsageError(f"{run!r} is no run's id", hint="deploy runs")
    return state / "runs" / f"{run}.jsonl"


def header_line(run: RunId, plan: Plan) -> bytes:
    """The first line of a new journal."""
    header = {"version": VERSION, "run": run, "inventory": plan.inventory, "digest": plan.digest}
    return _line(header | {"plan": plan_to_plain(plan)})


def record_line(record: Record) -> bytes:
    """One record's line."""
    event: Event = record.event
    return _line({"seq": record.seq, "at": record.at, "event": to_plain(event)})


def sound_lines(data: bytes) -> list[bytes]:
    """The lines that were written to their end.

    What follows the last newline is torn: its ``append`` never returned, so nobody acted on it. A power cut may also
    leave a last line whose blocks never reached the disk (NULs).
    """
    lines = data.split(b"\n")[:-1]
    if lines and not _is_json(lines[-1]):
        lines.pop()
    return lines


def read_header(path: Path, lines: Sequence[bytes]) -> Header:
    """The header.

    Raises:
        DeployError: there is none, it is of another version, or it is damaged.
    """
    if not lines:
        raise DeployError(f"{path}:1: the journal ends before its header does", hint=f"nothing was done; rm {path}")
    data = _loads(path, 1, lines[0])
    version = data.get("version")
    if version != VERSION:
        raise DeployError(
            f"{path}: this is a journal of version {version!r}, and this program reads version {VERSION}",
            hint="finish the run with the release that began it, or move the file away and run `deploy apply`",
        )
    try:
        return Header(
            run=RunId(from_plain(str, data.get("run"), "$.run")),
            inventory=from_plain(str, data.get("inventory"), "$.inventory"),
            digest=from_plain(str, data.get("digest"), "$.digest"),
            plain_plan=from_plain(dict, data.get("plan"), "$.plan"),
        )
    except CodecError as error:
        raise _damaged(path, 1, str(error)) from error


def read_records(path: Path, lines: Sequence[bytes]) -> tuple[Record, ...]:
    """Every record after the header.

    Raises:
        DeployError: a line is damaged, or one is missing; the message names file and line.
    """
    records = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            record: Record = from_plain(Record, _loads(path, number, line))
        except CodecError as error:
            raise _damaged(path, number, str(error)) from error
        if record.seq != number - 2:
            raise _damaged(path, number, f"record {number - 2} was expected here, not {record.seq}")
        records.append(record)
    return tuple(records)


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _loads(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, number, str(error)) from error
    if not isinstance(data, dict):
        raise _damaged(path, number, "not an object")
    return data


def _damaged(path: Path, number: int, why: str) -> DeployError:
    return DeployError(
        f"{path}:{number}: the journal is damaged: {why}",
        hint=f"move {path} away and run `deploy apply`: it finds out anew what every host runs",
    )
