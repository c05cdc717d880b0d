"""Systems to go back to are looked for on every host, and one host that stops answering sinks nobody else's."""

from nixkube_deploy.app.earlier import recorded
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.names import HostName
from nixkube_deploy.plan.rollback import Earlier
from nixkube_deploy.ports.shell import CommandResult
from tests.builders import a_fleet, facts_for, store_path
from tests.fakes.nixos import lost
from tests.fakes.shell import FakeShell
from tests.unit.app.worlds import a_world

FLEET = a_fleet("w1")


async def test_a_host_that_is_lost_while_its_generations_are_listed_is_a_problem_of_its_own():
    def answer(_host, command):
        if "ls /nix/var/nix/profiles" in command.argv[2]:
            raise lost("the connection was lost")
        return CommandResult(exit_code=0, stdout="\n@end\n")

    shell = FakeShell().answers("sh", with_=answer)
    gone = {HostName("w1"): Earlier(system=store_path("collected"))}
    found = await recorded(a_world(FLEET, shell), facts_for(FLEET), gone)
    assert found.problems[HostName("w1")].kind is FailureKind.OUTCOME_UNKNOWN
