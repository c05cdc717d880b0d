"""The installation of one machine, phase by phase: look, act, look again; then the wait for its first boot.

A phase that is taken up after a crash looks at the machine first. kexec and the reboot are not repeated once they have
happened; disko and nixos-install are repeated unless they are known to have ended, because nothing on the machine tells
a whole one from half of one, and nothing is lost by it. What may be wiped was decided before, from facts; this only
makes sure that it is still the same machine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio

from nixkube_deploy.model.action import InstallNixos, InstallPhase
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import BootstrapSettings, Host, InstallDeadlines
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.installer import Installer, Pins
from nixkube_deploy.ports.shell import OnLine, Shell
from nixkube_deploy.protocols.installed import (
    Progress,
    as_installed,
    as_installer,
    look_at,
    look_if_there,
)

_POLL: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallWorld:
    """What an installation needs."""

    shell: Shell
    clock: Clock
    installer: Installer
    pins: Pins


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One phase on one machine."""

    world: InstallWorld
    host: Host
    action: InstallNixos
    report: OnLine
    resumed: bool
    """Whether an earlier controller began this phase."""

    @property
    def _deadlines(self) -> InstallDeadlines:
        return (self.host.bootstrap or BootstrapSettings()).deadlines

    async def perform(self) -> bool:
        """The phase, to its end; False when it had happened already.

        Raises:
            TaskError: INSTALL, TIMEOUT, WIPE_GUARD, HOST_KEY, REBOOT.
        """
        match self.action.phase:
            case InstallPhase.KEXEC:
                return await self._kexec()
            case InstallPhase.REPORT:
                await self._installer()
                await self._run()
            case InstallPhase.DISKO:
                await self._disko()
            case InstallPhase.INSTALL:
                await self._install()
            case InstallPhase.REBOOT:
                return await self._reboot()
        return True

    # --- phases --------------------------------------------------------------------------------------------------

    async def _kexec(self) -> bool:
        seen = await self._before_kexec()
        self._same_machine(seen)
        if seen.in_installer:
            self.report("already in the installer")
            return False
        await self._run()
        seen = await self._await(self._deadlines.kexec, lambda seen: seen.in_installer, "an installer that answers")
        self._same_machine(seen)
        return True

    async def _before_kexec(self) -> Progress:
        """The machine as it answers; one that a dead controller sent into kexec may be on its way."""
        seen = await look_if_there(self.world.shell, self.host)
        if seen is not None:
            return seen
        there = await look_if_there(self.world.shell, as_installer(self.host))
        if there is not None and there.in_installer:
            return there
        if not self.resumed:
            return await look_at(self.world.shell, self.host)
        return await self._await(self._deadlines.kexec, lambda seen: seen.in_installer, "an installer that answers")

    async def _disko(self) -> None:
        seen = await self._installer()
        self._same_machine(seen)
        if seen.missing:
            raise self._refused(
                f"it has no {', '.join(seen.missing)}",
                expected=f"the disks of bootstrap.disks: {', '.join((self.host.bootstrap or _NONE).disks)}",
                seen="not there, as the installer sees the machine",
            )
        await self._run()
        await self._installer(lambda seen: seen.mounted, "disks on /mnt", "nothing mounted on /mnt")

    async def _install(self) -> None:
        seen = await self._installer(lambda seen: seen.mounted, "disks on /mnt", "nothing mounted on /mnt")
        self._same_machine(seen)
        if seen.prepared == self.action.closure:
            self.report("the system is on its disks already; nixos-install is run again, to its end")
        await self._run()
        key, closure = self.world.pins.get(self.host), self.action.closure
        seen = await self._installer()
        if seen.prepared != closure or seen.host_key != key:
            raise self._failed(
                f"what is on the disks of {self.host.name} is not what was installed",
                expected=f"{closure} with the host key {key}",
                seen=f"{seen.prepared or 'no system'} with the host key {seen.host_key or '(none)'}",
            )

    async def _reboot(self) -> bool:
        key = self.world.pins.get(self.host)
        if key is None:
            raise self._failed(
                f"the host key of {self.host.name} is not known on this machine",
                expected="the key that was sent along, pinned by the controller that installed it",
                seen="none",
            )
        new = as_installed(self.host, key)
        if self.resumed and (there := await look_if_there(self.world.shell, new)) and self._is_new(there):
            return False
        seen = await look_if_there(self.world.shell, as_installer(self.host))
        left = seen.boot_id if seen is not None and seen.in_installer else ""
        if left:
            await self._run()
        elif not self.resumed:
            raise self._failed(
                f"{self.host.name} is not in the installer any more", expected="the installer", seen=_where(seen)
            )
        await self._first_boot(new, left)
        return True

    async def _first_boot(self, new: Host, left: str) -> None:
        """Until the installed system answers with its own key.

        Another key is refused at once, unless it is the installer's, which may answer for some seconds more.
        """
        end, last = self.world.clock.monotonic() + self._deadlines.boot, "no answer"
        self.report("waiting for its first boot")
        while self.world.clock.monotonic() < end:
            try:
                seen = await look_at(self.world.shell, new)
            except TaskError as error:
                if error.failure.kind is FailureKind.HOST_KEY:
                    await self._another_key(error)
                last = error.failure.message
            else:
                if self._is_new(seen) and seen.boot_id != left:
                    return
                last = _where(seen)
            await anyio.sleep(_POLL)
        raise TaskError(
            Failure(
                kind=FailureKind.REBOOT,
                message=f"{self.host.name} did not come up with its new system",
                expected=f"{self.action.closure} within {self._deadlines.boot:g} s (bootstrap.deadlines.boot)",
                seen=last,
                did="the system is installed; nothing more was done to the machine",
                next=f"look at the console of {self.host.name}: does it boot from the disk that was installed?",
            )
        )

    async def _another_key(self, error: TaskError) -> None:
        """Which is the installer's for a moment, or the end.

        Raises:
            TaskError: HOST_KEY.
        """
        seen = await look_if_there(self.world.shell, as_installer(self.host))
        if seen is None or seen.in_installer:
            return
        failure = error.failure
        raise TaskError(
            Failure(
                kind=FailureKind.HOST_KEY,
                message=f"{self.host.name} answers after its installation with another host key than was sent with it",
                expected=failure.expected,
                seen=f"{failure.seen}; it says that it is {_where(seen)}",
                did="nothing was sent to it, and it does not join the cluster",
                next="compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on its console: does the "
                "configuration bring a host key of its own (services.openssh.hostKeys)? Else somebody is in between",
            )
        )

    # --- looking -------------------------------------------------------------------------------------------------

    def _is_new(self, seen: Progress) -> bool:
        return seen.current == self.action.closure and not seen.in_installer

    async def _installer(
        self,
        right: Callable[[Progress], bool] = lambda _seen: True,
        expected: str = "the installer",
        otherwise: str = "",
    ) -> Progress:
        """The machine in its installer, once nothing of a controller that was killed is at work there any more."""

        def settled(seen: Progress) -> bool:
            return not seen.in_installer or not seen.at_work

        seen = await self._await(self._deadline_of_phase(), settled, "an end of what an earlier controller began")
        if not seen.in_installer:
            raise self._failed(
                f"{self.host.name} is not in the installer any more", expected="the installer", seen=_where(seen)
            )
        if not right(seen):
            raise self._failed(
                f"{self.host.name} is not ready for the {self.action.phase.value} phase, or it did nothing",
                expected=expected,
                seen=otherwise,
            )
        return seen

    def _deadline_of_phase(self) -> float:
        seconds: float = getattr(self._deadlines, self.action.phase.value)
        return seconds

    async def _await(self, seconds: float, right: Callable[[Progress], bool], expected: str) -> Progress:
        end, seen = self.world.clock.monotonic() + seconds, None
        while True:
            seen = await look_if_there(self.world.shell, as_installer(self.host))
            if seen is not None and right(seen):
                return seen
            if self.world.clock.monotonic() >= end:
                break
            await anyio.sleep(_POLL)
        raise TaskError(
            Failure(
                kind=FailureKind.TIMEOUT,
                message=f"{self.host.name} did not get to where the {self.action.phase.value} phase needs it",
                expected=f"{expected} within {seconds:g} s",
                seen=_where(seen),
                next=f"look at the console of {self.host.name}",
            )
        )

    def _same_machine(self, seen: Progress) -> None:
        """Whether it is the machine of the plan: an address may have gone to another one since.

        Raises:
            TaskError: WIPE_GUARD.
        """
        if self.action.serial and seen.serial and seen.serial != self.action.serial:
            raise self._refused(
                "another machine answers at its address now",
                expected=f"the serial number {self.action.serial}",
                seen=seen.serial,
            )

    # --- acting and failing --------------------------------------------------------------------------------------

    async def _run(self) -> None:
        await self.world.installer.install(self.host, self.action, self.report)

    def _refused(self, because: str, *, expected: str, seen: str) -> TaskError:
        return TaskError(
            Failure(
                kind=FailureKind.WIPE_GUARD,
                message=f"{self.host.name} is not wiped: {because}",
                expected=expected,
                seen=seen,
                did="its disks were not touched",
                next=f"check that {self.host.address} is the right machine",
            )
        )

    def _failed(self, message: str, *, expected: str, seen: str) -> TaskError:
        return TaskError(
            Failure(
                kind=FailureKind.INSTALL,
                message=message,
                expected=expected,
                seen=seen,
                did="nothing more was done to it",
                next=f"deploy bootstrap INVENTORY --on {self.host.name} --fresh",
            )
        )


_NONE: Final = BootstrapSettings()


def _where(seen: Progress | None) -> str:
    if seen is None:
        return "no answer"
    if seen.in_installer:
        return f"the installer, {'with' if seen.mounted else 'without'} disks on /mnt"
    return f"{seen.os_id or 'an unknown system'} {seen.current or ''}".strip()
