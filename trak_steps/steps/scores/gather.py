"""Step ``gather``: the parts of a target set's scores, put together."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trak_steps.config import Settings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.run.identity import matrix_of, score_settings
from trak_steps.run.layout import Layout, checkpoint_names, training_of
from trak_steps.run.lineage import contents
from trak_steps.run.parts import open_score_part
from trak_steps.run.tiles import Tile, tiles
from trak_steps.scoring.listed import with_uncertainty
from trak_steps.scoring.lists import Top, together
from trak_steps.scoring.ranks import BINS
from trak_steps.store.artefact import keep
from trak_steps.store.calibration import Calibration
from trak_steps.store.manifest import Manifest
from trak_steps.store.score_parts import CHUNK_ROWS, ScorePart
from trak_steps.store.scores import LISTED, SIDES, MatrixBlock, save_scores

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1

Part = tuple[Tile, ScorePart]
Array = NDArray[Any]


def run(layout: Layout, settings: Settings, targets: str, listed: int) -> None:
    """Write ``scores/<set>.zarr``.

    Args:
        layout: of the run.
        settings: of the run.
        targets: the target set.
        listed: rows of a list, of each side of a target.
    """
    train = PreparedRows.load(layout.train)
    target_rows = PreparedRows.load(layout.targets(targets))
    n, t = len(train), len(target_rows)
    calibration = Calibration.open(layout.calibration)
    matrix = matrix_of(settings, n, t)
    parts = [
        (tile, open_score_part(layout, settings, targets, tile.name, matrix, listed))
        for tile in tiles(settings, layout, n, t)
    ]
    made_from = contents(layout, train, target_rows, calibration, *(part for _, part in parts))
    first = parts[0][1]
    shared = {
        name: content
        for name, content in first.manifest.made_from.items()
        if name.startswith(("kernel/", "features/")) and "/train/" not in name
    }
    for _, part in parts:
        version = first.manifest.version
        part.manifest.require(part.path, made_from=shared, version=version, by=str(first.path))
    made_from |= shared
    path = layout.scores(targets)
    chosen = {**score_settings(settings), "listed": listed}
    manifest = Manifest("scores", made_from=made_from, settings=chosen, version=VERSION)
    if keep(path, manifest):
        say(f"kept {path}: made from the same")
        return
    by_targets: dict[int, list[Part]] = {}
    for tile, part in parts:
        by_targets.setdefault(tile.first, []).append((tile, part))
    groups = list(by_targets.values())
    trainings = len({training_of(name) for name in checkpoint_names(settings.checkpoints)})
    of_training = {
        name: np.concatenate([group[0][1].of_trainings(name, trainings) for group in groups], 1)
        for name in ("margin", "sum")
    }
    details = {
        "train": n,
        "targets": t,
        "scale": calibration.scale,
        "base_margin": calibration.base_margin,
        "matrix": list(matrix),
        "listed": min(listed, n),
    }
    save_scores(
        path,
        _blocks(parts, matrix),
        coordinates={
            "train": (("train",), train.column("row")),
            "target": (("target",), target_rows.column("row")),
            "train_label": (("train",), train.column("label")),
            "target_label": (("target",), target_rows.column("label")),
            "train_loss_weight": (
                ("train",),
                np.concatenate([part.loss_weight() for _, part in groups[0]]),
            ),
            "target_margin": (("target",), of_training["margin"].mean(0)),
            "target_sum": (("target",), of_training["sum"].mean(0)),
            "training_margin": (("training", "target"), of_training["margin"]),
            "training_sum": (("training", "target"), of_training["sum"]),
        },
        listed={
            side: _concatenated(
                [_listed(group, side, listed, trainings, calibration.errors) for group in groups]
            )
            for side in SIDES
        },
        matrix=matrix,
        manifest=replace(manifest, details=details),
        signs=calibration.stable_signs or {},
        units="margin" if calibration.scale is not None else "1",
    )
    say(f"wrote {path}")


def _concatenated(found: Sequence[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([of[name] for of in found]) for name in LISTED}


def _listed(
    group: Sequence[Part], side: str, listed: int, trainings: int, errors: float
) -> dict[str, Array]:
    """The strongest rows of the targets of some parts, [t, listed] each, by :data:`LISTED`."""
    tops = []
    for tile, part in group:
        count = min(listed, tile.stop - tile.start)
        place, score, std = (part.listed(side, name, count) for name in ("place", "score", "std"))
        tops.append(Top(place, score, (std,)))
    largest = side == SIDES[0]
    counts = None
    if trainings > 1:
        counts = np.zeros((len(tops[0].place), BINS), np.int64)
        for _, part in group:
            counts += part.counts(side, BINS)
    return with_uncertainty(
        together(tops, listed, largest=largest),
        counts,
        group[0][1].of_targets("root"),
        trainings=trainings,
        errors=errors,
        largest=largest,
    )


def _blocks(parts: Sequence[Part], matrix: Sequence[str]) -> Iterator[MatrixBlock]:
    """What is kept of all rows, chunk by chunk."""
    if not matrix:
        return
    starts = [(tile, part, at) for tile, part in parts for at in range(0, part.shape[0], CHUNK_ROWS)]
    for tile, part, at in progress(starts, total=len(starts), label="together", unit="block"):
        stop = min(at + CHUNK_ROWS, part.shape[0])
        values = {name: part.matrix(name, at, stop) for name in matrix}
        yield MatrixBlock(tile.start + at, tile.first, values)
