"""A password that a run uses is found nowhere: in no process's argv or environment, no file, no journal, no traceback.

The hosts' user becomes root by sudo with a password of its own, the canary. While the product runs, every process of
the machine is looked at (the hosts' are among them); afterwards everything is searched that was written anywhere.
"""

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import pytest

from tests.real.bed.fleet import RealFleet, real_fleet
from tests.real.bed.host import RealHost
from tests.real.bed.needs import require
from tests.real.watcher import ProcessWatcher, holding

CANARY = f"canary-{secrets.token_hex(6)}"
"""Of this process alone: every process of the machine is looked at, also those of another run of these tests."""
OTHER = "not-the-canary-at-all"
FORMS = ("env", "file", "command")
RUNS = 6
_SERIAL = count(1)

BUG = """\
import sys
from nixkube_deploy.backends.ssh.session import Session
from nixkube_deploy.cli import main

result = Session.result

def broken(self, request):
    if "-S" in request.argv:
        raise RuntimeError(f"a bug at {request!r} of {self!r} with {vars(self)!r}")
    return result(self, request)

Session.result = broken
main()
"""
"""The product with a bug that shows itself while the password is in use, and tells everything it knows."""


def set_password(host: RealHost, password: str) -> None:
    """The hash is made here and written as a file, so that no command has the password."""
    made = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=password, capture_output=True, text=True, check=True
    )
    shadow = host.file("/etc/shadow")
    lines = [line for line in shadow.read_text().splitlines() if not line.startswith("deploy:")]
    shadow.write_text("\n".join((*lines, f"deploy:{made.stdout.strip()}:19000:0:99999:7:::")) + "\n")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Iterator[RealFleet]:
    require(2, sudo=True)
    with real_fleet(tmp_path_factory.mktemp("bed"), tier=2, hosts=2) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def passwords(fleet):
    for host in fleet.hosts.values():
        set_password(host, CANARY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the product, and everywhere the canary was."""

    exit_code: int
    stdout: str
    stderr: str
    log: str
    found: tuple[str, ...]
    argvs: frozenset[str]
    """Every command line that was seen meanwhile."""
    rounds: int


def run(fleet: RealFleet, form: str, *options: str, program: Sequence[str] = ("-m", "nixkube_deploy")) -> Run:
    """``deploy apply`` with events and a log; the password by reference."""
    folder = fleet.directory / f"run-{next(_SERIAL)}"
    (folder / "tmp").mkdir(parents=True)
    kept = fleet.directory / "kept"  # Where the secret lives; the one place that is not searched.
    kept.write_text(CANARY + "\n")
    references = {
        "env": {"env": "SUDO_CANARY"},
        "file": {"file": str(kept)},
        "command": {"command": ["cat", str(kept)]},
    }
    inventory = fleet.inventory(
        user="deploy", defaults={"privilege_password": None}, gates={"kubelet": {"ready_for": "0s"}}
    )
    written = json.loads(inventory.read_text())
    written["defaults"]["privilege_password"] = references[form]
    inventory.write_text(json.dumps(written))
    env = {"TMPDIR": str(folder / "tmp")} | ({"SUDO_CANARY": CANARY} if form == "env" else {})
    log, events = folder / "log", folder / "events"
    argv = fleet.argv(sys.executable, *program, "apply", inventory, "--yes", "--events", events, "--log", log, *options)
    started = subprocess.Popen(
        argv,
        env={**fleet.environment, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with ProcessWatcher(CANARY, folders=(folder / "tmp",), source=started.pid) as watcher:
        stdout, stderr = started.communicate(timeout=170)
    (folder / "stdout").write_text(stdout)
    (folder / "stderr").write_text(stderr)
    here = holding((folder, fleet.directory / "controller" / "state"), CANARY)
    there = [place for host in fleet.hosts.values() for place in on(host)]
    return Run(
        exit_code=started.returncode,
        stdout=stdout,
        stderr=stderr,
        log=log.read_text(),
        found=(*watcher.found, *map(str, here), *there),
        argvs=frozenset(watcher.seen),
        rounds=watcher.rounds,
    )


def on(host: RealHost) -> list[str]:
    """Where on a host the canary is: its files, and its journal, which is compressed."""
    folders = tuple(host.file(folder) for folder in ("/etc", "/var/log", "/var/lib", "/run", "/tmp", "/home", "/root"))
    found = [f"{host.name}: {path}" for path in holding(folders, CANARY)]
    journal = host.run("journalctl --all --no-pager -o export")
    assert "sudo" in journal
    return found + [f"{host.name}: journal: {line}" for line in journal.splitlines() if CANARY in line]


def change(fleet: RealFleet) -> None:
    """Something to do."""
    fleet.configure(files={"motd": f"change {next(_SERIAL)}\n"}, activation={"exit": 0, "run": ""})
    fleet.configure("n2", activation={"exit": 0, "run": ""})


def saw_the_password_used(run: Run) -> bool:
    """The watcher was quick enough to see the very processes that were given the password."""
    return any(words.startswith("sudo -k -S ") for words in run.argvs)


@pytest.mark.parametrize("form", FORMS)
def test_a_run_that_goes_well_shows_its_password_nowhere(fleet, form):
    change(fleet)
    done = run(fleet, form)
    assert done.exit_code == 0, done.stderr
    assert "2 hosts: 2 done." in done.stderr + done.stdout
    assert saw_the_password_used(done)
    assert done.rounds > 20
    assert done.found == ()


def test_a_wrong_password_is_said_to_be_wrong_and_not_shown(fleet):
    change(fleet)
    for host in fleet.hosts.values():
        set_password(host, OTHER)
    done = run(fleet, "file")
    assert done.exit_code == 3
    assert "the password in `privilege_password` is wrong" in done.stderr
    assert saw_the_password_used(done)
    assert done.found == ()


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_host_that_fails_half_way_prints_its_evidence_without_the_password(fleet, options):
    change(fleet)
    fleet.configure("n2", activation={"exit": 2, "run": "echo evidence of a failure >&2"})
    done = run(fleet, "command", *options)
    assert done.exit_code in {4, 5}, done.stderr
    assert "evidence of a failure" in done.stdout + done.stderr
    assert saw_the_password_used(done)
    assert done.found == ()


def test_a_bug_that_tells_everything_it_knows_does_not_know_the_password(fleet):
    change(fleet)
    program = fleet.directory / "bug.py"
    program.write_text(BUG)
    # It ends so soon that the watcher may blink: every run must show nothing, and one must have been seen through.
    seen = False
    for _ in range(RUNS):
        done = run(fleet, "env", program=(str(program),))
        assert done.exit_code == 1
        assert "Traceback" in done.stderr
        assert "a bug at Request(" in done.stderr
        assert done.found == ()
        seen = seen or saw_the_password_used(done)
        if seen:
            break
    assert seen


def test_the_search_would_find_it(fleet):
    """Every place once, with the canary planted there."""
    planted = fleet.directory / "planted"
    planted.mkdir(exist_ok=True)
    (planted / "file").write_text(f"a line\n{CANARY} and more\n")
    assert holding((planted,), CANARY) == [planted / "file"]
    host = fleet.hosts["n1"]
    host.run(f"echo 'sudo {CANARY}' >/var/lib/planted; echo {CANARY} | systemd-cat; journalctl --sync")
    places = on(host)
    host.run("rm /var/lib/planted; journalctl --rotate; journalctl --vacuum-time=1s; rm -rf /var/log/journal/*/*@*")
    assert any(place.endswith("/var/lib/planted") for place in places)
    assert any("journal" in place for place in places)
    with ProcessWatcher(CANARY) as watcher:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)", CANARY], check=True)
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)"], env={"X": CANARY}, check=True)
        host.run(f"sleep 0.3 # {CANARY}")
    assert {place.split()[0] for place in watcher.found} == {"argv", "environment"}
