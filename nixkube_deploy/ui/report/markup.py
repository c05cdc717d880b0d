"""HTML made of trusted tags and distrusted text: the one place where text of others becomes part of a page.

A ``Markup`` is what was written or escaped here; every other text is made harmless first: control sequences and
direction overrides go, and the five characters that mean something to HTML become references.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import NewType

from nixkube_deploy.ui.sanitize import clean

Markup = NewType("Markup", str)


def text(words: str) -> Markup:
    """Anybody's words, as text and nothing else, also between quotes."""
    return Markup(escape(clean(words), quote=True))


def tag(name: str, *parts: Markup, **attributes: str | None) -> Markup:
    """An element; attributes without a value are left out, and a trailing ``_`` of a name too."""
    return Markup(f"<{name}{_attributes(attributes)}>{''.join(parts)}</{name}>")


def joined(parts: Iterable[Markup], between: str = "") -> Markup:
    """One after another."""
    return Markup(between.join(parts))


def section(title: str, *parts: Markup, label: str) -> Markup:
    """A section with a heading that names it, nothing at all where it would be empty."""
    inner = joined(parts, "\n")
    if not inner:
        return Markup("")
    return tag("section", tag("h2", text(title), id=label), inner, aria_labelledby=label)


def table(caption: str, head: Sequence[str], rows: Iterable[Markup]) -> Markup:
    """A table that scrolls by itself, also by keyboard, where the page is narrow."""
    columns = joined(tag("th", text(name), scope="col") for name in head)
    body = joined(rows, "\n")
    if "<tbody" not in body:
        body = tag("tbody", body)
    whole = tag("table", tag("caption", text(caption)), tag("thead", tag("tr", columns)), body)
    return tag("div", whole, class_="scrolls", role="region", aria_label=caption, tabindex="0")


def row(name: Markup, *cells: Markup, class_: str | None = None) -> Markup:
    """A row; its first cell is its heading."""
    return tag("tr", tag("th", name, scope="row"), *(tag("td", cell) for cell in cells), class_=class_)


def pairs(entries: Iterable[tuple[str, Markup]]) -> Markup:
    """Names and values; what is empty is left out."""
    return tag("dl", *(Markup(f"{tag('dt', text(name))}{tag('dd', value)}\n") for name, value in entries if value))


def _attributes(attributes: dict[str, str | None]) -> str:
    given = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None)
    return "".join(f' {name}="{text(value)}"' for name, value in given)
