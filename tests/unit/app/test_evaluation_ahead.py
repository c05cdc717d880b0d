"""An evaluation that was begun before it is asked for is the one that answers, once, with everything it said."""

import anyio
import pytest
from trio.testing import MockClock

from nixkube_deploy.app.ahead import EvaluationAhead
from nixkube_deploy.model.closure import FlakeState
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.ports.nix import Evaluation
from tests.builders import a_host

HOSTS = (a_host("w1"), a_host("w2"))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Nix:
    """Takes ten seconds, says a line before and after, and counts."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.evaluated, self.breaks = 0, breaks

    async def state(self, flake: str) -> FlakeState:
        return FlakeState(url=flake, revision="1")

    async def evaluate(self, flake, hosts, on_line=None) -> Evaluation:
        self.evaluated += 1
        on_line("begun")
        await anyio.sleep(10)
        on_line("ended")
        if self.breaks:
            raise task_error(FailureKind.EVALUATION, "it does not evaluate")
        return Evaluation(flake=await self.state(flake))


@pytest.mark.parametrize("after", [1, 20], ids=["while it is at work", "when it is done"])
async def test_what_was_begun_answers_whoever_asks_for_it(after):
    nix, said = Nix(), list[str]()
    ahead = EvaluationAhead(nix)
    async with anyio.create_task_group() as group:
        group.start_soon(ahead.begin, "/flake", HOSTS)
        await anyio.sleep(after)
        found = await ahead.evaluate("/flake", list(HOSTS), said.append)
    assert found.flake.url == "/flake"
    assert said == ["begun", "ended"]
    assert nix.evaluated == 1
    assert anyio.current_time() == max(after, 10)


async def test_a_second_question_is_a_new_one_because_the_flake_may_have_changed():
    nix = Nix()
    ahead = EvaluationAhead(nix)
    await ahead.begin("/flake", HOSTS)
    await ahead.evaluate("/flake", HOSTS, str)
    await ahead.evaluate("/flake", HOSTS, str)
    assert nix.evaluated == 2


@pytest.mark.parametrize(("flake", "hosts"), [("/other", HOSTS), ("/flake", HOSTS[:1])])
async def test_another_question_is_asked_for_itself(flake, hosts):
    nix = Nix()
    ahead = EvaluationAhead(nix)
    await ahead.begin("/flake", HOSTS)
    assert (await ahead.evaluate(flake, hosts, str)).flake.url == flake
    assert nix.evaluated == 2
    assert (await ahead.state("/other")).url == "/other"


async def test_what_failed_before_it_was_asked_for_fails_whoever_asks_and_nobody_else():
    ahead = EvaluationAhead(Nix(breaks=True))
    await ahead.begin("/flake", HOSTS)
    with pytest.raises(TaskError, match="does not evaluate"):
        await ahead.evaluate("/flake", HOSTS, str)
