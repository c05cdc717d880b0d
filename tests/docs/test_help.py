"""``--help`` of every command has an example, and the parser accepts every example of the help and of the pages."""

import re
import shlex

import click
import pytest

from tests.docs.clicktree import PROGRAMS, accept, every_command, examples, typed
from tests.docs.pages import DOCS
from tests.docs.transcripts import commands, pages

EVERY = every_command()
EXAMPLES = sorted({line for command in EVERY.values() for line in examples(command)})
INLINE = sorted(
    {
        text
        for page in [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
        for text in re.findall(r"(?<!`)`((?:deploy|nixkube-deploy|nixkube-lab) [^`\n]+)`(?!`)", page.read_text())
    }
)


@pytest.fixture(autouse=True)
def _an_inventory_here(tmp_path, monkeypatch):
    (tmp_path / "inventory.yaml").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", EVERY)
def test_the_help_of_every_command_has_an_example_of_it(path):
    lines = examples(EVERY[path])
    assert [line for line in lines if path in line], f"{path} --help shows no example of {path}"


@pytest.mark.parametrize("path", EVERY)
def test_every_option_says_what_it_does(path):
    mute = [param.name for param in EVERY[path].params if isinstance(param, click.Option) and not param.help]
    assert not mute


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_parser_accepts_every_example(example):
    assert typed(example)
    for words in typed(example):
        accept(words)


@pytest.mark.parametrize("page", pages())
def test_the_parser_accepts_every_command_of_a_page(page):
    for command in commands(page):
        for words in typed(command.text.replace(".venv/bin/", "")):
            accept(words)


@pytest.mark.parametrize("text", INLINE)
def test_a_command_in_a_sentence_has_a_name_and_options_that_exist(text):
    program, *rest = shlex.split(text)
    command = PROGRAMS[program]
    for word in rest:
        if isinstance(command, click.Group) and re.fullmatch(r"[a-z]+", word):
            inner = command.get_command(click.Context(command), word)
            assert inner is not None, f"no such command: {word}"
            command = EVERY["nixkube-lab"] if word == "lab" else inner
        elif word == "--":
            break
        elif word.startswith("-"):
            known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
            assert word.partition("=")[0] in known


@pytest.mark.parametrize(
    "wrong", ["deploy aply x", "deploy plan x --nope", "deploy completion tcsh", "nixkube-lab fault burn"]
)
def test_an_example_that_is_wrong_is_found(wrong):
    with pytest.raises(click.UsageError):
        accept(typed(wrong)[0])
