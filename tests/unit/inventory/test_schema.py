"""The JSON Schema and the parser are one description, so they agree."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nixkube_deploy.inventory import grammar, rules
from nixkube_deploy.inventory.error import InventoryError
from nixkube_deploy.inventory.grammar import INVENTORY
from nixkube_deploy.inventory.schema import json_schema
from nixkube_deploy.inventory.shape import At
from nixkube_deploy.inventory.source import source_of_text
from nixkube_deploy.inventory.tree import Items, Node, Scalar, Table, compose
from nixkube_deploy.model import fleet, strategy
from tests.unit.inventory.complete import COMPLETE

ROOT = Path(__file__).parents[3]
INVENTORIES = sorted((ROOT / "inventories").glob("*.yaml"))
GOLDEN = ROOT / "tests" / "golden" / "inventory"
VALIDATOR = jsonschema.Draft202012Validator(json_schema())
ABOUT_SHAPE = (
    " must be ",
    "unknown key ",
    " lacks the key ",
    "` is empty",
    "` twice",
    "exactly one of",
    "where a secret is",
    "a secret is never",
)


def plain(node: Node) -> Any:
    """What an editor's YAML 1.2 reader makes of a node."""
    match node:
        case Table(entries=entries):
            return {key: plain(entry.value) for key, entry in entries.items()}
        case Items(items=items):
            return [plain(item) for item in items]
        case Scalar(text=text):
            match node.kind:
                case "null":
                    return None
                case "boolean":
                    return text.lower() == "true"
                case "number":
                    return int(text) if text.lstrip("-").isdigit() else float(text)
            return text


def problem(text: str) -> str | None:
    """What the parser says of the shape alone."""
    try:
        source = source_of_text(text, "x.yaml", Path("/base"))
        INVENTORY.read(compose(source), At(source))
    except InventoryError as error:
        return error.problem
    return None


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_every_key_has_a_line_of_help() -> None:
    def walk(schema: Any) -> None:
        if isinstance(schema, dict):
            for each in schema.get("properties", {}).values():
                assert each.get("description") or each.get("const"), each
            for value in schema.values():
                walk(value)

    walk(json_schema())


def test_the_schema_beside_the_inventories_is_this_one() -> None:
    path = ROOT / "inventories" / "inventory.schema.json"
    text = json.dumps(json_schema(), indent=2) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)

    assert path.read_text() == text


@pytest.mark.parametrize("path", INVENTORIES, ids=lambda path: path.name)
def test_an_inventory_that_the_parser_takes_is_valid(path: Path) -> None:
    VALIDATOR.validate(plain(compose(source_of_text(path.read_text(), path.name, path.parent))))


def cases_of_shape() -> list[Path]:
    """Golden cases that are trees, and wrong in their shape; what is no tree cannot be judged by any schema."""
    found = []
    for path in sorted(GOLDEN.glob("*.yaml")):
        try:
            said = problem(path.read_bytes().decode())
        except UnicodeDecodeError:
            continue
        if said is not None and any(words in said for words in ABOUT_SHAPE) and "a key must be text" not in said:
            found.append(path)
    return found


@pytest.mark.parametrize("path", cases_of_shape(), ids=lambda path: path.stem)
def test_what_the_parser_refuses_for_its_shape_is_invalid(path: Path) -> None:
    assert not VALIDATOR.is_valid(plain(compose(source_of_text(path.read_text(), path.name, path.parent))))


WORDS = [
    "",
    "x",
    "30s",
    "25%",
    "101%",
    "02:00",
    "k3s",
    "sat",
    "/dev/x",
    "true",
    "null",
    "1",
    "root",
    "http://x",
    "ssh-rsa x",
]
KEYS = st.sampled_from(["fetch", "env", "from", "x", "user"])
NUMBERS = st.integers(-5, 70_000) | st.sampled_from([0.5, 25.5])
ANY = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["fetch", "env", "from", "x", "user"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(deadline=None, max_examples=500)
@given(st.data())
def test_parser_and_schema_agree_on_any_shape(data: st.DataObject) -> None:
    whole = json.loads(json.dumps(COMPLETE))
    place: Any = whole
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or data.draw(st.integers(0, 3)) == 0:
            place[key] = data.draw(ANY)
            break
        place = place[key]

    said = problem(json.dumps(whole))

    if VALIDATOR.is_valid(whole):
        assert said is None or not any(words in said for words in ABOUT_SHAPE)
    else:
        assert said is not None


@pytest.mark.parametrize(
    ("record", "model", "elsewhere"),
    [
        (grammar.SSH, fleet.SshSettings, {}),
        (grammar.COPY, fleet.CopySettings, {}),
        (grammar.BOOTSTRAP, fleet.BootstrapSettings, {}),
        (grammar.CLUSTER, fleet.Cluster, {}),
        (grammar.HOST, fleet.Host, {"name", "policy"}),
        (rules.DRAIN, strategy.DrainOptions, {}),
        (rules.HOST_STRATEGY, strategy.HostPolicy, {}),
        (rules.STRATEGY, strategy.Strategy, {"host"}),
        (rules.GATES, strategy.Gates, {}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_every_field_of_the_model_can_be_written(record: Any, model: Any, elsewhere: set[str]) -> None:
    missing = {field.name for field in dataclasses.fields(model)} - record.fields.keys()

    assert missing == set(elsewhere)
