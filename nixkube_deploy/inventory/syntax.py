"""The YAML parser's complaints in words that say what to change.

It only rewords; what is an error was decided by the parser.
"""

import re

import yaml

from nixkube_deploy.inventory.error import LONGEST_QUOTE, InventoryError, printable, quote
from nixkube_deploy.inventory.source import Mark, Source

_WORDS = {
    "mapping values are not allowed in this context": (
        "a `:` that cannot be here",
        "text that contains `: ` must be quoted; keys of one mapping begin in the same column",
    ),
    "did not find expected key": ("a key was expected here", "keys of one mapping begin in the same column"),
    "could not find expected ':'": ("a key without `: ` after it", "write `key: value`, with a space after the colon"),
    "did not find expected '-' indicator": ("`- ` was expected here", "items of one list begin in the same column"),
    "did not find expected ',' or '}'": ("`,` or `}` was expected here", "the mapping that `{` opened is not closed"),
    "did not find expected ',' or ']'": ("`,` or `]` was expected here", "the list that `[` opened is not closed"),
    "did not find expected node content": ("a value was expected here", ""),
    "found unknown escape character": (
        "an unknown escape",
        r"inside double quotes \ begins an escape; single quotes take it literally",
    ),
    "did not find expected <document start>": ("more text after the inventory's end", ""),
    "block sequence entries are not allowed in this context": (
        "a list item that cannot be here",
        "a list begins on the line after its key",
    ),
    "found undefined tag handle": ("tags are not supported", "text that begins with ! must be quoted"),
}
_IN_QUOTES = "found unexpected end of stream"


def explain_syntax(error: yaml.YAMLError, source: Source) -> InventoryError:
    """The parser's error as ours."""
    spot = getattr(error, "problem_mark", None)
    if spot is None:
        return InventoryError("not valid YAML", where=source.name)
    line, column = spot.line, spot.column
    text = source.line(line)
    indentation = text[: len(text) - len(text.lstrip())]
    if "\t" in indentation:
        mark = Mark(line, indentation.index("\t"))
        return source.error(mark, "a tab in the indentation; YAML is indented with spaces", hint="replace it by spaces")
    problem = str(getattr(error, "problem", "") or "not valid YAML")
    context = getattr(error, "context_mark", None)
    if problem == _IN_QUOTES and context is not None:
        return source.error(Mark(context.line, context.column), "quotes that are never closed")
    if problem.startswith("found character"):
        return _cannot_start(source, Mark(line, column), text[column:])
    words, hint = _WORDS.get(problem, (f"not valid YAML: {problem}", ""))
    if context is not None and context.line != line:
        words += f" (what it belongs to began on line {context.line + 1})"
    return source.error(Mark(line, column), words, hint=hint)


def _cannot_start(source: Source, mark: Mark, rest: str) -> InventoryError:
    character = rest[:1]
    if character == "\t":
        return source.error(mark, "a tab where YAML takes only spaces", hint="replace it by spaces")
    word = re.split(r"[\s,\]}]", rest, maxsplit=1)[0][:LONGEST_QUOTE]
    hint = f'put the text in quotes: "{printable(word)}"'
    return source.error(mark, f"text may not begin with {quote(character)} unless it is quoted", hint=hint)
