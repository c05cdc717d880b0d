"""Marks on the Nodes still to come, against a fake cluster in virtual time."""

import pytest

from nixkube_deploy.model.cluster import OWNER_ANNOTATION, TO_COME_TAINT, Node
from nixkube_deploy.model.error import task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import RunId
from nixkube_deploy.ports.cluster import LeaseConflict, NodePatch
from nixkube_deploy.protocols.disruption import cordon, uncordon
from nixkube_deploy.protocols.marking import marked
from tests.fakes.cluster import FakeCluster

RUN = RunId("run-2")


def a_cluster(**marks: str | None) -> FakeCluster:
    return FakeCluster([Node(name=name, marked_by=run) for name, run in marks.items()])


def marks(cluster: FakeCluster) -> dict[str, str | None]:
    return {name: node.marked_by for name, node in cluster.nodes_by_name.items()}


async def test_nodes_are_marked_for_the_length_of_the_block():
    cluster = a_cluster(w1=None, w2=None, w3=None)

    async with marked(cluster, frozenset({"w1", "w2"}), RUN, print):
        assert marks(cluster) == {"w1": RUN, "w2": RUN, "w3": None}

    assert marks(cluster) == {"w1": None, "w2": None, "w3": None}


async def test_marks_of_dead_runs_are_taken_over_or_away():
    cluster = a_cluster(w1="run-1", w2="run-1")

    async with marked(cluster, frozenset({"w1"}), RUN, print):
        assert marks(cluster) == {"w1": RUN, "w2": None}


async def test_at_the_end_only_our_own_marks_go():
    cluster = a_cluster(w1=None, w2=None)

    async with marked(cluster, frozenset({"w1"}), RUN, print):
        await cluster.patch_node("w2", NodePatch(taints=((TO_COME_TAINT, "run-3"),)))

    assert marks(cluster) == {"w1": None, "w2": "run-3"}


async def test_a_resumed_run_writes_only_what_has_changed():
    cluster = a_cluster(w1=RUN, w2=None)

    async with marked(cluster, frozenset({"w1", "w2"}), RUN, print):
        assert cluster.calls == ["patch_node w2"]


async def test_a_node_that_is_given_back_loses_its_mark_with_its_cordon():
    cluster = a_cluster(w1=None, w2=None)

    async with marked(cluster, frozenset({"w1", "w2"}), RUN, print):
        await cordon(cluster, "w1", RUN)
        cluster.calls.clear()
        assert await uncordon(cluster, "w1", RUN)
        assert cluster.calls == ["patch_node w1"]
        assert marks(cluster) == {"w1": None, "w2": RUN}


async def test_a_mark_goes_though_nothing_was_cordoned_by_us():
    cluster = a_cluster(w1=RUN)
    cluster.put_node(Node(name="w1", unschedulable=True, marked_by=RUN))

    assert not await uncordon(cluster, "w1", RUN)

    node = cluster.nodes_by_name["w1"]
    assert node.unschedulable
    assert node.marked_by is None
    assert OWNER_ANNOTATION not in node.annotations


async def test_a_conflict_is_tried_again():
    cluster = a_cluster(w1=None, w2=None).fails("patch_node", LeaseConflict(), LeaseConflict())

    async with marked(cluster, frozenset({"w1", "w2"}), RUN, print):
        assert marks(cluster) == {"w1": RUN, "w2": RUN}


@pytest.mark.parametrize("call", ["nodes", "patch_node"])
async def test_a_run_goes_on_without_marks_and_says_so(call: str):
    cluster = a_cluster(w1=None, w2=None).fails(call, task_error(FailureKind.CLUSTER, "forbidden"))
    said: list[str] = []

    async with marked(cluster, frozenset({"w1", "w2"}), RUN, said.append):
        pass

    assert said == ["the marks on the Nodes still to come are not as they should be: forbidden"]


async def test_an_api_that_hangs_holds_a_run_up_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch):
    cluster, said = a_cluster(w1=None, w2=None), []
    monkeypatch.setattr("nixkube_deploy.protocols.marking.MARKING_PATIENCE", 0.05)
    cluster.fails("patch_node", *(LeaseConflict() for _ in range(4)))

    async with marked(cluster, frozenset({"w1", "w2"}), RUN, said.append):
        pass

    assert said == ["the marks on the Nodes still to come are not as they should be after 0.05 s; going on"]


async def test_a_block_that_fails_takes_its_marks_with_it():
    cluster = a_cluster(w1=None, w2=None)

    with pytest.raises(RuntimeError, match="no"):
        async with marked(cluster, frozenset({"w1", "w2"}), RUN, print):
            raise RuntimeError("no")

    assert marks(cluster) == {"w1": None, "w2": None}
