"""Run by the bed's controller: the product's own wiring brings closures to hosts, and says what that took, as JSON.

``copying.py INVENTORY PATH [ATTEMPTS]``. A transient failure is tried again at once, as the engine would after a pause.
"""

import functools
import json
import sys
import time
from typing import Any

import anyio

from nixkube_deploy.app.request import Target
from nixkube_deploy.app.wiring import open_world
from nixkube_deploy.backends.ssh.shell import SshShell
from nixkube_deploy.inventory.load import load_fleet
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.names import StorePath

trips: dict[str, int] = {}


def counted(name: str) -> None:
    """Every command to a host is a round trip, whoever asks."""
    plain = getattr(SshShell, name)

    @functools.wraps(plain)
    def call(self: SshShell, host: Any, *arguments: Any, **options: Any) -> Any:
        trips[host.name] = trips.get(host.name, 0) + 1
        return plain(self, host, *arguments, **options)

    setattr(SshShell, name, call)


async def main(inventory: str, path: str, attempts: int) -> None:
    loaded = load_fleet(inventory)
    told: dict[str, Any] = {}
    async with open_world(Target(loaded=loaded, whole=loaded.fleet, fleet=loaded.fleet)) as world:

        async def one(name: str) -> None:
            host, lines, failures = world.fleet.hosts[name], [], []
            start, changed = time.monotonic(), None
            for _ in range(attempts):
                try:
                    changed = await world.store.copy(StorePath(path), host, lines.append)
                    break
                except TaskError as error:
                    failures.append(error.failure)
                    sys.stderr.write(f"failed: {error.failure.message}\n")
                    sys.stderr.flush()
                    if not error.failure.transient:
                        break
                    await anyio.sleep(0.5)
            told[name] = {
                "changed": changed,
                "failures": [
                    {"kind": f.kind, "message": f.message, "next": f.next, "did": f.did, "transient": f.transient}
                    for f in failures
                ],
                "lines": lines,
                "trips": trips.get(name, 0),
                "seconds": time.monotonic() - start,
            }

        async with anyio.create_task_group() as group:
            for name in world.fleet.hosts:
                group.start_soon(one, name)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    counted("run")
    counted("stream")
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1)
