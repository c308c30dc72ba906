"""What the settings weigh train rows by. Apart from :mod:`.parts`, which does without torch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.run.identity import rows_are_weighted
from trak_steps.scoring.scores import row_weights
from trak_steps.store.features import TrainFeatures


def row_weights_of(settings: Settings, features: Sequence[TrainFeatures]) -> Tensor | None:
    """What each checkpoint's part in the scores of the train rows is multiplied by, [m, n].

    None if all are 1.
    """
    if not rows_are_weighted(settings):
        return None
    return row_weights(
        torch.from_numpy(np.stack([of_train.column("loss_weight") for of_train in features])),
        settings.scores.loss_weight_power,
        own=settings.scores.loss_weight == "own",
    )
