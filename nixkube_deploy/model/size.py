"""Bytes as people say them. Parsing what people write is the inventory's business."""

_STEP = 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_EXACT = 9.95
"""From here on a digit behind the point says nothing any more."""


def size_text(size: int) -> str:
    """``0 B``, ``9.8 KiB``, ``34 MiB``, ``1.3 GiB``; negative sizes have a minus."""
    value, unit = float(abs(size)), 0
    while round(value) >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    number = f"{value:.1f}" if unit and value < _EXACT else f"{value:.0f}"
    return f"{'-' if size < 0 else ''}{number} {_UNITS[unit]}"


def growth_text(delta: int) -> str:
    """The same with a plus for what grows; ``0 B`` has no sign."""
    return f"+{size_text(delta)}" if delta > 0 else size_text(delta)


def told_apart(*sizes: int) -> tuple[str, ...]:
    """The sizes in words; to the byte where words do not tell different ones apart."""
    texts = tuple(map(size_text, sizes))
    return texts if len(set(texts)) == len(set(sizes)) else tuple(f"{size:,} B" for size in sizes)
