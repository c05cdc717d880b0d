"""Questions asked together are answered as when each is asked by itself, by this machine's own shell.

What the questions of the product are is not the business of these tests.
"""

import subprocess
from pathlib import Path

import pytest

from nixkube_deploy.protocols.script import END, Question, read, script


def asked(*commands: str) -> dict[str, str]:
    questions = tuple(Question(name=f"q{at}", command=command) for at, command in enumerate(commands))
    done = subprocess.run(["sh", "-c", script(questions)], capture_output=True, text=True, check=False)
    found = read(done.stdout, questions)
    assert END in found
    return {question.command: found[question.name] for question in questions}


def one_by_one(*commands: str) -> dict[str, str]:
    return {command: asked(command)[command] for command in commands}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "unterminated").write_text("no newline")
    (tmp_path / "empty").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    return tmp_path


def test_files_asked_together_are_read_as_each_by_itself(place):
    names = ("a", "unterminated", "missing", "empty", "link", "missing/too", ".", "a")
    commands = tuple(f"cat {place}/{name}" for name in names)
    assert asked(*commands) == one_by_one(*commands)
    assert asked(*commands)[f"cat {place}/unterminated"] == "no newline"


def test_links_asked_together_lead_where_each_leads_by_itself(place):
    paths = tuple(f"{place}/{name}" for name in ("link", "a", "missing", "dangling", "link"))
    plain = tuple(f"readlink -f {path}" for path in paths)
    tested = tuple(f"test -e {path} && readlink -f {path}" for path in (*paths, f"{place}/no/such/folder"))
    assert asked(*plain, *tested) == one_by_one(*plain, *tested)


def test_a_link_below_what_is_not_there_does_not_shift_the_others(place):
    commands = (f"readlink -f {place}/no/such/folder", f"readlink -f {place}/link")
    assert asked(*commands)[commands[1]] == str(place / "a")


def test_each_kind_is_one_program_whatever_the_number():
    commands = [f"cat /f{n}" for n in range(9)] + [f"test -e /l{n} && readlink -f /l{n}" for n in range(9)]
    text = script(Question(name=str(at), command=command) for at, command in enumerate(commands))
    programs = [line.split()[0] for line in text.splitlines() if not line.startswith(("echo", "test"))]
    assert programs == ["readlink", "head"]


def test_a_file_that_names_another_does_not_take_its_place(place):
    (place / "first").write_text(f"==> {place}/first <==\n==> {place}/other <==\n")
    commands = (f"cat {place}/first", f"cat {place}/a")
    assert asked(*commands) == one_by_one(*commands)


def test_links_that_a_host_answers_short_are_not_there():
    questions = tuple(Question(name=name, command=f"readlink -f /{name}") for name in ("a", "b"))
    found = read("@links\n/a\n\n@end\n", questions)
    assert (found["a"], found["b"]) == ("", "")


def test_what_systemd_says_is_asked_before_where_links_lead():
    questions = (Question(name="current", command="readlink -f /a"), Question(name="b", command="readlink -f /b"))
    text = script((*questions, Question(name="units", command="systemctl list-units")))
    assert text.index("systemctl") < text.index("readlink")
