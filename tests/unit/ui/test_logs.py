"""What the log for programs holds, and what it never does."""

import json

import structlog

from nixkube_deploy.model.secret import Secret
from nixkube_deploy.ui.logs import logging_to

CANARY = "canary-51aa"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def fail():
    revealed = CANARY
    raise RuntimeError(f"something else than {len(revealed)} letters")


def test_a_traceback_says_where_and_not_with_what(tmp_path):
    with logging_to(tmp_path / "log"):
        try:
            fail()
        except RuntimeError:
            structlog.get_logger("test").exception("a bug")
    (line,) = lines(tmp_path / "log")
    assert line["exception"][0]["exc_type"] == "RuntimeError"
    assert [frame["name"] for frame in line["exception"][0]["frames"]][-1] == "fail"
    assert CANARY not in (tmp_path / "log").read_text()


def test_a_secret_shows_as_stars_wherever_it_is_put(tmp_path):
    with logging_to(tmp_path / "log"):
        structlog.get_logger("test").info("used", password=Secret(CANARY), more=[Secret(CANARY)])
    (line,) = lines(tmp_path / "log")
    assert line["password"] == "***"
    assert CANARY not in (tmp_path / "log").read_text()


def test_the_control_of_these_tests_would_be_seen(tmp_path):
    with logging_to(tmp_path / "log"):
        structlog.get_logger("test").info(CANARY)
    assert CANARY in (tmp_path / "log").read_text()
