"""The lab's process: opens a world, answers on the control socket, ends on request or on SIGTERM.

What to simulate is in ``lab.json``; it talks to no terminal.
"""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nixkube_deploy.inventory.load import load_fleet
from nixkube_deploy.lab.control import ControlServer, socket_path
from nixkube_deploy.lab.faults import FaultError
from nixkube_deploy.lab.tools.table import write_scripts
from nixkube_deploy.lab.twin import write_twin
from nixkube_deploy.lab.world import Wishes, World
from nixkube_deploy.model.error import DeployError

SETTINGS = "lab.json"
READY = "ready"
PID = "pid"
LEASH = "--leash"
"""Standard input is a pipe held by whoever wants this lab; its end is the lab's end."""


def write_settings(folder: Path, inventory: str, wishes: Wishes) -> None:
    """What the daemon reads at its start."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {"inventory": inventory, "wishes": asdict(wishes)}
    (folder / SETTINGS).write_text(json.dumps(plain, indent=2) + "\n")


def read_settings(folder: Path) -> tuple[str, Wishes]:
    """The inventory and the wishes of a lab."""
    plain: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
    wishes = plain["wishes"]
    return plain["inventory"], Wishes(**{**wishes, "bare": tuple(wishes["bare"]), "faults": tuple(wishes["faults"])})


async def run(folder: Path, report: int | None, *, leashed: bool = False) -> None:
    """Open the world of ``folder`` and serve it; ``report`` is a descriptor that learns when all is ready."""
    inventory, wishes = read_settings(folder)
    loaded = load_fleet(inventory)
    _make_password(folder)
    world = World(folder, loaded.fleet, wishes)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    if leashed:
        loop.add_reader(sys.stdin.fileno(), done.set)
    control = ControlServer(world, done.set)
    try:
        await world.open()
        write_twin(world, loaded.provenance.source.text, loaded.provenance.source.base)
        write_scripts(folder / "bin", socket_path(folder))
        await control.start()
        (folder / PID).write_text(f"{os.getpid()}\n")
        _tell(report, READY)
        await done.wait()
    finally:
        await control.close()
        await world.close()
        (folder / PID).unlink(missing_ok=True)


def _make_password(folder: Path) -> None:
    """The password of sudo on hosts whose inventory names one."""
    file = folder / "keys" / "sudo-password"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(12) + "\n")


def _tell(report: int | None, text: str) -> None:
    if report is not None:
        with contextlib.suppress(OSError):
            os.write(report, (text + "\n").encode())
            os.close(report)


def main(arguments: list[str]) -> int:
    """``python -m nixkube_deploy.lab.daemon FOLDER [DESCRIPTOR [--leash]]``."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # A client that went away is no news here.
    folder = Path(arguments[0])
    report = int(arguments[1]) if len(arguments) > 1 else None
    try:
        asyncio.run(run(folder, report, leashed=LEASH in arguments))
    except (DeployError, FaultError) as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        _tell(report, f"{error}{hint}")
        return 2
    except Exception:
        traceback.print_exc()
        _tell(report, f"the lab could not start; see {folder / 'lab.log'}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
