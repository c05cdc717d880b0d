"""Kubernetes' label selectors as text, read as ``kubectl -l`` reads them.

It selects nothing by itself; ``LabelRequirement.admits`` does.
"""

import re
from typing import Final

from nixkube_deploy.model.cluster import LabelRequirement

_KEY: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
_VALUE: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)?"
_FORMS: Final = (
    (re.compile(rf"({_KEY})\s*==?\s*({_VALUE})"), "In"),
    (re.compile(rf"({_KEY})\s*!=\s*({_VALUE})"), "NotIn"),
    (re.compile(rf"({_KEY})\s+in\s*\(([^()]*)\)"), "In"),
    (re.compile(rf"({_KEY})\s+notin\s*\(([^()]*)\)"), "NotIn"),
    (re.compile(rf"!\s*({_KEY})()"), "DoesNotExist"),
    (re.compile(rf"({_KEY})()"), "Exists"),
)
_COMMA: Final = re.compile(r",(?![^(]*\))")


def label_selector(text: str) -> tuple[LabelRequirement, ...]:
    """``app=db,tier!=test,zone in (a, b),!draft``; every part must hold.

    Raises:
        ValueError: naming the part that is none.
    """
    return tuple(_requirement(part.strip()) for part in _COMMA.split(text))


def _requirement(part: str) -> LabelRequirement:
    for form, operator in _FORMS:
        if found := form.fullmatch(part):
            values = frozenset(value.strip() for value in found[2].split(","))
            if all(re.fullmatch(_VALUE, value) for value in values):
                valued = operator in {"In", "NotIn"}
                return LabelRequirement(key=found[1], operator=operator, values=values if valued else frozenset())
    raise ValueError(f"{part!r} is no part of a label selector")
