"""Keep a run's folder tidy, and one Snakemake at work in it."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.store.lock import holder, try_lock


def drop_empty(layout: Layout) -> None:
    """Remove the folders that Snakemake made for outputs of jobs which then failed."""
    for folder, _, _ in os.walk(layout.root, topdown=False):
        with suppress(OSError):  # one that holds something stays
            Path(folder).rmdir()


def drop_surplus(layout: Layout, parts: Mapping[str, Sequence[str]]) -> list[Path]:
    """Remove what models said that a plan no longer has; returns what.

    Args:
        layout: of the run.
        parts: the names of the parts that each plan of retraining has.
    """
    surplus = [
        path
        for plan, names in parts.items()
        for path in layout.retrained_parts(plan)
        if path.stem not in names
    ]
    for path in surplus:
        path.unlink()
    return surplus


def made_again(layout: Layout, jobs: Iterable[Any]) -> Iterator[str]:
    """The names of those of Snakemake's jobs that are to make what is there already.

    Args:
        layout: of the run.
        jobs: that are to run.
    """
    logs = layout.log("x").parent
    for job in jobs:
        if job.log and all(Path(str(output)).exists() for output in job.output):
            yield Path(str(job.log[0])).relative_to(logs).as_posix().removesuffix(".log")


@dataclass(frozen=True)
class Turn:
    """A Snakemake's turn to work on a run: from before it plans its jobs.

    Attributes:
        layout: of the run.
        before: who held the lock, and when it was last taken, before the plan was made.
        busy: whether it was held then.
    """

    layout: Layout
    before: tuple[int, str]
    busy: bool

    @classmethod
    def begin(cls, layout: Layout) -> "Turn":
        """Before the plan is made. Takes no lock: it may be a dry run."""
        lock = layout.lock("snakemake")
        return cls(layout, _taken(lock), _is_held(lock))

    @property
    def held_before(self) -> tuple[str, float]:
        """Who had the turn before, and since when, in seconds since 1970."""
        taken, process = self.before
        return process, taken / 1e9

    def take(self) -> int:
        """Take the run's lock, for as long as this process lives.

        Raises:
            TrakError: if another Snakemake works on the run, or did since the plan was made: what it
                made would be deleted and made again.
        """
        lock = self.layout.lock("snakemake")
        changed = _taken(lock) != self.before
        held = try_lock(lock)
        if held is None:
            raise TrakError(
                f"{self.layout.root}: another Snakemake works on this run (process {holder(lock)}); "
                "wait for it, or stop it and run this command again"
            )
        if self.busy or changed:
            os.close(held)
            raise TrakError(
                f"{self.layout.root}: another Snakemake worked on this run while this one planned; run "
                "this command again"
            )
        return held


def _taken(lock: Path) -> tuple[int, str]:
    try:
        return lock.stat().st_mtime_ns, holder(lock)
    except OSError:
        return 0, ""


def _is_held(lock: Path) -> bool:
    if not lock.exists():
        return False
    descriptor = try_lock(lock, sign=False)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False
