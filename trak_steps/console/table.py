"""Numbers and rows as a person reads them."""

from collections.abc import Collection, Iterator, Sequence

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def aligned(rows: Sequence[tuple[str, ...]], left: Collection[int] = (0,)) -> Iterator[str]:
    """Rows in columns; a row of fewer cells than the first stands as it is, behind its first.

    Args:
        rows: the first are the columns' names.
        left: which columns stand to the left; the others are numbers.
    """
    columns = len(rows[0])
    whole = [row for row in rows if len(row) == columns]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    widths[0] = max(len(row[0]) for row in rows)
    for row in rows:
        if len(row) == columns:
            sides = enumerate(zip(row, widths, strict=True))
            cells = [cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in sides]
        else:
            cells = [row[0].ljust(widths[0]), *row[1:]]
        yield "  ".join(cells).rstrip()


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``42 s``, ``12 min``, ``3 h 05 min``, ``12 days``."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 100 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{round(minutes / 60 / 24):,} days"


def size(count: float) -> str:
    """Bytes as a person says them: ``12 MB``, ``1.5 GB``."""
    for unit in UNITS:
        if count < 999.5 or unit == UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if count >= 9.95 or unit == "B" else f"{count:.1f} {unit}"
