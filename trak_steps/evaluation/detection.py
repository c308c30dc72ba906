"""How well a number for each row finds the rows that are known to be wrong."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


@dataclass(frozen=True)
class Detection:
    """Of suspicion for n rows, some of which are wrong.

    Attributes:
        auc: the chance that a wrong row is more suspicious than a right one; 0.5 says nothing.
        precision: the share of wrong rows among the most suspicious, as many as are wrong.
        chance: the precision that random suspicion would have.
    """

    auc: float
    precision: float
    chance: float


def detection(suspicion: NDArray[np.floating], wrong: NDArray[np.bool_]) -> Detection | None:
    """AUC and precision of suspicion [n], the larger the more; none where all rows are right or wrong.

    Ties count half in both.
    """
    n, count = len(wrong), int(wrong.sum())
    if count in (0, n):
        return None
    ranks = rankdata(suspicion)
    auc = (ranks[wrong].sum() - count * (count + 1) / 2) / (count * (n - count))
    last = np.sort(suspicion)[n - count]
    above, tied = suspicion > last, suspicion == last
    share = (count - above.sum()) / tied.sum()
    hits = wrong[above].sum() + share * wrong[tied].sum()
    return Detection(float(auc), float(hits / count), count / n)
