"""Size as a forcing function: 45 lines a function, 400 a module, 6 parameters, 500 lines of engine, p90 of 25 lines."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "nixkube_deploy"
FUNCTION, P90, MODULE, PARAMETERS, ENGINE = 45, 25, 400, 6, 500
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[str, Function]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}", node


def body_lines(node: Function) -> int:
    """Lines from def to the end, without the docstring's."""
    lines = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= first.end_lineno - first.lineno + 1
    return lines


def is_a_click_command(node: Function) -> bool:
    """A command's parameters are its options: click passes them by name."""
    return any("command" in ast.unparse(d) or "group" in ast.unparse(d) for d in node.decorator_list)


def test_functions_are_short():
    assert not [where for where, node in functions() if body_lines(node) > FUNCTION]


def test_most_functions_are_shorter():
    lengths = sorted(body_lines(node) for _, node in functions())
    assert lengths[int(0.9 * len(lengths))] <= P90


def test_modules_are_short():
    assert not [p for p in PACKAGE.rglob("*.py") if p.read_text().count("\n") > MODULE]


def test_the_engine_has_no_policy_in_it():
    assert sum(p.read_text().count("\n") for p in (PACKAGE / "engine").glob("*.py")) < ENGINE


def test_functions_take_few_parameters():
    over = []
    for where, node in functions():
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        count = len([a for a in arguments if a.arg not in {"self", "cls"}])
        if count > PARAMETERS and not is_a_click_command(node):
            over.append(f"{where}: {count}")
    assert not over
