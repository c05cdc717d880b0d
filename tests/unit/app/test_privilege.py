"""Whether we become root is known before the first host is touched, and asked of nobody who need not be asked."""

from dataclasses import replace

from nixkube_deploy.app.privilege import with_rights
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.plan.prepared import Prepared
from tests.builders import a_flake, a_fleet, closures_for, facts_for
from tests.fakes.shell import FakeShell
from tests.unit.app.worlds import a_world

FLEET = a_fleet("w1..w3")
A_FAILURE = Failure(kind=FailureKind.BUILD, message="")


def prepared(changed: str = "w1 w2 w3", uid: int | None = 1000) -> Prepared:
    facts = {name: replace(facts, uid=uid) for name, facts in facts_for(FLEET).items()}
    return Prepared(facts=facts, closures=closures_for(FLEET, changed=changed), flake=a_flake())


async def test_a_host_on_which_we_do_not_become_root_has_a_problem_before_anything_is_planned():
    shell = FakeShell().answers("id", stdout="0\n").answers("id", host="w2", stdout="1000\n")
    found = await with_rights(a_world(FLEET, shell), prepared())
    assert set(found.problems) == {"w2"}
    assert found.problems[HostName("w2")].kind is FailureKind.PRIVILEGE
    assert {ran.command.privileged for ran in shell.ran} == {True}


async def test_who_logs_in_as_root_or_has_nothing_to_change_is_not_asked():
    shell = FakeShell().answers("id", stdout="0\n")
    assert not (await with_rights(a_world(FLEET, shell), prepared(uid=0))).problems
    assert not shell.ran
    await with_rights(a_world(FLEET, shell), prepared(changed="w3"))
    assert [ran.host for ran in shell.ran] == ["w3"]


async def test_a_host_that_was_only_on_trial_is_asked_for_its_profile_is_to_change():
    shell, given = FakeShell().answers("id", stdout="1000\n"), prepared(changed="")
    runs = given.closures[HostName("w1")].out
    trial = replace(given.facts[HostName("w1")], tested=runs, profile=StorePath(f"/nix/store/{'a' * 32}-old"))
    found = await with_rights(a_world(FLEET, shell), replace(given, facts={**given.facts, HostName("w1"): trial}))
    assert set(found.problems) == {"w1"}


async def test_a_host_that_a_dead_run_left_its_timer_on_is_asked():
    shell, given = FakeShell().answers("id", stdout="1000\n"), prepared(changed="")
    left = replace(given.facts[HostName("w2")], activations=("nixkube-deploy-deadman-r1-1.timer",))
    found = await with_rights(a_world(FLEET, shell), replace(given, facts={**given.facts, HostName("w2"): left}))
    assert set(found.problems) == {"w2"}


async def test_an_earlier_problem_is_the_one_that_is_told():
    earlier = prepared().problems | {HostName("w2"): replace(A_FAILURE, message="does not build")}
    shell = FakeShell().answers("id", stdout="1000\n")
    found = await with_rights(a_world(FLEET, shell), replace(prepared(), problems=earlier))
    assert found.problems[HostName("w2")].message == "does not build"
    assert set(found.problems) == {"w1", "w2", "w3"}
