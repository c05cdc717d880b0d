"""The lab's shell against the grammar it promises, and against the real one."""

import contextlib
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nixkube_deploy.lab.grammar import ShellSyntaxError, parse
from nixkube_deploy.lab.shell import Shell, Streams, TextInput


async def _program(argv, streams, env):
    match argv[0]:
        case "echo":
            streams.out(" ".join(argv[1:]) + "\n")
            return 0
        case "true":
            return 0
        case "false":
            return 1
        case "cat":
            streams.out(await streams.stdin.read())
            return 0
        case "loud":
            streams.out("out\n")
            streams.err("err\n")
            return 3
        case "printenv":
            streams.out(env.get(argv[1], "") + "\n")
            return 0
        case _:
            streams.err(f"{argv[0]}: command not found\n")
            return 127


async def run(script, stdin=""):
    out, err = [], []
    shell = Shell(_program, env={"HOME": "/root"})
    code = await shell.run(script, Streams(stdin=TextInput(stdin), out=out.append, err=err.append))
    return code, "".join(out), "".join(err)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.parametrize(
    ("script", "code", "out"),
    [
        ("echo hello", 0, "hello\n"),
        ("echo a; echo b\necho c", 0, "a\nb\nc\n"),
        ("true && echo yes || echo no", 0, "yes\n"),
        ("false && echo yes || echo no", 0, "no\n"),
        ("! false && echo inverted", 0, "inverted\n"),
        ("! ! true", 0, ""),
        ("echo 'a  b' \"c 'd'\" e\\ f", 0, "a  b c 'd' e f\n"),
        ('echo "a \\"b\\" \\$HOME \\n"', 0, 'a "b" $HOME \\n\n'),
        ("echo $HOME ${HOME} '$HOME' \"$HOME\"", 0, "/root /root $HOME /root\n"),
        ("echo a''b '' \"\"c", 0, "ab  c\n"),
        ("loud >/dev/null", 3, ""),
        ("loud 2>/dev/null", 3, "out\n"),
        ("loud 2>&1", 3, "out\nerr\n"),
        ("loud >/dev/null 2>&1; echo $?", 0, "3\n"),
        ("echo a | cat", 0, "a\n"),
        ("false; echo $?", 0, "1\n"),
        ("exit 7; echo never", 7, ""),
        ("A=b printenv A; printenv A", 0, "b\n\n"),
        ("A=b; printenv A; echo $A", 0, "\nb\n"),
        ("echo one # two", 0, "one\n"),
        ("echo a#b", 0, "a#b\n"),
        ("nonsense", 127, ""),
        ("", 0, ""),
        ("echo a \\\n  b", 0, "a b\n"),
        ("true &&\n echo next", 0, "next\n"),
    ],
)
async def test_a_script_ends_as_sh_ends_it(script, code, out):
    ran = await run(script)
    assert ran[:2] == (code, out)


@pytest.mark.parametrize(
    "script", ["echo 'open", 'echo "open', "&& true", "true &&", "echo $(id)", "echo `id`", "a & b", "(true)", "; ;"]
)
async def test_what_is_outside_the_subset_is_a_syntax_error(script):
    code, out, err = await run(script)
    assert (code, out) == (2, "")
    assert "syntax error" in err


async def test_standard_input_reaches_the_program_that_reads_it():
    assert await run("echo before; cat", stdin="text\n") == (0, "before\ntext\n", "")


_WORDS = st.text(alphabet="abc /-=:@,._{}%+~^\\$'\"<>|&;!#*?\té", min_size=1, max_size=8)


def _single(text):
    return "'" + text.replace("'", "'\\''") + "'"


def _double(text):
    return '"' + "".join(f"\\{c}" if c in '"\\`$' else c for c in text) + '"'


_QUOTED = _WORDS.flatmap(lambda text: st.sampled_from([_single(text), _double(text)]))
_PLAIN = st.text(alphabet="abcXYZ019-=:@,._/%+", min_size=1, max_size=6).filter(lambda word: "=" not in word)
_ARGUMENT = st.one_of(_QUOTED, _PLAIN, st.sampled_from(["''", '""', "a\\ b", "\\$x"]))
_ECHO = st.lists(_ARGUMENT, max_size=4).map(lambda words: " ".join(["printf '%s.'", "x", *words]))
_COMMAND = st.one_of(st.just("true"), st.just("false"), st.just("! true"), st.just("! false"), _ECHO)
_REDIRECTED = st.tuples(
    _COMMAND, st.sampled_from(["", " >/dev/null", " 2>/dev/null", " 2>&1", " >/dev/null 2>&1"])
).map("".join)
_LIST = st.lists(st.tuples(_REDIRECTED, st.sampled_from([" && ", " || ", "; ", "\n"])), min_size=1, max_size=5).map(
    lambda parts: "".join(command + operator for command, operator in parts) + "printf '%s.' \"end $?\""
)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None)
@given(script=_LIST)
def test_scripts_do_what_the_real_shell_does(script):
    import asyncio

    async def printf(argv, streams, env):
        if argv[0] == "printf":
            streams.out("".join(word + "." for word in argv[2:]))
            return 0
        return await _program(argv, streams, env)

    async def ours():
        out = []
        code = await Shell(printf, env={}).run(script, Streams(out=out.append))
        return code, "".join(out)

    real = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=False, env={})
    assert asyncio.run(ours()) == (real.returncode, real.stdout.decode())


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text):
    with contextlib.suppress(ShellSyntaxError):
        parse(text)
