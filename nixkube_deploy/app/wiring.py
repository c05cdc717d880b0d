"""Concrete backends behind the ports: the only file that names them."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from nixkube_deploy.app.clock import SystemClock
from nixkube_deploy.app.lastseen import LastSeen
from nixkube_deploy.app.pins import InstalledKeys
from nixkube_deploy.app.request import Target
from nixkube_deploy.app.state import state_directory
from nixkube_deploy.app.tools import Tools, open_tools, program
from nixkube_deploy.app.world import World
from nixkube_deploy.backends.deploy_rs.activator import DeployRsActivator
from nixkube_deploy.backends.kubernetes.connect import open_cluster
from nixkube_deploy.backends.kubernetes.fetch import fetch_kubeconfig
from nixkube_deploy.backends.nix.closures import NixClosures
from nixkube_deploy.backends.nix.program import NixProgram
from nixkube_deploy.backends.nix.store import StoreFiles, store_root
from nixkube_deploy.backends.nixos_anywhere.installer import NixosAnywhere
from nixkube_deploy.backends.nixos_rebuild.activator import NixosRebuildActivator
from nixkube_deploy.backends.process.local import LocalProcesses
from nixkube_deploy.backends.web.get import ThreadedWeb
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure
from nixkube_deploy.model.fleet import Activator, Fleet
from nixkube_deploy.ports.cluster import Cluster
from nixkube_deploy.ports.shell import Shell
from nixkube_deploy.protocols.activation import NativeActivator


@asynccontextmanager
async def open_world(target: Target, tools: Tools | None = None) -> AsyncIterator[World]:
    """Connect the fleet's ports to the real world; everything is closed with the block.

    Nothing is contacted yet, unless the kubeconfig must be fetched from a control-plane host. ``tools`` that are open
    already are left open.
    """
    fleet, whole, pins = target.fleet, target.whole, InstalledKeys(state_directory(), target.whole.source)
    async with AsyncExitStack() as stack:
        if tools is None:
            tools = await stack.enter_async_context(open_tools(target))
        clock, shell, processes, options = SystemClock(), tools.shell, tools.processes, tools.shell.options
        rebuild = program("NIXKUBE_NIXOS_REBUILD", "nixos-rebuild")
        anywhere = program("NIXKUBE_NIXOS_ANYWHERE", "nixos-anywhere")
        cluster, problem = await _cluster(whole, shell, clock, stack)
        yield World(
            fleet=fleet,
            whole=whole,
            clock=clock,
            shell=shell,
            evaluator=tools.evaluator,
            store=tools.nix,
            closures=_closures(processes, shell),
            activators={
                Activator.NATIVE: NativeActivator(shell, clock),
                Activator.NIXOS_REBUILD: NixosRebuildActivator(processes, shell, options, program=rebuild),
                Activator.DEPLOY_RS: DeployRsActivator(processes, shell, options, _deploy_rs(whole)),
            },
            installer=NixosAnywhere(processes, options, tools.secrets, pins, program=anywhere),
            pins=pins,
            web=ThreadedWeb(),
            last_seen=LastSeen(state_directory() / "last-seen", whole.source),
            cluster=cluster,
            cluster_problem=problem,
        )


def _closures(processes: LocalProcesses, shell: Shell) -> NixClosures:
    nix = NixProgram(processes, program("NIXKUBE_NIX", "nix"), os.environ)
    return NixClosures(nix, StoreFiles(store_root(os.environ.get("NIX_REMOTE", ""))), shell)


def _deploy_rs(fleet: Fleet) -> str:
    return program("NIXKUBE_DEPLOY_RS", fleet.deploy_rs or "")


async def _cluster(
    fleet: Fleet, shell: Shell, clock: SystemClock, stack: AsyncExitStack
) -> tuple[Cluster | None, Failure | None]:
    if not fleet.cluster.distribution.has_kubelet:
        return None, None
    try:
        source = fleet.cluster.kubeconfig or await fetch_kubeconfig(fleet, shell)
        cluster = await stack.enter_async_context(open_cluster(source, fleet.cluster.context, clock=clock))
    except TaskError as error:
        return None, error.failure
    return cluster, None
