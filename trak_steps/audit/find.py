"""What a run holds, and what it should hold, as far as its own outputs tell."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout, checkpoint_names, planned_models, shard_names
from trak_steps.run.shards import shard_size
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.document import load_document
from trak_steps.store.manifest import Manifest
from trak_steps.store.tree import is_there


def present(layout: Layout) -> list[Path]:
    """Every output of a run that is there, wanted or not."""
    return [*_there(layout), *layout.evaluations()]


@dataclass(frozen=True)
class Wanted:
    """What a run is to hold.

    Attributes:
        outputs: of the pipeline.
        known: who says so: the settings, the last complete run or, without either, what is there.
        since: the time of the last complete run's record: what was made later is wanted too.
        parts: of each plan of retraining, the names of its parts; none if the settings are not known.
    """

    outputs: tuple[Path, ...]
    known: str
    since: float
    parts: Mapping[str, Sequence[str]] | None = None

    def is_surplus(self, layout: Layout, path: Path) -> bool:
        """Whether an output that is there is not wanted."""
        if path.is_relative_to(layout.evaluation):
            return self.parts is not None and path not in self._of_plans(layout) and _of_a_plan(path)
        return path not in self.outputs and path.stat().st_mtime < self.since

    def _of_plans(self, layout: Layout) -> set[Path]:
        plans = self.parts or {}
        answers = {layout.retrained(plan, name) for plan, names in plans.items() for name in names}
        return answers | {layout.plan(plan) for plan in plans}


def _of_a_plan(path: Path) -> bool:
    return "retrained" in path.parts or path.name.endswith(".plan.parquet")


def wanted(layout: Layout, settings: Settings | None = None) -> Wanted:
    """What a run is to hold, by its settings.

    Where they are not given, by ``provenance.json``, which the last complete run wrote, and by whatever
    was made after that. Without one, by what is there.
    """
    if settings is not None:
        rows = settings.dataset.train_size or _train_rows(layout)
        checkpoints = checkpoint_names(settings.checkpoints)
        try:
            shards = shard_names(rows, shard_size(settings.features, layout)) if rows else []
        except TrakError:
            shards = []
        if not shards:  # not known, so those that are there
            shards = sorted({p.stem for name in checkpoints for p in _in(layout.train_features(name))})
        outputs = layout.outputs(checkpoints, shards, list(settings.targets))
        planned = {} if settings.checkpoints.existing else planned_models(settings.evaluation)
        size = settings.evaluation.models_per_job
        parts = {plan: shard_names(models, size) for plan, models in planned.items()}
        return Wanted((*outputs, layout.provenance), "settings", inf, parts)
    try:
        record = load_document(layout.provenance, "provenance")[0]["outputs"]
        since = layout.provenance.stat().st_mtime
    except (TrakError, OSError, KeyError, TypeError):
        checkpoints = checkpoints_of(layout)
        outputs = layout.outputs(checkpoints, _shards(layout, checkpoints), target_sets_of(layout))
        return Wanted((*outputs, layout.provenance), "what is there", 0.0)
    outputs = [layout.root / name for name in record]
    later = [path for path in _there(layout) if path not in outputs and path.stat().st_mtime >= since]
    return Wanted((*outputs, *later, layout.provenance), "the last complete run", since)


def _there(layout: Layout) -> Iterator[Path]:
    """Every output of the pipeline that is there, whether it is wanted or not."""
    yield from filter(is_there, (layout.model, layout.train))
    for name in target_sets_of(layout):
        yield from filter(is_there, (layout.targets(name), layout.scores(name), layout.top(name)))
    for name in checkpoints_of(layout):
        folders = (layout.train_features(name), layout.target_features(name, "x").parent)
        features = [path for folder in folders for path in _in(folder)]
        yield from filter(is_there, (layout.checkpoint(name), *features, layout.kernel(name)))
    yield from filter(is_there, (layout.summary, layout.provenance))


def checkpoints_of(layout: Layout) -> list[str]:
    """The names of the checkpoints of which there is anything."""
    names = {path.name for folder in ("checkpoints", "features") for path in _in(layout.root / folder)}
    return sorted(names | {path.stem for path in _in(layout.root / "kernel")}, key=_order)


def target_sets_of(layout: Layout) -> list[str]:
    """The names of the target sets of which there is anything."""
    names = {path.name for path in _in(layout.targets("x").parent)}
    for checkpoint in _in(layout.root / "features"):
        names |= {path.stem for path in _in(checkpoint / "targets")}
    for path in _in(layout.root / "scores"):
        names.add(path.name.removesuffix(".top.parquet").removesuffix(".zarr"))
    return sorted(names)


def _shards(layout: Layout, checkpoints: list[str]) -> list[str]:
    """The names of the shards: as many rows as are prepared, in shards as large as the first."""
    rows = _train_rows(layout)
    try:
        sizes = [_rows_of(layout.train_shard(name, "00000")) for name in checkpoints]
    except (TrakError, KeyError, TypeError, ValueError):
        return []
    return shard_names(rows, max(sizes, default=0) or rows) if rows else []


def _train_rows(layout: Layout) -> int:
    """How many rows the train set has; 0 where it is not there, or damaged."""
    try:
        return int(artefact_manifest(layout.train, "data").details["rows"])
    except (TrakError, KeyError, TypeError, ValueError):
        return 0


def _rows_of(path: Path) -> int:
    if not is_there(path):
        return 0
    manifest: Manifest = artefact_manifest(path, "features")
    return int(manifest.details["stop"]) - int(manifest.details["start"])


def _in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _order(name: str) -> tuple[float, float]:
    run, _, fraction = name.partition("-")
    try:
        return float(run), float(fraction or 1)
    except ValueError:
        return float("inf"), 0.0
