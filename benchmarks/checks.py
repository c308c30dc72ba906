"""What manifests and checks cost, as a share of the time of a job that featurizes.

    python benchmarks/checks.py [--rows QNLI.parquet] [--model FOLDER] [--count 2048]

Everything that exists only to know what an output is and whether it is whole is timed within the
job: digests of files, rows and code, manifests, comparisons, and waiting for the disk. Prints the
figures and writes ``benchmarks/results/checks.json``.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import typer

from benchmarks.features import MODEL
from benchmarks.measure.qnli import Qnli
from trak_steps.data import prepared
from trak_steps.run.layout import Layout
from trak_steps.steps.features import featurize
from trak_steps.steps.kernels import kernel
from trak_steps.store import atomic, tree, verified
from trak_steps.store.manifest import Manifest

RESULT = Path(__file__).parent / "results" / "checks.json"
# What is timed, in the modules that call it.
CHECKS: tuple[tuple[Any, str], ...] = (
    (featurize, "_check_inputs"),
    (featurize, "check_folder"),
    (prepared, "check_tree"),
    (prepared, "digest_inputs"),
    (kernel, "open_train_features"),
    (Manifest, "save"),
    (atomic, "flush"),
    (atomic, "_put_in_place"),
    (tree, "check_file"),
    (verified, "_fits"),
)


class Clock:
    """Seconds spent in some functions, a call within another counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._within = False

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            if self._within:
                return function(*arguments, **named)
            self._within, start = True, time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self._within = False
                self.seconds += time.perf_counter() - start

        return timed


@contextmanager
def timed_checks() -> Iterator[Clock]:
    """Time all checks that are made during the body."""
    clock = Clock()
    real = [(module, name, getattr(module, name)) for module, name in CHECKS]
    for module, name, function in real:
        setattr(module, name, clock.around(function))
    try:
        yield clock
    finally:
        for module, name, function in real:
            setattr(module, name, function)


def share(step: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a job, and the share of its checks."""
    with timed_checks() as clock:
        start = time.perf_counter()
        step()
        whole = time.perf_counter() - start
    return whole, clock.seconds / whole


def main(
    rows: Annotated[Path | None, typer.Option(help="Parquet file of QNLI's rows.")] = None,
    model: Annotated[str, typer.Option(help="Hub id or folder of a pretrained encoder.")] = MODEL,
    count: Annotated[int, typer.Option(help="Rows of the shard.")] = 2048,
) -> None:
    """Measure and write."""
    qnli = Qnli(rows, model)
    run = f"benchmark-checks-{count}-{qnli.digest}"
    checkpoint = qnli.fine_tuned().checkpoint("0")
    layout: Layout = qnli.brought(run, count, checkpoint)
    settings = qnli.settings(run, count, checkpoint, shard_size=count)
    seconds, of_features = share(lambda: featurize.run_train(layout, settings, "0", 0))
    kernel_seconds, of_kernel = share(lambda: kernel.run(layout, settings, "0"))
    figures = {
        "rows": count,
        "featurize_seconds": round(seconds, 1),
        "checks_share_of_featurize": round(of_features, 4),
        "kernel_seconds": round(kernel_seconds, 2),
        "checks_share_of_kernel": round(of_kernel, 4),
        "checks_of_both_over_featurize": round(
            (of_features * seconds + of_kernel * kernel_seconds) / seconds, 4
        ),
    }
    RESULT.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    typer.run(main)
