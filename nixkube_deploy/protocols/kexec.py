"""Holding a new kernel ready, for a reboot past the firmware and the boot loader. It reboots nothing itself."""

from typing import Final

from nixkube_deploy.model.names import StorePath
from nixkube_deploy.ports.shell import Command
from nixkube_deploy.protocols.patience import PatientShell
from nixkube_deploy.protocols.script import Question, ask

_TIMEOUT: Final = 60.0


async def load(patient: PatientShell, system: StorePath) -> str:
    """Load the system's kernel, as NixOS's own ``prepare-kexec`` does. Empty: it is ready; else why it is not.

    An initrd that gets its secrets from the boot loader's installer is not the one in the store: such a host boots
    through its boot loader, or it would ask for a passphrase that nobody types.

    Raises:
        TaskError: what ``PatientShell`` raises.
    """
    questions = (
        Question(name="params", command=f"cat {system}/kernel-params"),
        Question(name="secrets", command=f"test -e {system}/append-initrd-secrets && echo yes"),
    )
    found = await patient.insist(lambda: ask(patient.shell, patient.host, questions))
    if found["secrets"]:
        return "the initrd in its store lacks the secrets that its boot loader's copy has"
    line = f"init={system}/init {found['params']}".strip()
    argv = ("kexec", "--load", f"{system}/kernel", f"--initrd={system}/initrd", f"--command-line={line}")
    command = Command(argv=argv, privileged=True, timeout=_TIMEOUT)
    result = await patient.insist(lambda: patient.shell.run(patient.host, command))
    return "" if result.ok else " ".join(result.tail(1)) or f"kexec --load: exit code {result.exit_code}"
