"""Label selectors as kubectl reads them."""

import pytest

from nixkube_deploy.model.labels import label_selector

LABELS = {"app": "db", "tier": "prod", "empty": ""}


def admits(text: str) -> bool:
    return all(requirement.admits(LABELS) for requirement in label_selector(text))


@pytest.mark.parametrize(
    "text",
    [
        "app=db",
        "app==db",
        "app = db",
        "app=db,tier=prod",
        "tier!=test",
        "absent!=x",
        "app in (web, db)",
        "tier notin (test,dev)",
        "absent notin (x)",
        "app",
        "!absent",
        "! absent",
        "empty=",
        "example.org/name!=x",
    ],
)
def test_a_selector_that_holds(text):
    assert admits(text)


@pytest.mark.parametrize(
    "text", ["app=web", "app=db,tier=test", "tier!=prod", "app in (web)", "app notin (db)", "absent", "!app", "absent="]
)
def test_a_selector_that_does_not_hold(text):
    assert not admits(text)


@pytest.mark.parametrize(
    ("text", "part"),
    [("", "''"), ("app=db,", "''"), ("a b", "'a b'"), ("app in db", "'app in db'"), ("app in (a b)", "'app in (a b)'"),
     ("-app=x", "'-app=x'"), ("app=a/b", "'app=a/b'"), ("app>3", "'app>3'")],
)  # fmt: skip
def test_what_is_no_selector_is_refused_by_its_part(text, part):
    with pytest.raises(ValueError, match="is no part of a label selector") as caught:
        label_selector(text)
    assert str(caught.value).startswith(part)
