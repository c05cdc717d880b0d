from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

import pytest

from nixkube_deploy.model.codec import CodecError, from_plain, to_plain
from nixkube_deploy.model.secret import Secret

Name = NewType("Name", str)


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Apple:
    name: Name
    weight: float = 1.0
    colour: Colour = Colour.RED


@dataclass(frozen=True, slots=True, kw_only=True)
class Pear:
    seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Basket:
    fruit: tuple[Apple | Pear, ...] = ()
    pair: tuple[int, str] | None = None
    names: frozenset[Name] = frozenset()
    by_name: Mapping[Name, int] = field(default_factory=dict)
    ripe: bool = True
    notes: list[str] | None = None


FULL = Basket(
    fruit=(Apple(name=Name("a"), weight=2.5), Pear(seeds=3)),
    pair=(1, "x"),
    names=frozenset({Name("b"), Name("a")}),
    by_name={Name("a"): 1},
    ripe=False,
    notes=["n"],
)
PLAIN = {
    "type": "Basket",
    "fruit": [{"type": "Apple", "name": "a", "weight": 2.5, "colour": "red"}, {"type": "Pear", "seeds": 3}],
    "pair": [1, "x"],
    "names": ["a", "b"],
    "by_name": {"a": 1},
    "ripe": False,
    "notes": ["n"],
}


def test_a_value_becomes_plain_data_with_its_types_named():
    assert to_plain(FULL) == PLAIN
    assert to_plain({1, 2}) == [1, 2]
    assert to_plain(None) is None


def test_plain_data_becomes_the_value_it_was():
    assert from_plain(Basket, PLAIN) == FULL


def test_missing_keys_take_the_defaults_and_the_type_may_be_left_out():
    assert from_plain(Basket, {"by_name": {}}) == Basket(by_name={})
    assert from_plain(Apple | None, None) is None
    assert from_plain(Apple | None, {"name": "a"}) == Apple(name=Name("a"))


def test_a_whole_number_is_a_float_where_one_is_asked_for():
    apple = from_plain(Apple, {"name": "a", "weight": 2})
    assert isinstance(apple.weight, float)


def test_a_secret_is_never_serialised():
    with pytest.raises(TypeError, match="Secret is never serialised"):
        to_plain(Secret("hunter2"))
    with pytest.raises(TypeError, match="type is never serialised"):
        to_plain(Apple)


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (Basket, [], r"\$: expected an object, got list"),
        (Basket, {"type": "Apple"}, r"\$: expected Basket, got Apple"),
        (Basket, {"fruit": 3}, r"\$\.fruit: expected a list, got int"),
        (Basket, {"fruit": [{"type": "Plum"}]}, r"\$\.fruit\[0\]: unknown type 'Plum'"),
        (Basket, {"fruit": ["apple"]}, r"\$\.fruit\[0\]: unknown type None"),
        (Basket, {"pair": [1]}, r"\$\.pair: expected 2 items, got 1"),
        (Basket, {"by_name": []}, r"\$\.by_name: expected an object, got list"),
        (Basket, {"by_name": {"a": "x"}}, r"\$\.by_name\.a: expected int, got str"),
        (Basket, {"names": [1]}, r"\$\.names\[0\]: expected str, got int"),
        (Basket, {"ripe": 1}, r"\$\.ripe: expected bool, got int"),
        (Basket, {"sweet": True, "big": True}, r"\$: unknown keys \['big', 'sweet'\]"),
        (Apple, {}, r"\$: .*missing 1 required keyword-only argument"),
        (Apple, {"name": "a", "colour": "blue"}, r"\$\.colour: 'blue' is not a valid Colour"),
        (Apple, {"name": "a", "weight": True}, r"\$\.weight: expected float, got bool"),
        (Pear, {"seeds": True}, r"\$\.seeds: expected int, got bool"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(kind, data, message):
    with pytest.raises(CodecError, match=message):
        from_plain(kind, data)
