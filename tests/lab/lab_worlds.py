"""Worlds for tests of the lab: small, in process, in a temporary folder. Holds no assertions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nixkube_deploy.lab.commands.table import PROGRAMS
from nixkube_deploy.lab.faults import FaultPlan, parse_fault
from nixkube_deploy.lab.host import LabHost, Setting
from nixkube_deploy.lab.machine import Machine
from nixkube_deploy.lab.population import Birth, create_machine, embody
from nixkube_deploy.lab.recipe import Configuration, Recipe, recipe_for
from nixkube_deploy.lab.shell import Streams, TextInput
from nixkube_deploy.lab.store import ControllerStore
from nixkube_deploy.lab.tools.table import run_tool
from nixkube_deploy.lab.tools.workshop import ToolCall, Workshop
from nixkube_deploy.lab.world import Wishes, World
from nixkube_deploy.model.fleet import Fleet, Host
from tests.builders import a_fleet, a_host

K3S = {"k3s.service": "1.31.3"}


@dataclass
class Ran:
    """What a command left."""

    code: int
    out: str
    err: str


@dataclass
class Bench:
    """One host without a port, and a clock that only moves when told."""

    folder: Path
    name: str = "w1"
    at: float = 1_000.0
    faults: FaultPlan = field(default_factory=FaultPlan)
    started: list = field(default_factory=list)

    def __post_init__(self):
        self.store = ControllerStore(self.folder / "store")
        self.setting = Setting(
            store=self.store,
            faults=self.faults,
            programs=PROGRAMS,
            now=lambda: self.at,
            changed=lambda: None,
            spawn=self._spawn,
            provided=lambda _host: {},
            reboot_seconds=0.01,
            pace=0.02,
        )
        self.old = self.system(kernel="6.12.7", units=K3S)
        self.host = self.embodied(a_host(self.name), self.old)
        self.machine = self.host.machine

    def _spawn(self, work):
        task = asyncio.ensure_future(work)
        self.started.append(task)
        return task

    def embodied(self, host: Host, recipe: Recipe | None, **changes: object) -> LabHost:
        machine: Machine = create_machine(host, Birth(port=2022, recipe=recipe, now=self.at))
        for name, value in changes.items():
            setattr(machine, name, value)
        return embody(host, machine, self.setting, a_fleet(), None)

    def system(self, **configuration: object) -> Recipe:
        recipe = recipe_for(Configuration(host=self.name, **configuration))
        self.store.instantiate(recipe)
        self.store.realise(recipe)
        return recipe

    def receive(self, **configuration: object) -> Recipe:
        recipe = self.system(**configuration)
        self.machine.roots.add(recipe.toplevel)
        return recipe

    def fault(self, spec: str) -> None:
        fault = parse_fault(spec, frozenset({self.name}))
        fault.spared = self.machine.current
        self.faults.add(fault)

    async def run(self, command: str, *, user: str = "root", stdin: str = "", host: LabHost | None = None) -> Ran:
        out, err = [], []
        streams = Streams(stdin=TextInput(stdin), out=out.append, err=err.append)
        code = await (host or self.host).execute(user, command, streams)
        return Ran(code, "".join(out), "".join(err))

    async def says(self, command: str, **options: object) -> str:
        ran = await self.run(command, **options)
        assert ran.code == 0, ran
        return ran.out


@asynccontextmanager
async def a_world(
    folder: Path, hosts: str = "cp1 | w1 w2", *, fleet: Fleet | None = None, **wishes: object
) -> AsyncIterator[World]:
    wanted = Wishes(reboot_seconds=0.1, **wishes)
    world = World(folder, fleet or a_fleet(hosts), wanted)
    await world.open()
    try:
        yield world
    finally:
        await world.close()


def workshop_of(world: World) -> Workshop:
    return Workshop(
        store=world.store, faults=world.faults, hosts=world.hosts, keyring=world.keyring, changed=world.touch
    )


async def use(world: World, tool: str, *argv: str, **env: str) -> Ran:
    out, err = [], []
    features = {"NIX_CONFIG": "extra-experimental-features = nix-command flakes"}
    call = ToolCall(
        argv=argv,
        env={**features, **env},
        cwd=world.folder,
        workshop=workshop_of(world),
        out=out.append,
        err=err.append,
    )
    code = await run_tool(tool, call)
    return Ran(code, "".join(out), "".join(err))


def ssh_options(world: World, host: str) -> str:
    """What the product puts into NIX_SSHOPTS."""
    known = world.folder / "known_hosts"
    if not known.exists():
        lines = [
            f"[127.0.0.1]:{h.machine.port} {world.keyring.public(h.machine.host_key)}" for h in world.hosts.values()
        ]
        known.write_text("\n".join(lines) + "\n")
    key = world.folder / "keys" / "id_ed25519"
    port = world.hosts[host].machine.port
    return f"-p {port} -i {key} -o IdentitiesOnly=yes -o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes"
