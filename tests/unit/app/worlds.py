"""Worlds made of fakes, for tests of the conductor's parts that need only some of the ports."""

from typing import Any, cast

from nixkube_deploy.app.world import World
from nixkube_deploy.model.fleet import Fleet, Host
from tests.fakes.clock import LoopClock
from tests.fakes.cluster import FakeCluster
from tests.fakes.shell import FakeShell


class NoPins:
    """Nothing was ever installed."""

    def get(self, _host: Host) -> str | None:
        return None

    def put(self, _host: Host, _key: str) -> None:
        raise AssertionError


def a_world(fleet: Fleet, shell: FakeShell, cluster: FakeCluster | None = None, **ports: Any) -> World:
    """A world without Nix, activators and the rest, unless they are given."""
    nothing = cast("Any", None)
    rest = {"evaluator": nothing, "store": nothing, "closures": nothing, "activators": {}, "installer": nothing}
    rest |= {"web": nothing, "pins": NoPins()} | ports
    return World(fleet=fleet, whole=fleet, clock=LoopClock(), shell=shell, cluster=cluster, **rest)
