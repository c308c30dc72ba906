"""Progress for a user at a terminal and for a log file."""

import gc
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from trak_steps.console.printable import printable

T = TypeVar("T")
LOG_EVERY = 10.0


@contextmanager
def counter(total: int, label: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Show on standard error how far something has come; gives what to call with each step's size.

    A terminal gets a bar. A log file gets a line now and then, at least ten seconds apart.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, desc=label, unit=unit, dynamic_ncols=True) as bar:

            def advance_bar(count: int) -> None:
                bar.update(count)

            yield advance_bar
        return
    start = said = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if done and (now - said >= LOG_EVERY or done == total):
            left = (now - start) / done * (total - done)
            say(f"{label}: {done} of {total} ({unit}), {now - start:.0f} s, {left:.0f} s left")
            said = now

    yield advance


def progress(items: Iterable[T], *, total: int, label: str, unit: str) -> Iterator[T]:
    """Iterate over ``items`` and show how far it has come, as :func:`counter` does."""
    with counter(total, label, unit) as advance:
        for item in items:
            yield item
            advance(1)


def say(message: str) -> None:
    """Tell the user at the terminal, or the log, what the step is doing."""
    print(printable(message, keep="\n"), file=sys.stderr, flush=True)


def quiet_libraries() -> None:
    """Keep the bars of the libraries out of log files. To be called before they are imported."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")


@contextmanager
def imports_at_once() -> Iterator[None]:
    """Import libraries without looking through what they make for garbage, a tenth or more of the time.

    Nor is it looked through later: it lives as long as the command.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def use_threads(count: int) -> None:
    """Let the libraries that are imported from here on compute with so many threads.

    Unless OMP_NUM_THREADS is set, as the workflow does for each job.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        for library in ("OMP", "OPENBLAS", "MKL"):
            os.environ[f"{library}_NUM_THREADS"] = str(count)
