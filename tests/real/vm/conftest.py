"""These run in ``nox -s vm`` only, and there a machine that cannot be had is a failure: nothing counts as passed."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from subprocess import CompletedProcess

import pytest

from tests.real.bed.fleet import real_fleet
from tests.real.bed.tree import NoTree
from tests.real.vm import system
from tests.real.vm.image import image
from tests.real.vm.machine import NAME, Machine
from tests.real.vm.needs import NoMachine

ASKED = "NIXKUBE_VM"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get(ASKED):
        return
    for item in items:
        if item.path.parent.name == "vm":
            item.add_marker(pytest.mark.skip(reason="a virtual machine of its own: `nox -s vm` runs it"))


@dataclass
class Story:
    machine: Machine
    began: float
    told: list[str] = field(default_factory=list)

    def wants(self, **settings: object) -> str:
        """Have the flake want another system; its path."""
        self.machine.fleet.configure(NAME, **{"stage2": "", **settings})
        return self.machine.fleet.toplevel(NAME)

    def deploy(self, verb: str, *arguments: str, **strategy: str) -> "CompletedProcess[str]":
        inventory = self.machine.fleet.inventory(strategy=strategy)
        began = time.monotonic()
        done = self.machine.fleet.deploy(verb, inventory, "--yes", *arguments, timeout=280)
        took = f"{time.monotonic() - began:.0f} s, exit code {done.returncode}"
        self.told.append(f"deploy {verb} {' '.join(arguments)} {strategy or ''}: {took}\n{done.stdout}{done.stderr}")
        print(self.told[-1])  # noqa: T201 (`nox -s vm` shows what was seen)
        return done


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Iterator[Story]:
    try:
        made = image()
    except (NoMachine, NoTree) as error:
        pytest.fail(f"not run: no virtual machine can be had here: {error}", pytrace=False)
    began = time.monotonic()
    folder = tmp_path_factory.mktemp("vm")
    with real_fleet(folder / "bed", hosts=0) as fleet:
        system.furnish(fleet, made / "kernel", made / "initrd")
        with Machine.running(fleet, made, folder / "machine", snapshot=True) as machine:
            print(f"the machine is there after {time.monotonic() - began:.1f} s")  # noqa: T201
            yield Story(machine=machine, began=began)
