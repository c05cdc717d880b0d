"""What facts say together."""

from dataclasses import replace

from tests.builders import a_fleet, facts_for, store_path


def test_a_machine_without_nixos_boots_no_other_system():
    facts = facts_for(a_fleet("w1"))["w1"]
    assert not replace(facts, current=None).boots_another
    assert not replace(facts, profile=None).boots_another
    assert not facts.boots_another
    assert replace(facts, profile=store_path("nixos-system-w1-26.05")).boots_another


def test_a_system_that_no_boot_starts_is_on_trial():
    facts = facts_for(a_fleet("w1"))["w1"]
    tried = replace(facts, profile=store_path("nixos-system-w1-24.05"), tested=facts.current.path)
    assert tried.on_trial
    assert not facts.on_trial
    assert not replace(tried, tested=None).on_trial
