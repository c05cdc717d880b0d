"""Copies between real stores over real sshd: what travels, what it costs, and how each thing that breaks is told.

Paths without a machine's help (caches, both ways compared) are in ``tests/contract/test_nix_copy.py``.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.real.bed import needs
from tests.real.bed.fleet import HostOptions, RealFleet, real_fleet

pytestmark = pytest.mark.timeout(120)

DRIVER = Path(__file__).with_name("copying.py")
EXPRESSION = """
let
  make = name: script: derivation {
    inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "PATH=/usr/bin:/bin; ${script}" ];
  };
  fill = name: size: make name "mkdir $out; head -c ${toString size} /dev/zero > $out/data";
  parts = builtins.genList (i: make "part-${toString i}" "echo ${toString i} > $out") 9;
  base = make "base" "echo ${toString parts} > $out";
in {
  one = make "system-one" "echo ${base} > $out";
  two = make "system-two" "echo ${base} ${make "unit" "echo two > $out"} > $out";
  three = make "system-three" "echo ${base} ${make "other" "echo three > $out"} > $out";
  old = fill "system-old" 25000000;
  new = fill "system-new" 32000000;
  huge = fill "system-huge" 80000000;
  long = fill "system-long" 300000000;
}
"""
NAMES = ("one", "two", "three", "old", "new", "huge", "long")
DAY = 86400


@dataclass
class Copies:
    """A bed, and what there is to copy."""

    fleet: RealFleet
    paths: dict[str, str]

    def argv(self, name: str, inventory: Path, attempts: int) -> list[str]:
        return ["python", str(DRIVER), str(inventory), self.paths[name], str(attempts)]

    def copy(self, name: str, host: str, *, attempts: int = 1, user: str = "root", **defaults: Any) -> dict[str, Any]:
        inventory = self.fleet.inventory(hosts=[host], user=user, defaults=defaults)
        done = self.fleet.controller(*self.argv(name, inventory, attempts))
        return json.loads(done.stdout)[host]

    def fails(self, name: str, host: str, **options: Any) -> dict[str, Any]:
        (failure,) = self.copy(name, host, **options)["failures"]
        return failure


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copies]:
    needs.require(1, sudo=True)
    small = {
        "n1": HostOptions(store="64m", sudo="password"),
        "n2": HostOptions(store="64m", sudo="free"),
        "n3": HostOptions(store="1g", sudo="password"),
    }
    with real_fleet(tmp_path_factory.mktemp("bed"), hosts=3, per_host=small) as fleet:
        (fleet.directory / "x.nix").write_text(EXPRESSION)
        asked = [word for name in NAMES for word in ("-A", name)]
        built = fleet.controller("nix-build", "x.nix", *asked, "--no-out-link").stdout.split()
        yield Copies(fleet, dict(zip(NAMES, built, strict=True)))


@pytest.fixture(autouse=True)
def emptied(copies: Copies) -> None:
    """Each test begins with hosts that hold what they booted with, and one generation."""
    for host in copies.fleet.hosts.values():
        host.run("nix-env -p /nix/var/nix/profiles/system --switch-generation 1; nix-collect-garbage -d 2>&1")


def test_only_missing_paths_travel_over_the_one_login(copies):
    host = copies.fleet.hosts["n1"]
    before, logins = len(host.run("ls /nix/store").split()), host.sshd_connections
    first = copies.copy("one", "n1")
    assert first["changed"]
    assert len(host.run("ls /nix/store").split()) == before + 11
    assert first["lines"][-1].startswith("copied 11 paths")
    second = copies.copy("two", "n1")
    assert second["lines"][-1].startswith("copied 2 paths")
    assert host.has(copies.paths["two"])
    assert (first["trips"], second["trips"]) == (2, 2)
    assert host.sshd_connections == logins + 2  # One a run.


def test_a_staged_host_costs_one_round_trip(copies):
    copies.copy("one", "n1")
    again = copies.copy("one", "n1")
    assert (again["changed"], again["trips"], again["lines"]) == (False, 1, [])


def test_what_does_not_fit_is_refused_with_both_numbers_before_a_byte_travels(copies):
    failure = copies.fails("huge", "n1")
    assert failure["kind"] == "disk-full"
    assert "needs 76 MiB, and " in failure["message"]
    assert " MiB are free" in failure["message"]
    assert failure["did"] == "nothing was copied"
    assert "system-huge" not in copies.fleet.on("n1", "ls /nix/store")


def test_garbage_older_than_the_inventory_says_makes_room(copies):
    host = copies.fleet.hosts["n1"]
    assert copies.copy("old", "n1")["changed"]
    profile = "/nix/var/nix/profiles/system"
    booted = host.booted
    host.run(f"nix-env -p {profile} --set {copies.paths['old']} && nix-env -p {profile} --set {booted}")
    old, current = sorted(host.generations)[-2:]
    assert copies.fails("new", "n1", copy={"collect_garbage": "20d"})["kind"] == "disk-full"
    host.run(f"touch -h -d '30 days ago' {profile}-{old}-link {profile}-{current}-link {profile}-1-link")
    made = copies.copy("new", "n1", copy={"collect_garbage": "20d"})
    assert made["changed"], made
    assert any("deleted 1 generations older than 20 days" in line and "MiB freed" in line for line in made["lines"])
    assert host.has(copies.paths["new"])
    assert set(host.generations) == {1, current}  # The booted system's is as old, and stays.
    assert host.has(booted)


@pytest.mark.parametrize("host", ["n1", "n2"], ids=["sudo with a password", "sudo without one"])
def test_a_user_with_sudo_needs_no_trust_and_no_daemon(copies, host):
    before = copies.fleet.hosts[host].sshd_connections
    assert copies.copy("one", host, user="deploy")["changed"]
    assert copies.fleet.hosts[host].has(copies.paths["one"])
    assert copies.fleet.hosts[host].sshd_connections == before + 1


def test_a_user_who_may_not_write_to_the_store_is_told_so(copies):
    failure = copies.fails("one", "n1", user="deploy", privilege="none", privilege_password=None)
    assert (failure["kind"], failure["transient"]) == ("privilege", False), failure
    assert "trusted-users" in failure["next"]


def test_a_host_that_trusts_nobody_refuses_what_nobody_signed_and_takes_what_its_key_signed(copies):
    fleet, host = copies.fleet, copies.fleet.hosts["n2"]
    fleet.controller("nix-store", "--generate-binary-cache-key", "bed-1", "secret", "public")
    public = (fleet.directory / "public").read_text().strip()
    host.run(f"printf 'trusted-public-keys = {public}\\n' >>/etc/nix/nix.conf")
    host.run("setsid nix-daemon >/run/nix-daemon.log 2>&1 </dev/null & sleep 0.3")
    as_deploy: dict[str, Any] = {"user": "deploy", "privilege": "none", "privilege_password": None}
    failure = copies.fails("three", "n2", **as_deploy)
    assert (failure["kind"], failure["transient"]) == ("copy", False)
    assert "trusted-public-keys" in failure["next"]
    assert not host.has(copies.paths["three"])
    fleet.controller("nix", "store", "sign", "-r", "-k", "secret", copies.paths["three"])
    assert copies.copy("three", "n2", **as_deploy)["changed"]
    assert host.has(copies.paths["three"])


@pytest.mark.parametrize("user", ["root", "deploy"], ids=["through OpenSSH", "over the kept connection"])
def test_a_link_cut_in_the_middle_of_a_copy_is_transient_and_the_next_attempt_brings_it(copies, user):
    host = copies.fleet.hosts["n3"]
    inventory = copies.fleet.inventory(
        "cut",
        hosts=["n3"],
        user=user,
        defaults={"ssh": {"keepalive": "1s"}, "copy": {"stall": "2s", "substitute": False}},
    )
    driver = subprocess.Popen(
        copies.fleet.argv(*copies.argv("long", inventory, 8)),
        env=copies.fleet.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    half = host.file(copies.paths["long"]) / "data"
    end = time.monotonic() + 30
    while not (half.exists() and half.stat().st_size > 5_000_000):
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)
    host.cut()
    assert driver.stderr is not None
    assert "failed" in driver.stderr.readline()
    assert not host.has(copies.paths["long"])
    host.mend()
    told, errors = driver.communicate(timeout=60)
    result = json.loads(told)["n3"]
    assert result["changed"], (result, errors)
    assert result["failures"]
    assert {failure["transient"] for failure in result["failures"]} == {True}
    assert host.has(copies.paths["long"])


def test_a_host_pulls_from_a_cache_over_http(copies):
    fleet, host = copies.fleet, copies.fleet.hosts["n3"]
    fleet.controller("nix-store", "--generate-binary-cache-key", "cache-1", "cache-secret", "cache-public")
    fleet.controller(
        "nix",
        "copy",
        "--to",
        f"file://{fleet.directory}/cache?secret-key={fleet.directory}/cache-secret",
        copies.paths["one"],
    )
    serve = ("python", "-m", "http.server", "--bind", "10.77.0.254", "--directory", fleet.directory / "cache", "8091")
    server = subprocess.Popen(
        fleet.argv(*serve), env=fleet.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    cache = {"via": "cache", "cache": "http://10.77.0.254:8091"}
    try:
        fleet.controller("sh", "-c", "until curl -sf http://10.77.0.254:8091/nix-cache-info; do sleep 0.05; done")
        assert "trusted-public-keys" in copies.fails("one", "n3", copy=cache)["next"]
        public = (fleet.directory / "cache-public").read_text().strip()
        host.run(f"printf 'trusted-public-keys = {public}\\n' >>/etc/nix/nix.conf")
        pulled = copies.copy("one", "n3", copy=cache)
        assert pulled["changed"]
        assert pulled["lines"][-1] == "copied 11 paths"
        assert "nix copy --to http://10.77.0.254:8091" in copies.fails("two", "n3", copy=cache)["next"]
    finally:
        server.kill()
        server.wait()
