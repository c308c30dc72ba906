"""How many train rows a shard has, where the settings do not say: minutes of work, on any machine."""

import math

from trak_steps.config.settings import FeatureSettings
from trak_steps.run.layout import Layout
from trak_steps.store.manifest import Manifest

# Parameters × tokens: some 40 minutes of one core for BERT-base (8,192 rows of 50 tokens), seconds of a
# GPU. A shard is one job, for all checkpoints of a training, and what an interruption may lose.
WORK = 4.0e13
# Powers of two, so that small changes of a data set's lengths move no boundary.
FEWEST, MOST = 2**8, 2**16
# Where the model step could not count: a base model.
PARAMETERS = 10**8


def rows_of_a_shard(parameters: int, tokens: float) -> int:
    """Rows of a shard, a power of two.

    Args:
        parameters: of the model.
        tokens: of a row, on average.
    """
    rows = WORK / (max(1, parameters) * max(1.0, tokens))
    return int(min(max(2 ** round(math.log2(rows)), FEWEST), MOST))


def shard_size(chosen: FeatureSettings, layout: Layout) -> int:
    """Rows of a shard of this run's train set.

    Neither the number of rows nor the machine decides it, so that a larger train set and another
    machine have the same shards.

    Raises:
        TrakError: if it is not set, and model or train set are not there yet.
    """
    if chosen.shard_size is not None:
        return chosen.shard_size
    model, train = Manifest.load(layout.model, "model"), Manifest.load(layout.train, "data")
    return rows_of_a_shard(model.details.get("parameters") or PARAMETERS, float(train.details["tokens"]))
