"""Peak memory of a featurize job, with few rows and with ten times as many in the same shard."""

import multiprocessing
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure.qnli import Qnli
from trak_steps.config import Settings
from trak_steps.run.layout import Layout


def peaks(qnli: Qnli, counts: Sequence[int]) -> dict[int, float]:
    """Peak resident megabytes of the one job of runs of so many rows, all of them in one shard."""
    trained = qnli.fine_tuned()
    found = {}
    for count in counts:
        run = f"benchmark-memory-{count}-{qnli.digest}"
        layout = qnli.brought(run, count, trained.checkpoint("0"))
        settings = qnli.settings(run, count, trained.checkpoint("0"), shard_size=count)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[count] = pool.apply(_featurize, (layout.root, settings.model_dump()))
    return found


def _featurize(root: Path, values: dict[str, object]) -> float:
    from trak_steps.steps.features import featurize

    featurize.run_train(Layout(root), Settings.model_validate(values), "0", 0)
    # Not getrusage, whose peak a process takes over from the one that started it.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak
    return int(peak[1]) / 1024
