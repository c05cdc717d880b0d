"""What systemd finds on a host of tier 2: only sshd is wanted; whatever the machine has installed is left asleep.

The units a system of the flake brings are not here: that system installs them itself.
"""

from pathlib import Path

MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "kmod-static-nodes.service",
    "ldconfig.service",
    "man-db.timer",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-machine-id-commit.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-pcrphase.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-sysusers.service",
    "systemd-timesyncd.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-udev-settle.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
    "systemd-update-done.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
)
WANTED = ("ssh.service",)
_UNITS = Path("/lib/systemd/system")
_GENERATORS = ("lib/systemd/system-generators", "etc/systemd/system-generators")
_PAM_SSHD = """\
account required pam_nologin.so
@include common-account
session required pam_loginuid.so
@include common-session
"""
_CONF = "[Manager]\nDefaultTimeoutStartSec=20s\nDefaultTimeoutStopSec=10s\n"


_DAEMON = "[Service]\nExecStart=/usr/bin/nix-daemon\nKillMode=process\n"


def write_units(folder: Path, *, daemon: bool) -> None:
    """All of /etc/systemd/system."""
    wants = folder / "multi-user.target.wants"
    wants.mkdir(parents=True)
    (folder / "default.target").symlink_to(_UNITS / "multi-user.target")
    for unit in WANTED:
        (wants / unit).symlink_to(_UNITS / unit)
    (folder / "nix-daemon.service").write_text(_DAEMON)
    if daemon:
        (wants / "nix-daemon.service").symlink_to("../nix-daemon.service")
    for unit in MASKED:
        (folder / unit).symlink_to("/dev/null")


def write_etc(etc: Path, base: Path) -> None:
    """The rest of /etc that systemd and logins look at."""
    generators = etc / "systemd" / "system-generators"
    generators.mkdir(parents=True)
    for name in {path.name for place in _GENERATORS if (base / place).is_dir() for path in (base / place).iterdir()}:
        (generators / name).symlink_to("/dev/null")
    (etc / "systemd" / "system.conf.d").mkdir()
    (etc / "systemd" / "system.conf.d" / "bed.conf").write_text(_CONF)
    (etc / "fstab").write_text("")
    (etc / "pam.d").mkdir()
    (etc / "pam.d" / "sshd").write_text(_PAM_SSHD)
