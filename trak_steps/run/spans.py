"""The parts of the train set that sums are taken over, and wrong labels looked for in, a job each.

There are none where one job takes less than an hour or so: of a core, as in :mod:`.tiles`.
"""

import re
from dataclasses import dataclass

from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.run.identity import rows_are_weighted
from trak_steps.run.layout import Layout, checkpoint_names
from trak_steps.run.shards import shard_size
from trak_steps.store.manifest import Manifest

# Multiplications in float64: of one core in an hour, about, and in some ten minutes.
MOST = 1.0e14
WORK = 2.0e13
# So many take as long as reading a number, with the digest of the file that it is in.
READ = 128
# Passes over the features in which wrong labels are looked for.
PASSES = 3
# Scores of so few suspects take no less time.
FEW_SUSPECTS = 256
_NAME = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class Span:
    """Some train rows, by their places: from the first to one past the last."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        """``<start>-<stop>``."""
        return f"{self.start}-{self.stop}"

    def __len__(self) -> int:
        return self.stop - self.start

    @classmethod
    def named(cls, name: str) -> "Span":
        """The part of this name. Raises TrakError if it is none."""
        found = _NAME.fullmatch(name)
        if not found:
            raise TrakError(f"{name}: is no part of the train set, such as 0-2304")
        return cls(*map(int, found.groups()))

    @classmethod
    def planned(cls, name: str, spans: "list[Span]") -> "Span":
        """The same, of those that are planned. Raises TrakError if it is none of them."""
        found = cls.named(name)
        if found not in spans:
            known = ", ".join(span.name for span in spans) or "all in one"
            raise TrakError(f"{name}: is no part of the train set with these settings, but {known}")
        return found


def kernel_spans(settings: Settings, layout: Layout, n: int) -> list[Span]:
    """The parts of n train rows that a job sums kernels over; none where one job sums over all.

    Raises:
        TrakError: if there are parts, and the size of shards is not known yet.
    """
    return _several(settings, layout, n, _of_a_job(settings) * (settings.features.dim + READ))


def weighted_spans(settings: Settings, layout: Layout, n: int) -> list[Span]:
    """The parts that a job sums features over, weighted as scores are; none where ``calibrate`` does.

    Raises:
        TrakError: as above.
    """
    if not rows_are_weighted(settings):
        return []
    numbers = settings.features.dim * len(checkpoint_names(settings.checkpoints))
    return _several(settings, layout, n, numbers * READ)


def suspects_in_parts(settings: Settings, n: int) -> bool:
    """Whether wrong labels are looked for in parts of n train rows."""
    return _too_many(settings, n, _of_suspects(settings))


def support_spans(settings: Settings, layout: Layout, n: int) -> list[Span]:
    """The parts of n train rows that a job holds against their classes, by a training's checkpoints.

    None where all that is done to find wrong labels is one job, or labels are numbers to regress on.

    Raises:
        TrakError: as above.
    """
    if not suspects_in_parts(settings, n) or _labels_are_numbers(layout):
        return []
    return _spans(settings, layout, n, _of_a_job(settings) * (settings.features.dim / 2 + READ))


def suspect_spans(settings: Settings, layout: Layout, n: int) -> list[Span]:
    """The parts that a job reads the features of by all checkpoints, for :func:`support_spans`.

    Raises:
        TrakError: as above.
    """
    if not suspects_in_parts(settings, n) or _labels_are_numbers(layout):
        return []
    numbers = settings.features.dim * len(checkpoint_names(settings.checkpoints))
    return _spans(settings, layout, n, numbers * max(FEW_SUSPECTS, settings.evaluation.suspects))


def _labels_are_numbers(layout: Layout) -> bool:
    """Whether the train rows are known to have no classes: before they are prepared, they are not."""
    try:
        return not Manifest.load(layout.train, "data").details["label_names"]
    except (TrakError, KeyError):
        return False


def _of_a_job(settings: Settings) -> int:
    """Numbers of a row's features by all checkpoints of a job."""
    kept = 1 if settings.checkpoints.existing else len(settings.checkpoints.keep)
    return kept * settings.features.dim


def _of_suspects(settings: Settings) -> float:
    """Multiplications of a row, in one job that looks for wrong labels; those in float32 count half."""
    numbers = settings.features.dim * len(checkpoint_names(settings.checkpoints))
    return numbers * (settings.features.dim / 2 + PASSES * READ + settings.evaluation.suspects / 2)


def _too_many(settings: Settings, n: int, of_row: float) -> bool:
    chosen = settings.execution.rows_per_job
    return n * of_row > MOST if chosen is None else chosen < n


def _several(settings: Settings, layout: Layout, n: int, of_row: float) -> list[Span]:
    """The parts where there are more than one; none where one job takes all rows."""
    found = _spans(settings, layout, n, of_row) if _too_many(settings, n, of_row) else []
    return found if len(found) > 1 else []


def _spans(settings: Settings, layout: Layout, n: int, of_row: float) -> list[Span]:
    rows = settings.execution.rows_per_job or int(WORK / of_row)
    shard = shard_size(settings.features, layout)
    rows = max(1, rows // shard) * shard
    return [Span(start, min(start + rows, n)) for start in range(0, n, rows)]
