"""Whatever stands in a file, the answer is a fleet or one InventoryError."""

import json
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nixkube_deploy.inventory.error import InventoryError
from nixkube_deploy.inventory.load import load_fleet, parse
from nixkube_deploy.inventory.source import source_of_bytes
from tests.unit.inventory.complete import COMPLETE

INVENTORIES = Path(__file__).parents[3] / "inventories"
EXAMPLES = [(INVENTORIES / name).read_text() for name in ("homelab.yaml", "lab.yaml")]
BITS = [
    *"[]{}:,&*!|>'\"%@`#-? \t\n\r\0\x85\u2028\ufeff\ud800~0",
    "- ",
    ": ",
    "---\n",
    "...\n",
    "&a ",
    "*a",
    "<<: ",
    "!!python/object/apply:os.system ",
    "!<tag:yaml.org,2002:binary> ",
    "%YAML 9.9\n",
    "%TAG ! x\n",
    "null",
    "true",
    "1e999",
    ".inf",
    "0x" + "f" * 400,
    "9" * 5000,
    "\\ud800",
    "25%",
    "30s",
    "workers",
    "groups: [workers]",
    "hosts:",
    "ssh: {jump: w1}",
]


def is_answered(text: str) -> None:
    try:
        assert load_fleet("fleet.yaml", text=text).fleet.hosts
    except InventoryError as error:
        assert error.message  # noqa: PT017
        assert all(c == "\n" or c.isprintable() for c in error.message + error.hint)  # noqa: PT017


@settings(deadline=None)
@given(st.text())
def test_any_text_is_answered(text: str) -> None:
    is_answered(text)


@settings(deadline=None)
@given(st.binary())
@example(b"\xff\xfe")
@example(b"\xed\xa0\x80")
def test_any_bytes_are_answered(data: bytes) -> None:
    try:
        parse(source_of_bytes(data, "fleet.yaml", Path("/")), "fleet.yaml")
    except InventoryError as error:
        assert error.message  # noqa: PT017


@settings(deadline=None)
@given(st.lists(st.sampled_from(BITS), max_size=25).map("".join))
def test_any_heap_of_yaml_is_answered(text: str) -> None:
    is_answered(text)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_damaged_inventory_is_answered(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(EXAMPLES))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        gone = data.draw(st.sampled_from([0, 0, 1, 2, 10, 80]))
        text = text[:at] + data.draw(st.sampled_from(BITS)) + text[at + gone :]
    is_answered(text)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["", "x", "w1", "workers", "@workers", "zone=a", "30s", "0s", "25%", "10.0.0.1", "/x", "~x", "http://x"]
    ),
)


ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def paths(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at, *(path for key, value in inner for path in paths(value, (*at, key)))]


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_any_well_formed_structure_is_answered(data: st.DataObject) -> None:
    whole = json.loads(json.dumps(COMPLETE))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(whole)))
        new = data.draw(ANYTHING)
        if not path:
            continue
        place = whole
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = new
    is_answered(json.dumps(whole))


def test_the_structure_that_is_damaged_is_whole_before() -> None:
    assert load_fleet("fleet.yaml", text=json.dumps(COMPLETE)).fleet.hosts
