"""Running commands over SSH, against real servers on loopback."""

import anyio
import pytest

from nixkube_deploy.model.error import OutcomeUnknown, Unreachable
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.ports.shell import Command


def command(*argv: str, **rest) -> Command:
    return Command(argv=argv, **rest)


async def test_a_command_comes_back_with_its_output_and_exit_code(shell, sshd):
    result = await shell.run(sshd.host(), command("echo", "a b", "it's"))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "a b it's\n", "")


async def test_a_failing_command_is_a_result(shell, sshd):
    assert (await shell.run(sshd.host(), command("false"))).exit_code == 1
    assert (await shell.run(sshd.host(), command("nope"))).exit_code == 127


async def test_many_callers_share_one_connection(shell, sshd):
    host = sshd.host()
    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(shell.run, host, command("echo", str(number)))
    assert len(sshd.connections) == 1
    assert len(sshd.commands) == 30


async def test_standard_input_reaches_the_command_and_ends(shell, sshd):
    text = "line\n" * 50_000
    result = await shell.run(sshd.host(), command("cat", stdin=text))
    assert result.truncated
    assert text.endswith(result.stdout)


async def test_a_fresh_command_uses_a_connection_of_its_own(shell, sshd):
    host = sshd.host()
    await shell.run(host, command("true"))
    await shell.run_fresh(host, command("true"))
    assert len(sshd.connections) == 2
    await shell.run(host, command("true"))
    assert len(sshd.connections) == 2


async def test_after_forget_the_next_command_connects_anew(shell, sshd):
    host = sshd.host()
    await shell.run(host, command("true"))
    await shell.forget(host)
    await anyio.sleep(0.01)
    assert sshd.alive == 0
    await shell.run(host, command("true"))
    assert len(sshd.connections) == 2


async def test_forgetting_a_host_never_seen_does_nothing(shell, sshd):
    await shell.forget(sshd.host())


async def test_a_lost_connection_leaves_the_outcome_unknown_and_repeats_nothing(shell, sshd):
    host = sshd.host()
    with pytest.raises(OutcomeUnknown) as caught:
        await shell.run(host, command("die"))
    failure = caught.value.failure
    assert failure.kind is FailureKind.OUTCOME_UNKNOWN
    assert failure.command == "die"
    assert "half" in failure.evidence
    assert sshd.commands == ["die"]
    assert (await shell.run(host, command("echo", "back"))).stdout == "back\n"
    assert sshd.commands == ["die", "echo back"]


async def test_a_connection_lost_while_idle_is_made_anew(shell, sshd):
    host = sshd.host()
    await shell.run(host, command("true"))
    sshd.connections[0].abort()
    assert (await shell.run(host, command("echo", "again"))).stdout == "again\n"
    assert sshd.commands == ["true", "echo again"]


async def test_a_passed_deadline_leaves_the_outcome_unknown(shell, sshd):
    host = sshd.host()
    with pytest.raises(OutcomeUnknown, match=r"no end within 0\.1 s"):
        await shell.run(host, command("hang", timeout=0.1))
    assert (await shell.run(host, command("true"))).ok
    assert len(sshd.connections) == 1


async def test_a_command_ended_by_a_signal_says_so(shell, sshd):
    result = await shell.run(sshd.host(), command("killed"))
    assert result.exit_code == 137
    assert "ended by signal KILL" in result.stderr


async def test_lines_arrive_harmless_as_they_are_printed(shell, sshd):
    heard = []
    script = r"printf 'one\n\033[31mred\033[0m\n10%%\r20%%\nlast'; printf 'oops\n' >&2"
    await shell.run(sshd.host(), command("sh", "-c", script), heard.append)
    assert sorted(heard) == ["20%", "last", "one", "oops", "red"]


async def test_what_a_listener_raises_reaches_the_caller_and_spares_the_connection(shell, sshd):
    def broken(line):
        raise KeyError(line)

    host = sshd.host()
    with pytest.raises(KeyError):
        await shell.run(host, command("echo", "x"), broken)
    assert (await shell.run(host, command("true"))).ok
    assert len(sshd.connections) == 1


async def test_a_flood_of_output_is_bounded(shell, sshd):
    import resource

    await shell.run(sshd.host(), command("flood", "1"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await shell.run(sshd.host(), command("flood", "200"))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert result.truncated
    assert len(result.stdout) <= 64 * 1024
    assert result.stdout.endswith("x\nthe end\n")
    assert after - before < 30 * 1024


async def test_a_cancelled_command_lets_go_at_once(shell, sshd):
    host = sshd.host()
    with anyio.move_on_after(0.1) as scope:
        await shell.run(host, command("hang", timeout=60))
    assert scope.cancelled_caught
    assert (await shell.run(host, command("true"))).ok


async def test_a_held_command_lives_for_the_block(shell, sshd):
    host = sshd.host()
    async with shell.hold(host, command("keep")) as result:
        assert result is None
        assert (await shell.run(host, command("true"))).ok
    assert len(sshd.connections) == 1


async def test_a_held_command_whose_connection_is_lost_ends_its_block(shell, sshd):
    host = sshd.host()

    async def hold_on() -> None:
        async with shell.hold(host, command("keep")):
            await shell.forget(host)
            await anyio.sleep_forever()

    with pytest.raises(OutcomeUnknown, match="the connection was lost"):
        await hold_on()
    assert (await shell.run(host, command("true"))).ok


async def test_a_held_command_that_ends_at_once_yields_its_result(shell, sshd):
    async with shell.hold(sshd.host(), command("nope")) as result:
        assert result is not None
        assert result.exit_code == 127


async def test_a_held_command_that_says_nothing_in_time_is_unknown(shell, sshd):
    with pytest.raises(OutcomeUnknown):
        async with shell.hold(sshd.host(), command("cat", timeout=0.1)):
            pass


async def test_closing_the_shell_closes_every_connection(sshd):
    from nixkube_deploy.backends.ssh.shell import SshShell

    async with SshShell({}, None) as shell:
        await shell.run(sshd.host("a"), command("true"))
        await shell.run(sshd.host("b"), command("true"))
        assert sshd.alive == 2
    await anyio.sleep(0.01)
    assert sshd.alive == 0


async def test_a_refused_connection_names_the_host_and_the_port(shell, sshd, unused_port):
    with pytest.raises(Unreachable) as caught:
        await shell.run(sshd.host(port=unused_port), command("true"))
    assert f"w1 (root@127.0.0.1:{unused_port}) cannot be reached: connection refused" in caught.value.failure.message
    assert caught.value.failure.transient


async def test_nothing_blocks_the_event_loop(sshd, tmp_path):
    from blockbuster import blockbuster_ctx

    from nixkube_deploy.backends.ssh.shell import SshShell
    from nixkube_deploy.model.fleet import HostKeyPolicy

    known = str(tmp_path / "known")
    async with SshShell({}, None) as shell:
        with blockbuster_ctx():
            host = sshd.host(host_key=None, known_hosts=known, host_key_policy=HostKeyPolicy.ACCEPT_NEW, config=None)
            await shell.run(host, command("echo", "x"))
            await shell.run_fresh(host, command("echo", "x"))
            with pytest.raises(Unreachable):
                await shell.run(sshd.host("w2", port=1), command("true"))
