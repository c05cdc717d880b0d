"""Where a host is to be: the system that runs, what the next boot starts, and the commands that bring both about.

It runs nothing; ``activation``, ``reboot`` and the dead-man timer run what it says.
"""

import shlex
from dataclasses import dataclass, replace
from typing import Final

from nixkube_deploy.model.action import SwitchMode, WayBack
from nixkube_deploy.model.names import StorePath
from nixkube_deploy.protocols.probe import PROFILE, generation_link

SWITCH_TO_CONFIGURATION: Final = "bin/switch-to-configuration"
UNITS_FAILED: Final = 4
"""Its exit code when it has switched, and some units did not start."""
LOCK_HELD: Final = "Could not acquire lock"
"""What it says when another one is at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One system and how it is to be reached."""

    system: StorePath
    mode: SwitchMode
    toplevel: StorePath | None = None
    """The system that ``system`` is a specialisation of; it is what the profile holds and what the host boots."""
    generation: int | None = None
    """The generation of the profile that may still be this: going back to it keeps its number, as people expect."""

    @property
    def profile(self) -> StorePath:
        """What the profile points to afterwards (unless the mode leaves it alone)."""
        return self.toplevel or self.system

    @property
    def profile_line(self) -> str:
        """The shell command that sets the profile; safe to repeat."""
        path = shlex.quote(self.profile)
        sets = f"nix-env -p {PROFILE} --set {path}"
        if self.generation is None:
            return sets
        kept = f"nix-env -p {PROFILE} --switch-generation {self.generation}"
        return f"test {generation_link(self.generation)} -ef {path} && {kept} || {sets}"

    @property
    def argv(self) -> tuple[str, ...]:
        """The program that activates.

        A specialisation's own ``switch`` would leave systemd-boot's default entry where it was (nixpkgs issue 325233),
        so the toplevel is made the next boot's system, and only then its specialisation is run.
        """
        if self.mode is SwitchMode.BOOT:
            return _program(self.profile, SwitchMode.BOOT)
        if self.mode is SwitchMode.SWITCH and self.profile != self.system:
            boots, runs = _program(self.profile, SwitchMode.BOOT), _program(self.system, SwitchMode.TEST)
            return "sh", "-c", f"{shlex.join(boots)} && {shlex.join(runs)}"
        return _program(self.system, self.mode)

    @property
    def line(self) -> str:
        """The whole way as one shell command: the profile, then the system.

        A profile that cannot be set (a full disk) keeps nobody from the running system: what cut the host off must go.
        """
        program = self.argv[2] if self.argv[0] == "sh" else shlex.join(self.argv)
        return f"{self.profile_line} || true && {program}" if self.mode.sets_profile else program

    def by(self, mode: SwitchMode) -> "Destination":
        """The same system, reached in another way."""
        return replace(self, mode=mode)


def _program(system: StorePath, mode: SwitchMode) -> tuple[str, str]:
    return f"{system}/{SWITCH_TO_CONFIGURATION}", mode.value


def back_to(back: WayBack, mode: SwitchMode = SwitchMode.SWITCH) -> Destination:
    """The way back. A change that was only on trial left the profile alone, and so does going back from it."""
    if mode is SwitchMode.TEST:
        return Destination(system=back.system, mode=mode)
    return Destination(system=back.system, mode=mode, toplevel=back.profile, generation=back.generation)
