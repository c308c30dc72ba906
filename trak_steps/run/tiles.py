"""The parts that a target set is scored in: some train rows for some targets each, a job each."""

import re
from dataclasses import dataclass

from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout, checkpoint_names
from trak_steps.run.shards import shard_size

# Multiplications of a part: some ten minutes of one core. What is the same for all rows, solving for the
# targets, is done in every part, and is little beside it.
WORK = 2.0e13
# Of so few targets the time goes into reading features.
FEW_TARGETS = 256
MOST_TARGETS = 8192
_NAME = re.compile(r"(\d+)-(\d+)\.(\d+)-(\d+)")


@dataclass(frozen=True)
class Tile:
    """Some train rows and some targets, by their places: from the first to one past the last."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def name(self) -> str:
        """``<start>-<stop>.<first>-<last>``: rows, then targets."""
        return f"{self.start}-{self.stop}.{self.first}-{self.last}"

    @classmethod
    def named(cls, name: str) -> "Tile":
        """The part of this name. Raises TrakError if it is none."""
        found = _NAME.fullmatch(name)
        if not found:
            raise TrakError(f"{name}: is no part of scores, such as 0-2304.0-100")
        return cls(*map(int, found.groups()))


def tiles(settings: Settings, layout: Layout, n: int, t: int) -> list[Tile]:
    """The parts of n train rows and t targets, those of the same targets together.

    Raises:
        TrakError: if the size of shards is not known yet.
    """
    chosen = settings.scores
    targets = chosen.targets_per_job or MOST_TARGETS
    numbers = settings.features.dim * len(checkpoint_names(settings.checkpoints))
    rows = chosen.rows_per_job or int(WORK / (max(FEW_TARGETS, min(t, targets)) * numbers))
    shard = shard_size(settings.features, layout)
    rows = max(1, rows // shard) * shard
    return [
        Tile(start, min(start + rows, n), first, min(first + targets, t))
        for first in range(0, t, targets)
        for start in range(0, n, rows)
    ]
