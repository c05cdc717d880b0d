"""What a check could not look at is told apart from what it found wrong."""

import pytest

from nixkube_deploy.app.unchecked import for_want_of, is_example
from nixkube_deploy.model.failure import Failure, FailureKind
from tests.builders import a_host


@pytest.mark.parametrize(
    ("failure", "lacking"),
    [
        (Failure(kind=FailureKind.NOT_INSTALLED, message="nix is not installed on this machine"), "nix"),
        (
            Failure(kind=FailureKind.UNREACHABLE, message="w1 cannot be reached", seen="network is unreachable"),
            "network",
        ),
        (
            Failure(kind=FailureKind.UNREACHABLE, message="x", seen="temporary failure in name resolution"),
            "network",
        ),
        (
            Failure(
                kind=FailureKind.EVALUATION,
                message="the flake cannot be read",
                evidence=("error: unable to download 'https://x': Couldn't resolve host name (6)",),
            ),
            "network",
        ),
        (Failure(kind=FailureKind.UNREACHABLE, message="w1 cannot be reached", seen="connection refused"), ""),
        (Failure(kind=FailureKind.UNREACHABLE, message="x", seen="no route to host"), ""),
        (Failure(kind=FailureKind.EVALUATION, message="unable to download 'https://x': HTTP error 404"), ""),
        (Failure(kind=FailureKind.AUTHENTICATION, message="network is unreachable"), ""),
    ],
)
def test_only_what_this_machine_lacks_excuses_a_check(failure, lacking):
    assert for_want_of(failure) == lacking


@pytest.mark.parametrize(
    ("address", "example"), [("203.0.113.11", True), ("10.0.0.1", False), ("w1.lan", False), ("fd00::1", False)]
)
def test_addresses_of_examples_are_known(address, example):
    assert is_example(a_host("w1", address=address)) is example
