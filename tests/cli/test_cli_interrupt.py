"""Being interrupted and being in the way: signals, a second controller, somebody else's lease, unfinished runs."""

import json
import signal
import threading
import time
from contextlib import contextmanager

import pytest

from tests.cli.fleets import CLUSTER
from tests.lab.rig import a_lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

ONE_AT_A_TIME = CLUSTER.replace("max_unavailable: 100%", "max_unavailable: 1").replace("canary: 0", "canary: 0")


@pytest.fixture
def rig(tmp_path):
    (tmp_path / "small.yaml").write_text(ONE_AT_A_TIME)
    with a_lab(tmp_path, tmp_path / "small.yaml") as rig:
        yield rig


def begin(rig, until, *arguments):
    """An apply that runs until a task has got as far as ``until``; the process, and its events so far."""
    process = rig.start("apply", rig.inventory, "--yes", "--events", "-", *arguments)
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if until(events[-1]):
            return process, events
    raise AssertionError(process.stderr.read())


def started(task):
    return lambda event: event["type"] == "task-started" and event["task"] == task


def the_rest(process, events):
    out, err = process.communicate(timeout=60)
    return [*events, *map(json.loads, out.splitlines())], err


def settled(events):
    return {event["task"]: event["verdict"] for event in events if event["type"] == "task-settled"}


def nobody_is_cordoned(rig):
    return not any(machine["node"]["unschedulable"] for machine in rig.machines().values())


def test_the_first_interrupt_finishes_the_host_at_hand_and_starts_no_other(rig):
    process, events = begin(rig, started("w1/drain"))
    process.send_signal(signal.SIGINT)
    events, err = the_rest(process, events)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "no new host is started: SIGINT received" in err
    verdicts = settled(events)
    assert verdicts["w1/uncordon"] == verdicts["w1/soak"] == "succeeded"
    assert "w2/cordon" not in verdicts
    assert events[-1]["outcome"] == "interrupted"
    assert nobody_is_cordoned(rig)

    runs = json.loads(rig.deploy("runs", "--json").stdout)
    assert runs[0]["outcome"] == "interrupted"
    resumed = rig.deploy("resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert f"taking up run {runs[0]['run']}" in resumed.stderr
    assert "w1/activate" not in resumed.stderr, "what is done is not repeated"
    assert json.loads(resumed.stdout)["totals"] == {"done": 3}
    assert len(json.loads(rig.deploy("runs", "--json").stdout)) == 1


@pytest.mark.parametrize("step", ["w1/drain", "w1/reboot", "w1/gate"])
def test_the_second_interrupt_stops_at_once_and_a_resume_converges(rig, step):
    process, events = begin(rig, started(step))
    process.send_signal(signal.SIGINT)
    wait_for(events, process, lambda event: event["type"] == "run-draining")
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    events, err = the_rest(process, events)
    assert time.monotonic() - asked < 5
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert step in [event["task"] for event in events if event["type"] == "task-interrupted"]
    assert "deploy resume" in err

    resumed = rig.deploy("resume")
    assert resumed.returncode == 0, resumed.stderr
    assert nobody_is_cordoned(rig)
    again = rig.deploy("apply", rig.inventory, "--yes", "--json")
    assert json.loads(again.stdout)["totals"] == {"unchanged": 3}


def wait_for(events, process, found):
    for line in process.stdout:
        events.append(json.loads(line))
        if found(events[-1]):
            return
    raise AssertionError(process.stderr.read())


def test_an_interrupt_before_anything_is_done_starts_nothing(rig):
    rig.lab("fault", "add", "w1:slow=3")
    process = rig.start("apply", rig.inventory, "--yes")
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "nothing was started" in err
    assert "Traceback" not in err
    assert rig.deploy("runs").stdout.strip() == "No runs yet."


def test_a_second_controller_and_a_narrower_one_are_turned_away_by_name(rig):
    process, _ = begin(rig, started("cp1/activate"))
    second = rig.deploy("apply", rig.inventory, "--yes")
    assert second.returncode == 6
    assert f"process {process.pid} on" in second.stderr
    assert rig.deploy("plan", rig.inventory).returncode == 0, "looking is always allowed"

    process.send_signal(signal.SIGKILL)
    process.communicate()
    run = json.loads(rig.deploy("runs", "--json").stdout)[0]["run"]
    narrow = rig.deploy("apply", rig.inventory, "--yes", "--on", "w1")
    assert narrow.returncode == 3
    assert f"run {run} was cut off, and it works on hosts that --on leaves out: cp1, w2" in narrow.stderr
    assert f"deploy resume {run}" in narrow.stderr

    anew = rig.deploy("apply", rig.inventory, "--yes", "--fresh", "--on", "w1")
    assert anew.returncode == 0, anew.stderr
    obsolete = rig.deploy("resume", run)
    assert obsolete.returncode == 2
    assert "no longer worth finishing" in obsolete.stderr
    assert "no run was cut off" in rig.deploy("resume").stderr
    assert rig.deploy("apply", rig.inventory, "--yes").returncode == 0
    assert nobody_is_cordoned(rig)


def test_a_saved_plan_that_was_cut_off_is_taken_up(rig):
    plan = rig.directory / "plan.json"
    assert rig.deploy("plan", rig.inventory, "-o", plan).returncode == 0
    process = rig.start("apply", plan, "--yes", "--events", "-")
    wait_for([], process, started("w1/activate"))
    process.kill()
    process.communicate()
    done = rig.deploy("apply", plan, "--yes")
    assert done.returncode == 0, done.stderr
    assert "taking up run" in done.stderr


def test_somebody_elses_lease_is_respected_and_named(rig):
    with somebody_at_work(rig, "eve@elsewhere:1"):
        done = rig.deploy("apply", rig.inventory, "--yes")
    assert done.returncode == 6, done.stderr
    assert "eve@elsewhere:1 has the lock of this cluster; watching" in done.stderr
    assert "error: eve@elsewhere:1 is at work on this cluster" in done.stderr
    assert rig.deploy("runs").stdout.strip() == "No runs yet."


@contextmanager
def somebody_at_work(rig, holder):
    """A lease that is renewed, as a controller elsewhere would."""
    leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
    name = {"name": "nixkube-deploy", "namespace": "kube-system"}
    ended = threading.Event()

    def renew():
        url, method = leases, "POST"
        while not ended.is_set():
            now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() // 1000 % 1_000_000:06}Z"
            spec = {"holderIdentity": holder, "leaseDurationSeconds": 30, "acquireTime": now, "renewTime": now}
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": name, "spec": spec}
            rig.kube(url, lease, method)
            url, method = f"{leases}/nixkube-deploy", "PUT"
            ended.wait(0.3)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
