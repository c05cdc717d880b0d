"""What references come to, and that nothing about a secret gets out on the way."""

import os
import sys
import traceback

import pytest

from nixkube_deploy.app.secrets import resolve_secret, secrets_of
from nixkube_deploy.backends.process.local import LocalProcesses
from nixkube_deploy.backends.ssh.session import Request
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.secret import Secret, SecretFromCommand, SecretFromEnv, SecretFromFile
from nixkube_deploy.ports.process import Invocation
from tests.builders import a_host

CANARY = "canary-9f2c"
PRINT_ENVIRONMENT = "import os; print(os.environ)"


@pytest.fixture(autouse=True)
def canary(monkeypatch):
    monkeypatch.setenv("SUDO_PASSWORD", CANARY)


async def test_a_program_we_start_does_not_inherit_the_variable_that_holds_a_secret():
    host = a_host("w1", privilege_password=SecretFromEnv(env="SUDO_PASSWORD"))
    invocation = Invocation(argv=(sys.executable, "-c", PRINT_ENVIRONMENT))
    assert CANARY in (await LocalProcesses().run(invocation)).stdout
    with secrets_of([host]) as resolve:
        assert CANARY not in (await LocalProcesses().run(invocation)).stdout
        command = SecretFromCommand(command=(sys.executable, "-c", PRINT_ENVIRONMENT))
        assert CANARY not in (await resolve(command)).reveal()
        assert (await resolve(SecretFromEnv(env="SUDO_PASSWORD"))).reveal() == CANARY
    assert os.environ["SUDO_PASSWORD"] == CANARY


async def test_a_variable_nobody_refers_to_is_left_alone():
    with secrets_of([a_host("w1")]):
        assert os.environ["SUDO_PASSWORD"] == CANARY


async def test_a_variable_that_is_not_set_is_said_to_be():
    with (
        secrets_of([a_host("w1", privilege_password=SecretFromEnv(env="NO_SUCH"))]) as resolve,
        pytest.raises(TaskError) as caught,
    ):
        await resolve(SecretFromEnv(env="NO_SUCH"))
    assert "{env: NO_SUCH} is not set" in caught.value.failure.message


@pytest.mark.parametrize("form", ["file", "command"])
async def test_what_is_no_text_is_refused_without_showing_it(tmp_path, form):
    file = tmp_path / "secret"
    file.write_bytes(CANARY.encode() + b"\xff\n")
    by_command = SecretFromCommand(command=("cat", str(file)))
    with pytest.raises(TaskError) as caught:
        await resolve_secret(SecretFromFile(file=str(file)) if form == "file" else by_command)
    error: BaseException | None = caught.value
    assert "is not text" in caught.value.failure.message
    while error is not None:
        assert CANARY not in repr(error) + repr(vars(error)) + "".join(traceback.format_exception(error))
        error = error.__context__


def test_a_request_with_a_password_shows_neither_it_nor_the_input():
    request = Request(
        label="w1", argv=("true",), stdin=f"{CANARY}\n", timeout=1.0, patience=1.0, password=Secret(CANARY)
    )
    assert CANARY not in repr(request)
