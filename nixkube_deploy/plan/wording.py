"""Hosts in as few words as they can be named: ``w2..w9 (8 hosts)``. It deliberately knows only names."""

import re
from collections.abc import Iterable
from itertools import pairwise

from nixkube_deploy.model.names import HostName

RANGE = 3
"""Names in a row from which on ``first..last`` reads better than the list."""
SHOWN = 60
"""Parts of a list that a person may still read."""


def hosts(count: int) -> str:
    """``1 host``, ``2 hosts``."""
    return "1 host" if count == 1 else f"{count} hosts"


def host_list(names: Iterable[HostName]) -> str:
    """Names with runs of consecutive numbers drawn together, and their number where that hides it."""
    given = list(names)
    runs = _runs(given)
    text = ", ".join(_said(run) for run in runs[:SHOWN])
    if len(runs) > SHOWN:
        text += f" and {len(given) - sum(map(len, runs[:SHOWN]))} more"
    return f"{text} ({hosts(len(given))})" if len(given) >= RANGE and (".." in text or len(runs) > SHOWN) else text


def _runs(names: list[HostName]) -> list[list[HostName]]:
    runs: list[list[HostName]] = [names[:1]]
    for before, name in pairwise(names):
        if _follows(before, name):
            runs[-1].append(name)
        else:
            runs.append([name])
    return runs


def _follows(before: HostName, name: HostName) -> bool:
    one, two = re.fullmatch(r"(.*?)(\d+)", before), re.fullmatch(r"(.*?)(\d+)", name)
    if one is None or two is None or one[1] != two[1]:
        return False
    padded = one[2].startswith("0") or two[2].startswith("0")
    return int(two[2]) == int(one[2]) + 1 and (not padded or len(one[2]) == len(two[2]))


def _said(run: list[HostName]) -> str:
    return f"{run[0]}..{run[-1]}" if len(run) >= RANGE else ", ".join(run)
