"""The faults, each with the outcome that is promised."""

import shlex
import shutil
import time

from nixkube_deploy.model.failure import FailureKind as Kind
from tests.real.bed.prepare import PASSWORD, HostOptions
from tests.real.fault_case import CONVERGED, HALTED, LOCKED, REFUSED, TAKEN_BACK, TIMER, Case
from tests.real.fault_scene import VICTIM, Done, Scene, Setup

ALL = "n1 n2 n3"

# --- what is done while it runs --------------------------------------------------------------------------------------


def nothing(scene: Scene) -> None:
    """There is nothing to lift."""


def held(path: str, name: str, seconds: str = "1000") -> str:
    unit = f"systemd-run --quiet --collect --unit=somebody flock {path} sleep {seconds}"
    return f"mkdir -p /run/nixos; {unit}; echo {name} >/run/nixkube-deploy.holder"


SWITCH_LOCK = "/run/nixos/switch-to-configuration.lock"
OUR_LOCK = "/run/nixkube-deploy.lock"


def switch_locked_for(seconds: str):
    def act(scene: Scene) -> Done:
        scene.victim.run(held(SWITCH_LOCK, "nobody", seconds))
        return scene.apply()

    return act


def host_locked(scene: Scene) -> Done:
    scene.victim.run(held(OUR_LOCK, "20260101T000000Z-beef"))
    return scene.apply()


def unlock(scene: Scene) -> None:
    scene.victim.run("systemctl stop somebody; sleep 0.2")
    scene.breaks()


def cut_in_the_switch(seconds: float):
    def act(scene: Scene) -> Done:
        process = scene.start()
        scene.until_new_activates()
        scene.victim.cut()
        time.sleep(seconds)
        scene.victim.mend()
        return scene.finish(process)

    return act


def killed_when(moment):
    def act(scene: Scene) -> Done:
        process = scene.start()
        scene.until(lambda: moment(scene), "the moment to kill the controller")
        scene.kill(process)
        return scene.apply()

    return act


def at_the_start(scene: Scene) -> bool:
    return '"n2/activate"' in scene.journal


def in_the_middle(scene: Scene) -> bool:
    return "new" in scene.activations()


def at_the_end(scene: Scene) -> bool:
    return in_the_middle(scene) and scene.victim.current != scene.first


def before_confirm(scene: Scene) -> bool:
    return '"n2/gate"' in scene.journal


def alone_before_confirm(scene: Scene) -> Done:
    """The link is cut and the controller killed; the host goes back by itself, and only then is anybody there again."""
    process = scene.start()
    scene.until(lambda: at_the_end(scene), "the switch to be done")
    scene.victim.cut()
    scene.kill(process)
    scene.until(lambda: scene.victim.current == scene.first, "the dead-man timer")
    scene.until(lambda: not scene.state(scene.victim).units, "the end of going back", 20)
    assert scene.victim.generation == 1
    scene.victim.mend()
    return scene.apply()


def reinstalled(scene: Scene) -> Done:
    scene.victim.run(
        "cd /etc/ssh; mv ssh_host_ed25519_key old_key; ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key; "
        "kill -HUP $(cat /run/sshd.pid); sleep 0.3"
    )
    return scene.apply()


def old_key(scene: Scene) -> None:
    scene.victim.run("cd /etc/ssh; mv old_key ssh_host_ed25519_key; kill -HUP $(cat /run/sshd.pid); sleep 0.3")


def second_controller(scene: Scene) -> Done:
    process = scene.start()
    scene.until_new_activates()
    second = scene.apply()
    assert scene.finish(process).exit_code == CONVERGED
    return second


def slow(seconds: float, then: str = "") -> dict[str, str]:
    return {"before": f"sleep {seconds}; {then}"}


def failing_unit(scene: Scene) -> Done:
    scene.fleet.configure(VICTIM, services={"web.service": {"Type": "oneshot", "ExecStart": "/bin/false"}})
    return scene.apply()


def configured(scene: Scene, **settings: object) -> Done:
    scene.fleet.configure(VICTIM, **settings)
    return scene.apply()


def set_password(scene: Scene, password: str) -> None:
    scene.victim.run(f"echo {shlex.quote(f'deploy:{password}')} | chpasswd")


def wrong_password(scene: Scene) -> Done:
    set_password(scene, "another one")
    return scene.apply()


TRUSTS = "trusted-users = root deploy\n"
RULE = "/etc/sudoers.d/deploy"


BIG = 300 << 20


def big(scene: Scene) -> None:
    """A new system that takes a while to copy, and differs from the last one."""
    scene.fleet.configure(VICTIM, packages={"big": f"{time.monotonic():.3f}"}, sizes={"big": BIG})


CACHE = "/var/lib/cache"


def unsigned_cache(scene: Scene) -> Done:
    """n2 pulls from a cache that nobody signed. What is pushed to it is received by root, who needs no signature."""
    wanted = scene.wants()[VICTIM]
    attribute = f"path:{scene.fleet.flake}#nixosConfigurations.{VICTIM}.config.system.build.toplevel"
    scene.fleet.controller("nix", "build", "--no-link", attribute)
    scene.fleet.controller("nix", "copy", "--to", f"file://{scene.fleet.directory}/cache", wanted)
    shutil.copytree(scene.fleet.directory / "cache", scene.victim.disk / CACHE.lstrip("/"))
    return scene.apply()


def trust_the_cache(scene: Scene) -> None:
    scene.victim.run("echo 'require-sigs = false' >>/etc/nix/nix.conf")


def cut_in_the_copy(mended_after: float | None):
    def act(scene: Scene) -> Done:
        big(scene)
        used = "df -k --output=used /nix | tail -1"
        before = int(scene.victim.run(used))
        process = scene.start()
        scene.until(lambda: int(scene.victim.run(used)) > before + (BIG >> 13), "an eighth of the copy")
        scene.victim.cut()
        if mended_after is not None:
            time.sleep(mended_after)
            scene.victim.mend()
        return scene.finish(process)

    return act


def unplugged(scene: Scene) -> Done:
    scene.victim.cut()
    return scene.apply("--skip-unreachable")


def mend_link(scene: Scene) -> None:
    scene.victim.mend()


def filled(scene: Scene) -> Done:
    """Nothing fits any more before it begins."""
    big(scene)
    scene.victim.run("head -c $(( ($(df -k --output=avail /nix | tail -1) - 65536) * 1024 )) /dev/zero >/nix/filler")
    return scene.apply()


def filled_meanwhile(scene: Scene) -> Done:
    """Somebody else takes the rest of the disk while the copy is under way."""
    big(scene)
    used = "df -k --output=used /nix | tail -1"
    before = int(scene.victim.run(used))
    process = scene.start()
    scene.until(lambda: int(scene.victim.run(used)) > before + (BIG >> 13), "an eighth of the copy")
    scene.victim.run("cat /dev/zero >/nix/filler", check=False)
    return scene.finish(process)


def emptied(scene: Scene) -> None:
    scene.victim.run("rm -f /nix/filler; nix-store --gc >/dev/null 2>&1")


ONCE = "[ ! -e /var/lib/once ] || exit 0; touch /var/lib/once;"

CASES = (
    # The switch ends badly.
    Case(
        name="switch ends with 2",
        breaks={"exit": 2},
        exit_code=TAKEN_BACK,
        failed="n2/activate",
        kind=Kind.ACTIVATION,
        says=("the activation script failed", "Activation script snippet", "took it back to", "journalctl -u"),
        new="n1",
        old="n2",
        activated="new old",
    ),
    Case(
        name="switch ends with 2, on_failure: halt",
        breaks={"exit": 2},
        exit_code=HALTED,
        failed="n2/activate",
        kind=Kind.ACTIVATION,
        says=("the activation script failed", "left the host's own timer armed"),
        new="n1 n2",
        left=TIMER,
        setup=Setup(on_failure="halt"),
    ),
    Case(
        name="a pre-switch check fails: 1",
        breaks={"check": 1},
        exit_code=TAKEN_BACK,
        failed="n2/activate",
        kind=Kind.ACTIVATION,
        says=("a pre-switch check or the boot loader failed", "Pre-switch checks failed"),
        new="n1",
        old="n2",
        activated="old",
        slow=True,
    ),
    Case(
        name="the boot loader fails: 1",
        breaks={"loader": 1},
        exit_code=TAKEN_BACK,
        failed="n2/activate",
        kind=Kind.ACTIVATION,
        says=("a pre-switch check or the boot loader failed", "Failed to install bootloader"),
        new="n1",
        old="n2",
        activated="old",
        slow=True,
    ),
    Case(
        name="a harmless unit fails: 4",
        breaks={"exit": 4},
        exit_code=CONVERGED,
        says=("n2/activate  succeeded",),
        new=ALL,
        slow=True,
    ),
    # Units that fail, and changes that need a boot.
    Case(
        name="a unit of the new system fails: 4",
        breaks={"run": "touch /run/nothing"},
        exit_code=CONVERGED,
        act=failing_unit,
        says=("web.service failed to start",),
        new=ALL,
        lift=lambda scene: scene.fleet.configure(VICTIM, services=None),
    ),
    Case(
        name="its init changed: 100",
        act=lambda scene: configured(scene, initInterface="systemd 3"),
        exit_code=CONVERGED,
        says=("init interface: systemd 2 -> systemd 3", "n2/reboot  succeeded"),
        new=ALL,
        rebooted="n2",
        activated="",
        lift=nothing,
    ),
    Case(
        name="a switch inhibitor differs: boot and reboot",
        act=lambda scene: configured(scene, inhibitors="dbus : broker"),
        exit_code=CONVERGED,
        new=ALL,
        rebooted="n2",
        activated="",
        lift=nothing,
        slow=True,
    ),
    Case(
        name="the host reboots in the middle of the switch",
        breaks=slow(0, f"{ONCE} systemctl reboot; sleep 30"),
        exit_code=CONVERGED,
        says=("the host rebooted meanwhile; it runs the new system",),
        new=ALL,
        rebooted="n2",
        lift=nothing,
    ),
    # Locks.
    Case(
        name="somebody switches for a while: waited for",
        act=switch_locked_for("4"),
        exit_code=CONVERGED,
        new=ALL,
        lift=nothing,
    ),
    Case(
        name="somebody switches for ever",
        act=switch_locked_for("1000"),
        exit_code=LOCKED,
        failed="n2/activate",
        kind=Kind.LOCKED,
        says=("another switch-to-configuration holds the lock", "waited", "grep switch-to-configuration"),
        new="n1",
        old="n2",
        activated="",
        lift=unlock,
        setup=Setup(activation_timeout="4s"),
        slow=True,
    ),
    Case(
        name="another controller works on the host",
        act=host_locked,
        exit_code=LOCKED,
        failed="n2/activate",
        kind=Kind.LOCKED,
        says=("being changed by run 20260101T000000Z-beef", "deploy show 20260101T000000Z-beef"),
        new="n1",
        lift=unlock,
    ),
    Case(
        name="another controller works on the inventory",
        act=second_controller,
        breaks=slow(3),
        exit_code=LOCKED,
        says=("is being worked on by", "kill -INT"),
        new=ALL,
        lift=nothing,
    ),
    # The link.
    Case(
        name="the link is cut in the middle of the switch, and mended in time",
        act=cut_in_the_switch(7),
        breaks=slow(2),
        exit_code=CONVERGED,
        new=ALL,
        lift=nothing,
    ),
    Case(
        name="the link is cut in the middle of the switch, and mended when the host has gone back",
        act=cut_in_the_switch(18),
        breaks=slow(1),
        exit_code=TAKEN_BACK,
        failed="n2/activate",
        kind=Kind.FELL_BACK,
        says=("went back to its old system by itself", "the timer has fired", "did not switch it again"),
        new="n1",
        old="n2",
        activated="new old old",
        setup=Setup(activation_timeout="5s", confirm_timeout="5s", gate="3s"),
        slow=True,
    ),
    Case(
        name="the switch restarts sshd and ends every session",
        breaks=slow(0, "systemctl restart ssh; pkill -KILL -f 'sshd: root'; sleep 0.5"),
        exit_code=CONVERGED,
        new=ALL,
        lift=nothing,
    ),
    # The controller is killed.
    Case(
        name="killed before the unit starts", act=killed_when(at_the_start), exit_code=CONVERGED, new=ALL, lift=nothing
    ),
    Case(
        name="killed while the unit runs",
        act=killed_when(in_the_middle),
        breaks=slow(3),
        exit_code=CONVERGED,
        says=("was cut off",),
        new=ALL,
        lift=nothing,
        slow=True,
    ),
    Case(
        name="killed after the unit",
        act=killed_when(at_the_end),
        breaks={"run": "sleep 1"},
        exit_code=CONVERGED,
        says=("was cut off",),
        new=ALL,
        lift=nothing,
        slow=True,
    ),
    Case(
        name="killed before it confirms",
        act=killed_when(before_confirm),
        exit_code=CONVERGED,
        says=("was cut off",),
        new=ALL,
        lift=nothing,
        slow=True,
    ),
    Case(
        name="killed before it confirms, and the link cut: the host goes back by itself",
        act=alone_before_confirm,
        exit_code=CONVERGED,
        says=("was cut off",),
        new=ALL,
        activated="new old new",
        lift=nothing,
        setup=Setup(activation_timeout="3s", confirm_timeout="4s", gate="3s"),
    ),
    # Who is who.
    Case(
        name="another host key than before",
        act=reinstalled,
        exit_code=REFUSED,
        failed="n2",
        kind=Kind.HOST_KEY,
        says=("another host key than before", "SHA256:", "known_hosts says", "ssh-keygen -R '10.77.0.2'"),
        lift=old_key,
        setup=Setup(tier=1),
    ),
    Case(
        name="the wrong sudo password",
        act=wrong_password,
        exit_code=REFUSED,
        failed="n2",
        kind=Kind.PRIVILEGE,
        says=("the password in `privilege_password` is wrong", "sudo -k true"),
        lift=lambda scene: set_password(scene, PASSWORD),
        setup=Setup(deploys=True, victim=HostOptions(nix_conf=TRUSTS)),
    ),
    Case(
        name="a user who may not become root",
        exit_code=REFUSED,
        failed="n2",
        kind=Kind.PRIVILEGE,
        says=("deploy is not allowed to become root", "wheel"),
        lift=lambda scene: scene.victim.run(f"echo 'deploy ALL=(ALL:ALL) NOPASSWD: ALL' >{RULE}; chmod 440 {RULE}"),
        setup=Setup(deploys=True, victim=HostOptions(sudo="no", nix_conf=TRUSTS)),
        slow=True,
    ),
    Case(
        name="an unsigned path to a host that wants signatures",
        act=unsigned_cache,
        exit_code=HALTED,
        failed="n2/copy",
        kind=Kind.COPY,
        says=("signed by no key it trusts", "nix store sign", "nix.settings.trusted-public-keys on n2"),
        lift=trust_the_cache,
        setup=Setup(victim_settings={"copy": {"via": "cache", "cache": f"file://{CACHE}"}}),
    ),
    # The copy.
    Case(
        name="the link is cut in the middle of the copy, and mended",
        act=cut_in_the_copy(8),
        exit_code=CONVERGED,
        new=ALL,
        lift=nothing,
        setup=Setup(tier=1),
        slow=True,
    ),
    Case(
        name="the link is cut in the middle of the copy for good",
        act=cut_in_the_copy(None),
        exit_code=HALTED,
        failed="n2/copy",
        kind=Kind.UNREACHABLE,
        says=("n2", "nothing: the host still is what it was"),
        lift=mend_link,
        setup=Setup(tier=1),
        slow=True,
    ),
    Case(
        name="the store is full before the copy",
        act=filled,
        exit_code=HALTED,
        failed="n2/copy",
        kind=Kind.DISK_FULL,
        says=("MiB", "nothing: the host still is what it was"),
        lift=emptied,
        setup=Setup(tier=1),
    ),
    Case(
        name="the store fills during the copy",
        act=filled_meanwhile,
        exit_code=HALTED,
        failed="n2/copy",
        kind=Kind.DISK_FULL,
        says=("No space left on device", "nix-collect-garbage"),
        lift=emptied,
        setup=Setup(tier=1, victim=HostOptions(store="700m")),
        slow=True,
    ),
    Case(
        name="one of ten never answers",
        act=unplugged,
        exit_code=HALTED,
        failed="n2",
        kind=Kind.UNREACHABLE,
        says=("no answer within 2 s", "ssh root@10.77.0.2 true"),
        new="n1 n3 n4 n5 n6 n7 n8 n9 n10",
        lift=mend_link,
        setup=Setup(tier=1, hosts=10, limit=5),
        slow=True,
    ),
)
