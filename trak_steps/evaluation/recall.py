"""How many of a target's top proponents are rows known to belong with it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Recall:
    """Averaged over the targets that have train rows of their own group.

    Attributes:
        recall: share of the target's group found among its top rows, of what the top can hold.
        chance: what random rows would find, on average.
        targets: how many targets were averaged.
    """

    recall: float
    chance: float
    targets: int


def group_recall(
    top_groups: NDArray[np.object_],
    target_groups: NDArray[np.object_],
    train_groups: NDArray[np.object_],
) -> Recall | None:
    """Recall of the target's own group among its top proponents.

    For a target whose group has G rows among n, r top rows of which h are of its group give
    h / min(r, G); random rows give (r·G/n) / min(r, G).

    Returns:
        None where no target has a train row of its group.

    Args:
        top_groups: the groups of each target's top rows, [t, r].
        target_groups: [t]; an empty one is unknown, and its target left out.
        train_groups: [n].
    """
    names, counts = np.unique(train_groups, return_counts=True)
    size = dict(zip(names, counts, strict=True))
    group_sizes = np.array([size.get(group, 0) if group else 0 for group in target_groups])
    known = group_sizes > 0
    if not known.any():
        return None
    top = top_groups.shape[1]
    hits = (top_groups == target_groups[:, None]).sum(1)[known]
    possible = np.minimum(top, group_sizes[known])
    expected = top * group_sizes[known] / len(train_groups)
    return Recall(float(np.mean(hits / possible)), float(np.mean(expected / possible)), int(known.sum()))
