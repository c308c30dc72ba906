"""Step ``score``: the scores of some train rows for some targets of a set, in a pass over features.

While they stream by, each target's strongest rows are listed, and rows are counted by what ranks they
might have. Every score is kept where the settings ask for it.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.console.progress import counter, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.kernel.blocks import scores as cost_of_scores
from trak_steps.kernel.blocks import targets_at_once
from trak_steps.model.device import pick_device
from trak_steps.run.fit import bytes_allowed, cells_at_once
from trak_steps.run.identity import matrix_of, part_settings
from trak_steps.run.layout import Layout, final_checkpoints
from trak_steps.run.lineage import Lineage, contents
from trak_steps.run.parts import open_calibration
from trak_steps.run.scoring import Scoring
from trak_steps.run.tiles import Tile, tiles
from trak_steps.scoring.stream import SIDES, Stream
from trak_steps.store.artefact import keep
from trak_steps.store.manifest import Manifest
from trak_steps.store.score_parts import new_part

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 3

DIMENSIONS = {"counts": ("target", "bin"), "root": ("target",), "sum": ("training", "target")}


def run(layout: Layout, settings: Settings, targets: str, listed: int, part: str | None = None) -> None:
    """Write ``scores/<set>/<part>.zarr``: one part, or all.

    Args:
        layout: of the run.
        settings: of the run.
        targets: the target set.
        listed: rows of a list, of each side of a target.
        part: the part's name.
    """
    train = PreparedRows.open(layout.train)
    target_rows = PreparedRows.open(layout.targets(targets))
    Lineage(layout).check(target_rows.path, target_rows.manifest)
    planned = {tile.name: tile for tile in tiles(settings, layout, len(train), len(target_rows))}
    if part is not None and part not in planned:
        raise TrakError(f"{part}: is no part of scores with these settings, but {', '.join(planned)}")
    for tile in planned.values() if part is None else [planned[part]]:
        _score(layout, settings, train, targets, target_rows, tile, listed)


def _score(
    layout: Layout,
    settings: Settings,
    train: PreparedRows,
    targets: str,
    target_rows: PreparedRows,
    tile: Tile,
    listed: int,
) -> None:
    device = pick_device(settings.execution.device)
    scoring = Scoring.open(layout, settings, train, (tile.start, tile.stop), device)
    calibration = open_calibration(layout, settings, scoring.kernels)
    stores = scoring.targets(layout, targets, target_rows)
    matrix = matrix_of(settings, len(train), len(target_rows))
    path = layout.score_part(targets, tile.name)
    shards = [shard for of_train in scoring.features for shard in of_train.shards]
    manifest = Manifest(
        "score-part",
        made_from=contents(layout, train, target_rows, calibration, *scoring.kernels, *stores, *shards),
        settings=part_settings(settings, matrix, listed),
        version=VERSION,
        details={"rows": [tile.start, tile.stop], "targets": [tile.first, tile.last]},
    )
    if keep(path, manifest):
        say(f"kept {path}: made from the same")
        return
    t, dim, m = tile.last - tile.first, scoring.dim, len(scoring.names)
    together = targets_at_once(bytes_allowed(settings), t, lambda some: cost_of_scores(some, dim, m))
    cost = cost_of_scores(together, dim, m)
    block_rows = cells_at_once(settings, cost, f"a target of {m} checkpoints")
    say(
        f"scoring {t} targets against {tile.stop - tile.start} train rows, {m} checkpoints; "
        f"{block_rows} rows and {together} targets at once"
    )
    totals = [torch.from_numpy(total) for total in calibration.totals(m, dim)]
    ends = final_checkpoints(settings.checkpoints)
    margins = np.stack([stores[scoring.names.index(end)].column("margin") for end in ends])
    spans = [(at, min(at + together, tile.last)) for at in range(tile.first, tile.last, together)]
    rows = tile.stop - tile.start
    top = min(listed, rows)

    def scored(first: int, last: int) -> dict[str, NDArray[Any]]:
        """What is found of some targets; what it took is let go before the next are solved for."""
        features = (torch.from_numpy(store.features(first, last)) for store in stores)
        solved, sums = scoring.in_unit(features, calibration, totals)
        stream = Stream(solved, scoring.trainings, top, calibration.errors)
        for block in scoring.blocks(block_rows):
            for some, scores in stream.add(block.features, block.weights, block.start):
                place = block.start - tile.start, first - tile.first + some.start
                for name in writer.kept:
                    values: Tensor = getattr(scores, name)
                    # A copy, for the next block is written over it.
                    writer.add(name, *place, np.array(values.cpu()))
            advance(block.stop - block.start)
        return _found(stream) | {"root": solved.roots.cpu().numpy(), "sum": sums.numpy()}

    with (
        new_part(path, (rows, t), matrix, manifest) as writer,
        counter(rows * len(spans), f"scores of {tile.name}", "row") as advance,
    ):
        found = [scored(*span) for span in spans]
        weights = np.mean([of_train.column("loss_weight") for of_train in scoring.features], 0)
        writer.put("loss_weight", weights, ("row",))
        writer.put("margin", margins[:, tile.first : tile.last], ("training", "target"))
        for name in found[0]:
            axis = 1 if name == "sum" else 0
            dimensions = DIMENSIONS.get(name.partition("_")[2] or name, ("target", "rank"))
            writer.put(name, np.concatenate([of[name] for of in found], axis), dimensions)
    say(f"wrote {path}")


def _found(stream: Stream) -> dict[str, NDArray[Any]]:
    """What streamed by, by name: see :mod:`trak_steps.store.score_parts`."""
    found: dict[str, NDArray[Any]] = {}
    counts = stream.counts()
    for place, side in enumerate(SIDES):
        top = stream.top(side)
        found |= {f"{side}_place": top.place, f"{side}_score": top.score, f"{side}_std": top.more[0]}
        if counts is not None:
            found[f"{side}_counts"] = counts[place]
    return found
