"""What a run is made from, as the workflow asks: local files, and the contents of prepared rows.

Local files are inputs of the workflow, so that editing one reruns what is made from it. Of prepared
rows the workflow wants to know not when they were written, but what they are: a set that was
prepared anew and begins with the same rows makes nothing run again for those.
"""

import json
from functools import lru_cache
from pathlib import Path

from trak_steps.config import Settings
from trak_steps.config.settings import DEMO
from trak_steps.data.patterns import BUILDERS, files_named, local_folder
from trak_steps.errors import TrakError
from trak_steps.model.files import ADAPTER_CONFIG, COPIED, OPTIMIZER, TRAINER_STATE, tokenizer_files
from trak_steps.run.layout import Layout, imported
from trak_steps.run.lineage import Lineage
from trak_steps.store.tree import MANIFEST, digest_file


def local_files(settings: Settings, split: str) -> list[str]:
    """The local files that a split is read from; what is not there yet is left out."""
    dataset = settings.dataset
    named = dataset.data_files or {}
    # `train[:100]` or `train+validation` is made of the files of some splits, so all count.
    groups = [named[split]] if split in named else list(named.values())
    patterns = [p for group in groups for p in ([group] if isinstance(group, str) else group)]
    files = {file for pattern in patterns for file in files_named(pattern)}
    return sorted(files | set(_files_below(dataset.path)))


def base_files(settings: Settings) -> list[str]:
    """The local files that the model to fine-tune is made from."""
    name = settings.model.name_or_path
    for first in imported(settings.checkpoints).values():
        base = [] if name == DEMO else local_model(name)
        return sorted({*local_model(first), *_tokenizer_above(first), *base})
    if name == DEMO:  # its vocabulary is that of the train texts
        return local_files(settings, settings.dataset.train_split)
    return local_model(name)


def _tokenizer_above(named: str) -> list[str]:
    """The files of a tokenizer in the folder that a checkpoint's folder is in."""
    try:
        folder = Path(named).expanduser()
        return [str(file) for file in tokenizer_files(folder.parent)] if folder.is_dir() else []
    except (OSError, RuntimeError):  # too long a name, or no such home: the step says so
        return []


def imported_files(named: str) -> list[str]:
    """The local files that a checkpoint is imported from: the optimizer's, too."""
    files = local_model(named)
    optimizer = Path(named).expanduser() / OPTIMIZER if files else None
    return sorted([*files, str(optimizer)]) if optimizer and optimizer.is_file() else files


def local_model(name_or_path: str) -> list[str]:
    """The files of a model's folder, and of the folder that an adapter adapts; none for a hub id."""
    try:
        folder = Path(name_or_path).expanduser()
        if not folder.is_dir():
            return []
        found = {file for pattern in COPIED for file in folder.glob(pattern) if file.is_file()}
        files = {str(file) for file in found if file.name != TRAINER_STATE}
        adapter = folder / ADAPTER_CONFIG
        base = json.loads(adapter.read_bytes()) if adapter.is_file() else None
    except (OSError, RuntimeError, ValueError):  # no such home, or damaged: the step says so
        return []
    named = base.get("base_model_name_or_path") if isinstance(base, dict) else None
    if isinstance(named, str) and named != name_or_path:
        below = Path(named)
        if below.is_dir() and not (below / ADAPTER_CONFIG).is_file():
            files |= set(local_model(named))
    return sorted(files)


def _files_below(path: str) -> list[str]:
    """The files of a data set that is a local folder."""
    try:
        folder = local_folder(path)
        return [str(file) for file in folder.rglob("*") if file.is_file()] if folder else []
    except OSError:
        return []


def downloading(settings: Settings) -> set[str]:
    """The steps that may fetch something from the hub, which they do where the workflow is started.

    The nodes of a cluster seldom reach the internet.
    """
    dataset, named = settings.dataset, settings.model.name_or_path
    files = str(dataset.data_files or "")
    rows = "://" in files or not (dataset.path in BUILDERS or local_folder(dataset.path))
    steps = {"prepare", "prepare-targets"} if rows else set()
    existing = list(imported(settings.checkpoints).values())
    if any(_of_hub(source) for source in existing):
        steps |= {"model", "import-checkpoint"}
    if _of_hub(named) if named != DEMO else rows and not existing:
        steps.add("model")
    return steps


def _of_hub(named: str) -> bool:
    """Whether a model is no folder here, or adapts one that is none."""
    try:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            return True
        adapter = folder / ADAPTER_CONFIG
        base = json.loads(adapter.read_bytes()) if adapter.is_file() else {}
        of = base.get("base_model_name_or_path") if isinstance(base, dict) else None
        return isinstance(of, str) and not Path(of).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # the step says what is wrong
        return False


def known(layout: Layout, name: str) -> str:
    """The content of a folder of the run, or of a part of it, as manifests name them.

    Empty if it is not there yet, and the workflow asks again once it is. Steps check.

    Args:
        layout: of the run.
        name: see :mod:`trak_steps.run.lineage`.
    """
    try:
        return _lineage(layout, name.partition("#")[0]).content(name) or ""
    except (OSError, TrakError):
        return ""


def known_count(layout: Layout, folder: Path, detail: str) -> int | None:
    """A number in the details of a folder's manifest: its ``rows``, or its model's ``parameters``."""
    name = layout.name(folder)
    try:
        manifest = _lineage(layout, name).manifest(name)
    except (OSError, TrakError):
        return None
    found = manifest.details.get(detail) if manifest else None
    return found if type(found) is int else None


def known_seal(folder: Path) -> str:
    """A digest of a folder's manifest: another if anything about it is; empty as above."""
    try:
        return digest_file(folder / MANIFEST)
    except OSError:
        return ""


def known_file(path: Path) -> str:
    """A digest of a file's bytes; empty if it is not there."""
    try:
        return digest_file(path)
    except OSError:
        return ""


def _lineage(layout: Layout, name: str) -> Lineage:
    return _read(layout, name, (layout.root / name / MANIFEST).stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _read(layout: Layout, name: str, changed: int) -> Lineage:  # noqa: ARG001 - what makes it read again
    return Lineage(layout)
