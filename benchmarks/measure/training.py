"""Models of a run retrained in several processes, each answer kept as it comes."""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import torch
import transformers

from benchmarks.measure import runs
from benchmarks.measure.answers import Model
from trak_steps.data.prepared import PreparedRows
from trak_steps.steps.evaluation.retrain import Retrainer

_of_this_process: list[tuple[Retrainer, int]] = []


@contextmanager
def processes(config: Path, count: int) -> Iterator[Executor]:
    """Processes of one thread that :func:`train` models of a run.

    An interruption ends them; each loses the model that it was training.
    """
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, spawn, initializer=_begin, initargs=(config,))
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def train(model: Model) -> None:
    """Train a model, unless it is known, and keep its answers in the folder that runs share."""
    retrainer, n = _of_this_process[0]
    retrainer.answers(model.kept(n), model.seed)


def _begin(config: Path) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    # Trainer prints losses, of every model.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    layout, settings = runs.opened(config)
    rows = PreparedRows.load(layout.train)
    _of_this_process[:] = [(Retrainer(layout, settings, rows), len(rows))]


def _end_with_parent() -> None:
    """One that is killed tells its processes nothing, and they would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
