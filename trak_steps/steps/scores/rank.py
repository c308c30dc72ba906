"""Step ``rank``: the top proponents and opponents of each target, with texts, as a parquet file."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trak_steps.config import Settings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.run.layout import Layout, training_of
from trak_steps.run.lineage import contents
from trak_steps.run.parts import open_scores
from trak_steps.scoring.top import Top, TopRows
from trak_steps.scoring.uncertainty import RankRange, sign_is_stable, standard_error
from trak_steps.store.manifest import Manifest
from trak_steps.store.scores import ScoreStore
from trak_steps.store.table import save_table
from trak_steps.store.texts import cut

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 2


def run(layout: Layout, settings: Settings, targets: str) -> None:
    """Write ``scores/<set>.top.parquet``."""
    train = PreparedRows.load(layout.train)
    target_rows = PreparedRows.load(layout.targets(targets))
    store = open_scores(layout, settings, targets)
    n, t = store.shape
    sides = {
        "proponent": TopRows(t, settings.scores.top, largest=True),
        "opponent": TopRows(t, settings.scores.top, largest=False),
    }
    starts = range(0, n, store.block_rows)
    for start in progress(starts, total=len(starts), label="ranking", unit="block"):
        block = store.scores(start, min(start + store.block_rows, n))
        for side in sides.values():
            side.add(block, start)
    trainings = len({training_of(name) for name in store.manifest.settings["checkpoints"]})
    if trainings < 2:
        say("of a single training it is not known which signs and ranks another would give")
    table = pa.concat_tables(
        _table(
            name,
            side.result(),
            _stability(store, side.result(), trainings, name),
            store,
            train,
            target_rows,
        )
        for name, side in sides.items()
    )
    table = table.sort_by([("target", "ascending"), ("side", "descending"), ("rank", "ascending")])
    path = layout.top(targets)
    manifest = Manifest(
        "top",
        made_from=contents(layout, store)
        | {
            f"{layout.name(part.path)}#table": str(part.manifest.details["table_digest"])
            for part in (train, target_rows)
        },
        settings={"top": settings.scores.top},
        version=VERSION,
        details={"targets": len(target_rows), "train": len(train)},
    )
    save_table(path, table, manifest)
    say(f"wrote {path}")


@dataclass(frozen=True)
class _Stability:
    """How far listed scores can be trusted, [t, top] each.

    Of a single training all but ``std`` says nothing; that is not a number where a single checkpoint is.
    """

    std: NDArray[np.float32]
    stable: NDArray[np.bool_]
    best: NDArray[np.int64]
    worst: NDArray[np.int64]


def _stability(store: ScoreStore, top: Top, trainings: int, side: str) -> _Stability:
    """Read the store once more, block by block, for the spread of the listed scores and their ranks."""
    n, _ = store.shape
    starts = range(0, n, store.block_rows)
    std = np.empty(top.score.shape, np.float32)
    for start in starts:
        stop = min(start + store.block_rows, n)
        target, rank = np.nonzero((top.place >= start) & (top.place < stop))
        if len(target):
            block = store.std(start, stop)
            std[target, rank] = block[top.place[target, rank] - start, target]
    error = standard_error(std, trainings)
    if trainings < 2:
        unknown = np.zeros(top.score.shape, np.int64)
        return _Stability(std, unknown.astype(bool), unknown, unknown)
    ranks = RankRange(top.score, error, store.errors, largest=side == "proponent")
    for start in progress(starts, total=len(starts), label=f"ranks of {side}s", unit="block"):
        stop = min(start + store.block_rows, n)
        ranks.add(store.scores(start, stop), standard_error(store.std(start, stop), trainings))
    best, worst = ranks.result()
    return _Stability(std, sign_is_stable(top.score, error, store.errors), best, worst)


def _table(
    side: str,
    top: Top,
    of: _Stability,
    store: ScoreStore,
    train: PreparedRows,
    targets: PreparedRows,
) -> pa.Table:
    t, count = top.place.shape
    target = np.repeat(np.arange(t), count)
    place = top.place.reshape(-1)
    columns: dict[str, Any] = {
        "target": target,
        "rank": np.tile(np.arange(1, count + 1), t),
        "margin": store.column("target_margin").astype(np.float32)[target],
        "sum_of_scores": store.column("target_sum").astype(np.float32)[target],
        "side": [side] * len(place),
        "score": top.score.reshape(-1),
        "std": pa.array(of.std.reshape(-1), from_pandas=True),
    }
    # Of a single training nothing is known of another.
    known = np.isfinite(of.std).reshape(-1) & bool(np.isfinite(store.errors))
    for name, values in (("sign_stable", of.stable), ("rank_best", of.best), ("rank_worst", of.worst)):
        columns[name] = pa.array(values.reshape(-1), mask=~known)
    for name, rows, where in (("train", train, place), ("target", targets, target)):
        some, back = np.unique(where, return_inverse=True)
        kept = ["row", "label", *rows.text_columns]
        kept += [column for column in ("flipped", "group") if column in rows.table.column_names]
        picked = rows.take(some, kept)
        for column in kept:
            values = picked[column]
            if column in rows.text_columns:
                values = cut(values)
            values = values.take(pa.array(back))
            columns[f"{name}_{column}"] = values
            if column == "label" and rows.label_names:
                names = pa.array(rows.label_names)
                columns[f"{name}_label_name"] = names.take(values.combine_chunks())
    columns.pop("target_flipped", None)
    return pa.table(columns)
