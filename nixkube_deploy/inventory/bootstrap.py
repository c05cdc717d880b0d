"""The inventory's words for installing a host: what is wiped, what is sent along, and how long each phase may take.

What the guards make of it is the plan's; nothing here looks at a machine.
"""

from collections.abc import Mapping
from typing import Any

from nixkube_deploy.inventory import units, values
from nixkube_deploy.inventory.shape import Choice, Count, Field, ListOf, Record, TableOf, Text, fields_of
from nixkube_deploy.model.fleet import BootstrapSettings, HardwareReport, InstallDeadlines, ReportBackend

_REMOTE = Text(what="an absolute path of letters, digits and . _ - /", pattern=r"^/[A-Za-z0-9._/-]+$")
"""nixos-anywhere puts it unquoted into a shell of the installer."""
_SHORT = Text(
    what="an absolute path of at most 35 characters: nixos-anywhere cuts off what is longer",
    pattern=r"^/[A-Za-z0-9._/-]{1,34}$",
)
_OWNER = Text(what="uid:gid in numbers, such as 1000:100", pattern=r"^[0-9]{1,10}:[0-9]{1,10}$")

_REPORT = Record(
    name="hardware_report",
    doc="A file of the flake that describes the machine's hardware; written once, by the installer.",
    fields={
        "path": Field(values.FILE_PATH, "The file; one that is there is kept.", required=True),
        "backend": Field(
            Choice(words=tuple(ReportBackend), make=ReportBackend), "Which program looks.", ReportBackend.FACTER
        ),
    },
)

_DEADLINES = Record(
    name="deadlines",
    doc="How long each phase of an installation may take; nixos-anywhere itself waits without end.",
    fields=fields_of(
        InstallDeadlines,
        {
            "kexec": (units.duration(least=0.001), "Until the installer answers."),
            "report": (units.duration(least=0.001), "Until the hardware report is written."),
            "disko": (units.duration(least=0.001), "Until the disks are formatted and mounted."),
            "install": (units.duration(least=0.001), "Until the system is copied and installed."),
            "reboot": (units.duration(least=0.001), "Until the installer is gone."),
            "boot": (units.duration(least=0.001), "From then on, until the installed system answers."),
        },
    ),
)

BOOTSTRAP = Record(
    name="bootstrap",
    doc="What installing this host needs, and the guards against wiping the wrong machine.",
    fields=fields_of(
        BootstrapSettings,
        {
            "disks": (
                ListOf(item=values.DEVICE, unique=True),
                "The disks that will be wiped, by stable path (/dev/disk/by-id/...).",
            ),
            "extra_files": (values.FILE_PATH, "A folder copied to the new system's root."),
            "expect_serial": (values.WORD, "Install only if the machine's DMI serial number is this."),
            "expect_machine_id": (values.WORD, "Install only if the running system's machine-id is this."),
            "kexec": (values.PATH_OR_URL, "A kexec tarball in place of nixos-anywhere's own."),
            "installer_port": (Count(minimum=1, maximum=65535), "The port of the installer's sshd; absent: ssh.port."),
            "host_key": (values.SecretReference(), "The new system's private SSH host key; absent: one is made."),
            "secrets": (
                TableOf(key=_REMOTE, value=values.SecretReference()),
                "Files of the new system that hold secrets (a k3s token), by path; readable by root only.",
            ),
            "ownership": (TableOf(key=_SHORT, value=_OWNER), "Owners of files sent along, by path; root's otherwise."),
            "disk_encryption_keys": (
                TableOf(key=_REMOTE, value=values.SecretReference()),
                "Keys the disko script reads, by their path in the installer.",
            ),
            "hardware_report": (_REPORT, "Write a hardware report into the flake before the disks are touched."),
            "deadlines": (_DEADLINES, "How long each phase may take."),
        },
    ),
)


def settings(written: Mapping[str, Any]) -> BootstrapSettings:
    """The section as the model's value."""
    report, deadlines = written.get("hardware_report"), written.get("deadlines") or {}
    return BootstrapSettings(
        **{
            **written,
            "hardware_report": HardwareReport(**report) if report is not None else None,
            "deadlines": InstallDeadlines(**deadlines),
        }
    )
