"""Progress bars that read well in a terminal and in a log file."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], *, total: int, label: str, unit: str) -> Iterator[T]:
    """Iterate over ``items`` and show how far it has come, on standard error.

    A log file gets a line every ten seconds instead of a line that redraws itself.
    """
    terminal = sys.stderr.isatty()
    yield from tqdm(
        items,
        total=total,
        desc=label,
        unit=unit,
        mininterval=0.2 if terminal else 10.0,
        dynamic_ncols=terminal,
        ascii=not terminal,
    )


def say(message: str) -> None:
    """Tell the person at the terminal, or the log, what the step is doing."""
    print(message, file=sys.stderr, flush=True)
