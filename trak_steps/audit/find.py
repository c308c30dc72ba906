"""What a run holds, and what it should hold, as far as its own outputs tell."""

from collections.abc import Iterator
from pathlib import Path

from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout, shard_names
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.manifest import Manifest
from trak_steps.store.tree import is_there


def present(layout: Layout) -> list[Path]:
    """Every output of a run that is there, in the order of the pipeline."""
    return [path for path in _known(layout) if is_there(path)]


def expected(layout: Layout) -> list[Path]:
    """Every output that a finished run with these checkpoints and target sets has."""
    checkpoints = checkpoints_of(layout)
    outputs = layout.outputs(checkpoints, _shards(layout, checkpoints), target_sets_of(layout))
    return [*outputs, layout.provenance]


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


def _known(layout: Layout) -> Iterator[Path]:
    yield from expected(layout)
    planned = set(expected(layout))
    for checkpoint in checkpoints_of(layout):
        for path in _in(layout.train_features(checkpoint)):
            if path not in planned:
                yield path
    yield from layout.evaluations()


def _shards(layout: Layout, checkpoints: list[str]) -> list[str]:
    """The names of the shards: as many rows as are prepared, in shards as large as the first."""
    try:
        rows = int(artefact_manifest(layout.train, "data").details["rows"])
        sizes = [_rows_of(layout.train_shard(name, "00000")) for name in checkpoints]
    except (TrakError, KeyError, TypeError, ValueError):
        return []
    size = max(sizes, default=0) or rows
    return shard_names(rows, size)


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
