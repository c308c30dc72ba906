"""Peak memory of the featurize step, with few rows and with ten times as many in one shard."""

import multiprocessing
import resource
from pathlib import Path

from benchmarks.measure.qnli import Qnli
from trak_steps.config import Settings
from trak_steps.layout import Layout


def peaks(qnli: Qnli, counts: tuple[int, int]) -> dict[int, float]:
    """Peak resident megabytes of a process that featurizes so many rows, each in its own process."""
    trained = qnli.fine_tuned()
    found = {}
    for count in counts:
        run = f"benchmark-memory-{count}-{qnli.digest}"
        layout = qnli.prepared(run, count)
        checkpoints = layout.root / "checkpoints"
        if not checkpoints.exists():
            checkpoints.symlink_to((trained.root / "checkpoints").resolve())
        settings = qnli.settings(run, count, shard_size=count)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[count] = pool.apply(_featurize, (layout.root, settings.model_dump()))
    return found


def _featurize(root: Path, values: dict[str, object]) -> float:
    from trak_steps.steps import featurize

    featurize.run_train(Layout(root), Settings.model_validate(values), "0", 0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
