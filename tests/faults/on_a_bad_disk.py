"""Run every step of a finished run again on a disk that refuses, then on one that does not.

A program of its own, since limits and mounts are a process's: ``python on_a_bad_disk.py HOW RUN``.
HOW is ``limit`` (no file may grow beyond some bytes), ``full`` (RUN lies on a small file system,
which is filled up first) or ``read-only`` (its folder is mounted so).
"""

import contextlib
import gc
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from conftest import small_settings

from faults.damage import remove
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.steps.checkpoints import finetune
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.steps.features import featurize
from trak_steps.steps.kernels import kernel
from trak_steps.steps.scores import calibrate, gather, rank, score
from trak_steps.steps.summary import provenance, summarize
from trak_steps.store.artefact import check_artefact

SETTINGS = small_settings()
TARGETS = "validation"
TRIALS = 3
Step = Callable[[Layout], object]


def steps(run: Layout) -> list[tuple[Step, list[Path]]]:
    """Every step and what it writes."""
    states = [run.checkpoint("0-0.5"), run.checkpoint("0")]
    return [
        (lambda at: base_model.run(at, SETTINGS), [run.model]),
        (lambda at: prepare.run_train(at, SETTINGS), [run.train]),
        (lambda at: prepare.run_targets(at, SETTINGS, TARGETS), [run.targets(TARGETS)]),
        (lambda at: finetune.run(at, SETTINGS, 0), states),
        (lambda at: featurize.run_train(at, SETTINGS, "0", 1), [run.train_shard("0", "00001")]),
        (
            lambda at: featurize.run_targets(at, SETTINGS, "0", TARGETS),
            [run.target_features("0", TARGETS)],
        ),
        (lambda at: kernel.run(at, SETTINGS, "0"), [run.kernel("0")]),
        (lambda at: calibrate.run(at, SETTINGS), [run.calibration]),
        (
            lambda at: score.run(at, SETTINGS, TARGETS, 32),
            [run.score_part(TARGETS, "0-60.0-5")],
        ),
        (lambda at: gather.run(at, SETTINGS, TARGETS, 32), [run.scores(TARGETS)]),
        (lambda at: rank.run(at, SETTINGS, TARGETS), [run.top(TARGETS)]),
        (lambda at: summarize.run(at, SETTINGS), [run.summary]),
        (lambda at: provenance.run(at, SETTINGS), [run.provenance]),
    ]


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """No file grows beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def filled(folder: Path, free: int) -> Iterator[None]:
    """The file system has ``free`` bytes left, or a few more."""
    # Files that are deleted but still mapped would make room when they are let go.
    gc.collect()
    filler = folder / "filler"
    with filler.open("wb") as file:
        left = shutil.disk_usage(folder).free - free
        os.posix_fallocate(file.fileno(), 0, max(1, left))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder is mounted read-only."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def main(how: str, root: Path) -> None:
    """Exit with 1 and words if a step leaves anything behind, or does not recover."""
    run = Layout(root)
    tried = 0
    for step, paths in steps(run):
        contents = [check_artefact(path).content for path in paths]
        size = max(f.stat().st_size for path in paths for f in _files(path))
        room = sum(f.stat().st_size for path in paths for f in _files(path))
        for share in (0.1, 0.8) if how != "read-only" else (0.0,):
            refuse = {
                "limit": lambda share=share, size=size: limited(int(share * size)),
                "full": lambda share=share, room=room: filled(root.parent, int(share * room)),
                "read-only": lambda: read_only(root),
            }[how]
            words = ""
            # What is deleted but still mapped makes room when it is let go: then the disk was not full.
            for _ in range(TRIALS if how == "full" else 1):
                for path in (*paths, run.training("0")):
                    remove(path)
                words = _refused(step, run, refuse)
                if words:
                    break
                if [check_artefact(path).content for path in paths] != contents:
                    sys.exit(f"{paths[0]}: was taken for written, and is not what it was")
            else:
                sys.exit(f"{paths[0]}: was written all the same")
            tried += 1
            if "cannot be written" not in words:
                sys.exit(f"{paths[0]}: refused with other words: {words}")
            written = [path for path in paths if path.exists()]
            if len(written) == len(paths) or list(root.rglob(".*.tmp")):
                sys.exit(f"{paths[0]}: half a result is left: {written} {list(root.rglob('.*.tmp'))}")
            for path in written:
                check_artefact(path)
            step(Layout(run.root))
            if [check_artefact(path).content for path in paths] != contents:
                sys.exit(f"{paths[0]}: is another one after the disk recovered")
    print(f"{how}: {tried} refusals by {len(steps(run))} steps, nothing half-written")


def _refused(
    step: Step, run: Layout, refuse: Callable[[], contextlib.AbstractContextManager[None]]
) -> str:
    """What a step says that is refused; nothing if it is not."""
    with refuse():
        try:
            step(Layout(run.root))
        except TrakError as error:
            return str(error)
    return ""


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
