"""What is raised, told and returned at the very edge."""

import pytest

from nixkube_deploy.cli.exit import exit_code_of
from nixkube_deploy.model.error import Locked, TaskError, task_error
from nixkube_deploy.model.failure import FailureKind


def raising(*errors: Exception):
    def command() -> None:
        raise ExceptionGroup("a task group's", [ExceptionGroup("in another's", list(errors))])

    return command


def a_failure() -> TaskError:
    return task_error(FailureKind.EVALUATION, "the flake does not evaluate")


def test_expected_failures_before_a_run_refuse_it(capsys):
    assert exit_code_of(raising(a_failure(), a_failure())) == 3
    assert "the flake does not evaluate" in capsys.readouterr().err


def test_a_bug_is_not_hidden_by_a_failure_beside_it(capsys):
    assert exit_code_of(raising(a_failure(), ZeroDivisionError())) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("beside", [[], [ZeroDivisionError()]])
def test_an_error_on_purpose_keeps_its_code_in_a_group(beside):
    assert exit_code_of(raising(Locked("somebody is at work"), *beside)) == 6
