"""Plain tables that fit a width: for reports on standard output, in files and in pipes.

It deliberately draws no lines: columns are told apart by two blanks, so that ``awk`` and eyes both manage.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

_GAP = 2
_LEAST = 6
"""Columns a shrunk column keeps."""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; numbers are set flush right, and ``gives`` columns shrink first when there is no room.

    A column with a ``least`` width is there even when it is empty, so that a table that is redrawn does not jump.
    """

    title: str
    right: bool = False
    gives: bool = False
    least: int = 0
    tail: bool = False
    """What matters is the end: a path that must be cut loses its beginning."""


def columns_text(columns: Sequence[Column], rows: Sequence[Sequence[Text | str]], width: int) -> Text:
    """The table, one line a row; columns that are empty in every row are left out."""
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    kept = [i for i in range(len(columns)) if columns[i].least or any(row[i].plain for row in cells)]
    columns = [columns[i] for i in kept]
    cells = [[row[i] for i in kept] for row in cells]
    if not columns:
        return Text()
    sizes = [
        max(column.least, cell_len(column.title), *(cell_len(row[i].plain) for row in cells))
        for i, column in enumerate(columns)
    ]
    sizes = _fitted(sizes, columns, width)
    lines = [_line([Text(c.title, style="dim") for c in columns], sizes, columns)]
    lines += [_line(row, sizes, columns) for row in cells]
    return Text("\n").join(lines)


def _fitted(sizes: list[int], columns: Sequence[Column], width: int) -> list[int]:
    over = sum(sizes) + _GAP * (len(sizes) - 1) - width
    order = sorted(range(len(sizes)), key=lambda i: (not columns[i].gives, -sizes[i]))
    for index in order:
        if over <= 0:
            break
        give = min(over, max(0, sizes[index] - max(_LEAST, cell_len(columns[index].title))))
        sizes[index] -= give
        over -= give
    return sizes


def _line(cells: Sequence[Text], sizes: Sequence[int], columns: Sequence[Column]) -> Text:
    line = Text()
    for index, (cell, size, column) in enumerate(zip(cells, sizes, columns, strict=True)):
        if index:
            line.append(" " * _GAP)
        shown = _cut(cell, size, tail=column.tail)
        padding = " " * (size - cell_len(shown.plain))
        line.append_text(Text.assemble(padding, shown) if column.right else Text.assemble(shown, padding))
    line.rstrip()
    return line


def _cut(cell: Text, size: int, *, tail: bool) -> Text:
    if cell_len(cell.plain) <= size:
        return cell
    if tail:
        short = set_cell_size(cell.plain[::-1], size - 1)[::-1].lstrip()
        return Text(f"…{short}", style=cell.style)
    short = set_cell_size(cell.plain, size - 1).rstrip()
    return Text(f"{short}…", style=cell.style)
