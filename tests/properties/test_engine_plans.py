"""Rollouts as ``plan`` makes them, run with random failures: the rules hold for the graphs that are really run."""

from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nixkube_deploy.model.error import Refused
from nixkube_deploy.model.event import Outcome
from nixkube_deploy.plan.rollout import Choices, rollout
from tests.fakes.ledger import MemoryLedger
from tests.properties.engine_world import FINAL, OK, TRANSIENT, UNCHANGED, Observer, World, run_world, settled
from tests.properties.test_engine import assert_ended_as_foretold
from tests.strategies import fleets, preparations


@st.composite
def planned_worlds(draw: st.DrawFn) -> World | None:
    fleet = draw(fleets(max_workers=5))
    prepared = draw(preparations(fleet))
    try:
        graph = rollout(fleet, prepared, Choices(bootstrap=draw(st.booleans()))).graph
    except Refused:
        return None
    chance = Random(draw(st.integers(0, 2**16)))
    how_bad = draw(st.sampled_from([0.0, 0.03, 0.1, 0.4]))
    ends, durations = {}, {}
    for task in graph:
        bad = chance.random() < how_bad
        ends[task] = (
            chance.choice([(FINAL,), (TRANSIENT,), (TRANSIENT, OK)]) if bad else chance.choice([(OK,), (UNCHANGED,)])
        )
        durations[task] = chance.choice([0.0, 1.0, 7.0])
    return World(graph=graph, ends=ends, durations=durations)


@given(world=planned_worlds())
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_planned_rollout_keeps_every_rule_whatever_fails(world: World | None) -> None:
    if world is None:
        return
    observer, ledger = Observer.of(world), MemoryLedger()
    outcome = run_world(observer, ledger)
    assert_ended_as_foretold(observer, ledger)
    assert outcome is not Outcome.INTERRUPTED
    assert settled(ledger.records).keys() == world.graph.keys()
