"""What can be removed from a run, or from the answers of retrained models that runs share."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from trak_steps.audit.find import find
from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout, training_of
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.atomic import abandoned
from trak_steps.store.lock import holder, try_lock
from trak_steps.store.retrained import ANSWERS
from trak_steps.store.table import load_table
from trak_steps.store.tree import is_there


@dataclass(frozen=True)
class Removable:
    """Something that nothing needs.

    Attributes:
        path: a file or a folder.
        why: it is not needed.
    """

    path: Path
    why: str

    @property
    def size(self) -> int:
        """Bytes that its removal frees."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.lstat().st_size for file in files if not file.is_dir())


def removable(layout: Layout, settings: Settings | None = None) -> list[Removable]:
    """What a run can do without: what its settings do not ask for, and what was left unfinished.

    Args:
        layout: of the run.
        settings: of the run, where known; otherwise its last complete run tells what is wanted.

    Raises:
        TrakError: if there is no run.
    """
    run = find(layout, settings)
    found = [Removable(path, f"not asked for by {run.known}") for path in run.surplus]
    found += [Removable(path, "left by a killed writer") for path in abandoned(layout.root)]
    checkpoints = [path for path in run.wanted if path.parent == layout.checkpoint("x").parent]
    needed = {training_of(path.name) for path in checkpoints if not is_there(path)}
    for path in sorted(layout.training("x").parent.glob("*")):
        if path.name not in needed:
            found.append(Removable(path, "an unfinished training that no wanted checkpoint needs"))
    return [*found, *_empty(layout.root, {one.path for one in found})]


def unused_answers(folder: Path) -> list[Removable]:
    """Answers in ``results/_retrained`` that no run beside it uses.

    Which a run uses is recorded in its parts of ``evaluation/retrained``.

    Raises:
        TrakError: if a run's are not known: its evaluation is not finished, or was made by an earlier
            version.
    """
    used: set[str] = set()
    for root in sorted(path for path in folder.parent.iterdir() if path.is_dir() and path != folder):
        used |= _used_by(Layout(root))
    found = [path for path in sorted(folder.glob("*/*.json")) if _name(path) not in used]
    listed = [Removable(path, "used by no run") for path in found]
    listed += [Removable(path, "left by a killed writer") for path in abandoned(folder)]
    return [*listed, *_empty(folder, {one.path for one in listed})]


def remove(found: list[Removable], root: Path) -> None:
    """Remove what was found in a run, or in the answers that all runs share.

    Raises:
        TrakError: if a Snakemake works on that run, or on one that shares the answers.
    """
    shared = root == Layout(root).retrained_models
    with ExitStack() as stack:
        for run in root.parent.iterdir() if shared else [root]:
            lock = Layout(run).lock("snakemake")
            if not lock.exists():
                continue
            held = try_lock(lock)
            if held is None:
                raise TrakError(f"{run}: Snakemake works on it (process {holder(lock)}); wait for it")
            stack.callback(os.close, held)
        for one in found:
            if one.path.is_dir() and not one.path.is_symlink():
                shutil.rmtree(one.path)
            else:
                one.path.unlink(missing_ok=True)
        for empty in list(_empty(root, set())):
            shutil.rmtree(empty.path)


def _used_by(layout: Layout) -> set[str]:
    used: set[str] = set()
    for plan in ("subsets", "removal"):
        if not layout.plan(plan).exists():
            continue
        models = load_table(layout.plan(plan), "plan")[0].num_rows
        of_parts = [artefact_manifest(path, "retrained") for path in layout.retrained_parts(plan)]
        if sum(part.details["stop"] - part.details["start"] for part in of_parts) < models:
            raise TrakError(
                f"{layout.plan(plan)}: not all of its models were retrained, so which answers they use "
                "is not known; finish that evaluation, or delete the plan"
            )
        for path, part in zip(layout.retrained_parts(plan), of_parts, strict=True):
            if ANSWERS not in part.details:
                raise TrakError(
                    f"{path}: does not say which answers it uses; delete it and run the evaluation "
                    "again, which trains nothing"
                )
            used |= set(part.details[ANSWERS])
    return used


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _empty(root: Path, removed: set[Path]) -> Iterator[Removable]:
    """The topmost folders that hold nothing beside what is removed."""
    for path in sorted(root.iterdir()):
        if path in removed or path.name.startswith(".") or path.is_symlink() or not path.is_dir():
            continue
        if all(file.is_dir() for file in path.rglob("*")) and not any(
            one.is_relative_to(path) for one in removed
        ):
            yield Removable(path, "empty")
        else:
            yield from _empty(path, removed)
