"""The language of faults, and how often they strike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixkube_deploy.lab.faults import KINDS, FaultError, FaultPlan, faults_from_plain, parse_fault

HOSTS = frozenset({"cp1", "w1", "w2"})


@pytest.mark.parametrize(
    ("spec", "host", "kind", "argument", "remaining"),
    [
        ("w1:unreachable", "w1", "unreachable", "refused", None),
        ("w1:unreachable=silent*3", "w1", "unreachable", "silent", 3),
        ("w1:switch=4*1", "w1", "switch", "4", 1),
        ("w1:disconnect-during=a b*c=d*2", "w1", "disconnect-during", "a b*c=d", 2),
        ("w1:slow=1.5s", "w1", "slow", "1.5s", None),
        ("fleet:api-down=5s", "fleet", "api-down", "5s", None),
        ("w1:api-down", "fleet", "api-down", "5", None),
        ("fleet:build-fails=w2", "w2", "build-fails", "", None),
        (" w2:unit-fails=k3s.service ", "w2", "unit-fails", "k3s.service", None),
    ],
)
def test_a_spec_says_host_kind_argument_and_times(spec, host, kind, argument, remaining):
    fault = parse_fault(spec, HOSTS)
    assert (fault.host, fault.kind, fault.argument, fault.remaining) == (host, kind, argument, remaining)


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("w1", "'w1' is not a fault", "HOST:KIND"),
        ("w1:swich=4", "there is no fault 'swich'", "did you mean switch?"),
        ("w11:switch=4", "there is no host 'w11'", "did you mean w1?"),
        ("w1:switch", "switch needs an argument", "for example"),
        ("w1:switch=5", "switch cannot be '5'", "one of 1, 2, 4, 100, inhibitor"),
        ("w1:lock-held=x", "lock-held takes no argument", "w1:lock-held"),
        ("w1:slow=soon", "'soon' is not a duration", "5s"),
        ("w1:rollback-fails=x", "needs an exit code", ""),
        ("fleet:switch=4", "switch belongs to one host", "HOST:switch"),
    ],
)
def test_a_wrong_spec_is_refused_with_advice(spec, message, hint):
    with pytest.raises(FaultError, match=r".") as caught:
        parse_fault(spec, HOSTS)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_there_are_more_kinds_than_the_charter_asks_for():
    wanted = (
        "unreachable slow disconnect-during wrong-host-key disk-full build-fails eval-fails switch unit-fails hang "
        "reboot-never-returns reboot-old-kernel kubelet-never-ready ready-flaps lease-stale pdb-blocks api-down "
        "etcd-member-down lock-held host-lock-held auth-refused sudo-password-wrong copy-fails copy-unsigned "
        "activation-slow"
    )
    assert set(wanted.split()) <= set(KINDS)
    assert all(kind.summary for kind in KINDS.values())


def test_a_counted_fault_strikes_so_many_times():
    plan = FaultPlan([parse_fault("w1:copy-fails*2", HOSTS)])
    assert [plan.take("w1", "copy-fails") is not None for _ in range(4)] == [True, True, False, False]
    assert plan.take("w2", "copy-fails") is None


def test_a_fault_without_times_strikes_until_it_is_cleared():
    plan = FaultPlan([parse_fault("w1:copy-fails", HOSTS), parse_fault("w2:copy-fails", HOSTS)])
    assert all(plan.take("w1", "copy-fails") for _ in range(100))
    assert [str(fault) for fault in plan.clear("w1")] == ["w1:copy-fails"]
    assert plan.take("w1", "copy-fails") is None
    assert plan.take("w2", "copy-fails") is not None


def test_looking_uses_nothing_up():
    plan = FaultPlan([parse_fault("w1:copy-fails*1", HOSTS)])
    assert plan.peek("w1", "copy-fails")
    assert plan.take("w1", "copy-fails")
    assert plan.peek("w1", "copy-fails") is None


def test_a_fault_of_the_new_system_does_not_hit_the_spared_one():
    fault = parse_fault("w1:switch=4", HOSTS)
    fault.spared = "/nix/store/old"
    plan = FaultPlan([fault])
    assert plan.take("w1", "switch", system="/nix/store/old") is None
    assert plan.take("w1", "switch", system="/nix/store/new") is fault


@given(st.text(max_size=40))
def test_any_text_is_a_fault_or_is_refused(text):
    try:
        fault = parse_fault(text, HOSTS)
    except FaultError:
        return
    assert fault.kind in KINDS


@given(st.sampled_from(sorted(KINDS)), st.integers(1, 9))
def test_faults_survive_their_plain_form(kind, times):
    argument = {"seconds": "2s", "code": "3"}.get(KINDS[kind].argument, KINDS[kind].argument.split("|")[0])
    spec = f"w1:{kind}" + (f"={argument}" if argument else "") + f"*{times}"
    plan = FaultPlan([parse_fault(spec, HOSTS)])
    assert faults_from_plain(plan.to_plain()) == plan
    assert str(plan.faults[0]) == spec or KINDS[kind].fleet
