"""What ``nix path-info --json`` prints in its three shapes, and what a host's lines mean."""

import json
import os

import anyio
import pytest

from nixkube_deploy.backends.nix.closures import NixClosures, path_infos
from nixkube_deploy.backends.nix.program import NixProgram
from nixkube_deploy.backends.nix.store import StoreFiles
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.packages import StoredPath
from tests.builders import a_host, store_path
from tests.fakes.process import FakeProcesses
from tests.fakes.shell import FakeShell

SYSTEM, BASH = store_path("nixos-system-w1-25.11"), store_path("bash-5.3")
KNOWN = {SYSTEM: StoredPath(size=10, references=(BASH,)), BASH: StoredPath(size=5)}
BARE = {path: path.removeprefix("/nix/store/") for path in KNOWN}


@pytest.mark.parametrize(
    "data",
    [
        [
            {"path": SYSTEM, "narSize": 10, "references": [BASH], "narHash": "sha256-x"},
            {"path": BASH, "narSize": 5, "references": []},
        ],
        {
            SYSTEM: {"narSize": 10, "references": [BASH], "ca": None, "signatures": []},
            BASH: {"narSize": 5, "references": []},
        },
        {
            "info": {
                BARE[SYSTEM]: {"narSize": 10, "references": [BARE[BASH]], "storeDir": "/nix/store", "version": 2},
                BARE[BASH]: {"narSize": 5, "references": []},
            },
            "storeDir": "/nix/store",
            "version": 2,
        },
    ],
    ids=["2.8", "2.26", "format-2"],
)
def test_every_shape_of_path_info_says_the_same(data):
    assert path_infos(data) == KNOWN


@pytest.mark.parametrize(
    "data", [None, 7, "x", [1], {"info": 3}, {SYSTEM: None}, [{"path": SYSTEM, "valid": False}], {SYSTEM: {}}]
)
def test_what_is_no_path_info_says_nothing(data):
    assert path_infos(data) == {}


def looking_at(tmp_path, processes: FakeProcesses, shell: FakeShell | None = None) -> NixClosures:
    (tmp_path / "nix/store").mkdir(parents=True)
    for path in KNOWN:
        (tmp_path / path.lstrip("/")).write_text("")
    return NixClosures(NixProgram(processes, "nix", os.environ), StoreFiles(tmp_path), shell or FakeShell())


async def test_all_systems_are_asked_about_at_once_and_only_those_that_are_here(tmp_path):
    printed = json.dumps({path: {"narSize": 1, "references": []} for path in KNOWN})
    processes = FakeProcesses().answers("nix", "path-info", stdout=printed)
    found = await looking_at(tmp_path, processes).stored([SYSTEM, BASH, store_path("gone"), SYSTEM])
    assert set(found) == set(KNOWN)
    assert processes.lines() == [f"nix path-info --offline --json -r {' '.join(sorted(KNOWN))}"]


async def test_a_query_that_fails_says_what_nix_said(tmp_path):
    processes = FakeProcesses().answers("nix", stderr="error: database is locked\n", exit_code=1)
    with pytest.raises(TaskError) as caught:
        await looking_at(tmp_path, processes).stored([SYSTEM])
    assert caught.value.failure.evidence == ("error: database is locked",)


async def test_a_hosts_answer_is_told_apart_from_its_chatter(tmp_path):
    shell = FakeShell().answers(
        "sh",
        stdout=f"Welcome!\n{SYSTEM}   \t   10\n{BASH}\t5\n{BASH}\n/nix/store/never-asked-about-1\n",
        stderr=f"warning: {SYSTEM} is odd\n",
    )
    store = await looking_at(tmp_path, FakeProcesses(), shell).on_host(a_host("w1"), [SYSTEM, BASH], SYSTEM)
    assert store.missing == {BASH}
    assert store.running == {SYSTEM: 10, BASH: 5}
    assert shell.ran[0].command.stdin == "".join(f"{path}\n" for path in sorted(KNOWN))
    assert not shell.ran[0].command.privileged


async def test_copies_that_begin_together_share_one_query_and_each_learns_of_its_own_closure(tmp_path):
    other = store_path("nixos-system-w2-25.11")
    infos = {SYSTEM: [BASH], BASH: [], other: [BASH]}
    printed = json.dumps({path: {"narSize": 1, "references": needs} for path, needs in infos.items()})
    processes = FakeProcesses().answers("nix", "path-info", stdout=printed)
    closures = looking_at(tmp_path, processes)
    (tmp_path / other.lstrip("/")).write_text("")
    found = {}

    async def ask(system) -> None:
        found[system] = set(await closures.closure(system))

    async with anyio.create_task_group() as group:
        for system in (SYSTEM, other, SYSTEM):
            group.start_soon(ask, system)
    assert found == {SYSTEM: {SYSTEM, BASH}, other: {other, BASH}}
    assert await closures.closure(store_path("gone")) == {}
    assert processes.lines() == [f"nix path-info --offline --json -r {' '.join(sorted([SYSTEM, other]))}"]
