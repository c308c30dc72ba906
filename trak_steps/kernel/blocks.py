"""From memory to block sizes: how many train rows or targets a computation may hold at once.

What each computation holds at its peak was counted from its code, in bytes. Steps ask here for the size
of their blocks, the settings whether they can work at all, and the workflow for a job's memory, so
nothing heavy is imported. Letters as everywhere: t targets, k dimensions, m checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass

SINGLE, DOUBLE = 4, 8
# Rows of a block beyond which nothing is gained.
MOST_ROWS = 4096
# The same where a pass holds more of each row, or is made over and over.
FEW_ROWS = 1024
# Fewer rows a block would cost far more time than the memory is worth.
FEWEST_ROWS = 64
# Targets that are held in float64 at once, while they are solved for.
SOLVED_AT_ONCE = 1024
# Targets that a block of rows is scored for at once: what is made of them stays near the processor.
SCORED_AT_ONCE = 512
# Targets at once by all threads.
IN_WORK = 1024
# Targets of a chunk, where every score is kept: of many targets at once, whole ones.
WHOLE_TARGETS = 128
# Bytes of a target while scores stream by: what ranks are found by, its lists and what waits for them.
STREAMED = 2 * 8 * 1408 + 2 * 3 * 32 * 40
# Train rows by which the unit of scores is found: targets of their own, before the others.
CALIBRATED = 256
# The first targets, of which it is found what chance would list.
OF_CHANCE = 64
# Of a number of a row that is read: as it is stored, in order, in a copy where a block spans two shards,
# and whether it is finite.
READ = 3 * SINGLE + 1
# Rows of a kernel that are written at once, as `store/kernel.py` does.
WRITTEN_ROWS = 1024


@dataclass(frozen=True)
class Cost:
    """The bytes that a computation holds, block by block.

    Attributes:
        each: for every row, or target, of a block.
        fixed: beside a block.
        apart: before the first block or after the last, at most.
        most: rows, or targets, of a block beyond which nothing is gained.
        fewest: below which the computation is not begun.
    """

    each: int
    fixed: int = 0
    apart: int = 0
    most: int = MOST_ROWS
    fewest: int = FEWEST_ROWS

    def peak(self, count: int) -> int:
        """Bytes, with blocks of ``count``."""
        return max(self.apart, self.fixed + self.each * count)

    @property
    def least(self) -> int:
        """The bytes without which the computation is not begun."""
        return self.peak(self.fewest)

    def at_once(self, memory: int) -> int:
        """The rows, or targets, of a block that ``memory`` bytes allow: from one to ``most``."""
        return max(1, min(self.most, (memory - self.fixed) // self.each))

    def within(self, memory: int, count: int) -> int:
        """Bytes at the peak, of ``count`` rows or targets in blocks as ``memory`` bytes allow them."""
        return self.peak(min(self.at_once(memory), count))


def kernel(k: int) -> Cost:
    """Of summing K over train rows; then of finding its ridge and its factor, and writing both."""
    matrix = DOUBLE * k * k
    # In order, encoded and on their way to the disk.
    writing = 3 * DOUBLE * k * min(k, WRITTEN_ROWS)
    return Cost(each=(READ + SINGLE) * k, fixed=matrix, apart=2 * matrix + writing)


def scores(t: int, k: int, m: int) -> Cost:
    """Of scoring train rows for targets, with their spread; before, of solving for the targets."""
    matrix, solved = DOUBLE * k * k, SINGLE * t * k * m
    # A kernel or its factor is read, or copied, beside the targets of a checkpoint and some in float64.
    most = max(t, CALIBRATED)
    solving = 2 * matrix + SINGLE * most * k + 3 * DOUBLE * k * min(most, SOLVED_AT_ONCE)
    # Of a score: the product, the mean and its squares, a step; six arrays more while ranks are counted.
    pair = 10 * SINGLE
    # Of a score that is kept, with its spread: as it waits for a whole chunk, that chunk, and encoded.
    kept = 6 * SINGLE
    # This block, the next and the one before it.
    each = 3 * SINGLE * k * m + READ * k + pair * min(t, IN_WORK) + kept * t
    return Cost(
        each=each,
        fixed=solved + STREAMED * t,
        apart=max(solved, SINGLE * CALIBRATED * k * m) + solving,
        most=FEW_ROWS,
    )


def scores_by_training(t: int, k: int, m: int, trainings: int) -> Cost:
    """Of scoring as :func:`scores` does, by each training on its own.

    Every training's scores are held twice: a block is made before the one before it is let go.
    """
    of_all = scores(t, k, m)
    each = 3 * SINGLE * k * m + READ * k + t * (4 * SINGLE + 2 * SINGLE * trainings)
    return Cost(each=each, fixed=of_all.fixed, apart=of_all.apart, most=FEW_ROWS)


def targets_at_once(memory: int, most: int, cost: Callable[[int], Cost]) -> int:
    """The targets, at most ``most`` and at least one, for which ``memory`` bytes allow a computation.

    Args:
        memory: bytes.
        most: targets.
        cost: of the computation, by targets.
    """
    t = most
    while t > 1 and cost(t).least > memory:
        t //= 2
    if t == most or t < WHOLE_TARGETS:
        return max(t, 1)
    return t - t % WHOLE_TARGETS


def standing(classes: int, k: int) -> Cost:
    """Of what every train row is to its class, by one checkpoint (:mod:`~.evaluation.suspicion`)."""
    matrix, of_classes = DOUBLE * k * k, 2 * DOUBLE * classes * k
    # A row's features, in float64, solved for half way, and the squares of that.
    each = (READ + 3 * DOUBLE) * k
    return Cost(each=each, fixed=matrix + of_classes, apart=2 * matrix + of_classes, most=FEW_ROWS)


def subset_sums(k: int) -> Cost:
    """Of adding up train rows over subsets: features, in float64, and of unit length."""
    return Cost(each=(READ + 3 * DOUBLE) * k, most=FEW_ROWS)


def solved_targets(k: int) -> Cost:
    """Of targets, in float64: six arrays, from what is solved for to what is balanced."""
    return Cost(each=6 * DOUBLE * k, most=SOLVED_AT_ONCE, fewest=1)


def predicted_targets(ways: int, s: int, r: int, k: int, m: int) -> Cost:
    """Of targets, by what ways of scoring predict for s subsets, and r trainings on each say."""
    # Beside what is predicted: one way, adjusted, ranked and as scipy ranks; what trainings say, too.
    each = DOUBLE * s * (ways + 8 + 3 * r) + SINGLE * k * (2 * m + 1)
    return Cost(each=each, fixed=DOUBLE * s * k * m, most=2**20, fewest=1)


def widest(memory: int, m: int) -> int:
    """The largest k whose kernels, and scores of a target by m checkpoints, fit; none is 0."""
    low, high = 0, 2**20
    while low < high:
        middle = (low + high + 1) // 2
        if needed(middle, m) <= memory:
            low = middle
        else:
            high = middle - 1
    return low


def needed(k: int, m: int) -> int:
    """The bytes without which kernels, or scores of a single target at a time, cannot be made."""
    return max(kernel(k).least, scores(1, k, m).least)
