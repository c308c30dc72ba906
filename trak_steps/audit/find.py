"""What a run holds, and what it should hold, as far as its own outputs tell."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.run.jobs import known_parts, known_shards, known_spans, prepared_rows
from trak_steps.run.layout import (
    Layout,
    checkpoint_names,
    jobs_of_checkpoints,
    planned_parts,
    shard_names,
)
from trak_steps.run.spans import kernel_spans, support_spans, suspect_spans, weighted_spans
from trak_steps.store.document import load_document
from trak_steps.store.manifest import Manifest
from trak_steps.store.tree import is_there


@dataclass(frozen=True)
class Found:
    """What a run holds, against what it is to hold.

    Attributes:
        there: every output that is there, in the order of the pipeline.
        surplus: those of them that are not wanted.
        wanted: the outputs of the pipeline that are to be there.
        known: who says so: the settings, the last complete run or, without either, what is there.
    """

    there: list[Path]
    surplus: list[Path]
    wanted: list[Path]
    known: str


def present(layout: Layout) -> list[Path]:
    """Every output of a run that is there, wanted or not."""
    others = [layout.provenance, layout.report, layout.plan("*"), layout.retrained("*", "*")]
    others += [layout.class_sums("*"), layout.support("*", "*"), layout.picked, layout.opponents("*")]
    every = [*layout.outputs("*", "*", {"*": "*"}, "*", "*"), *others, *layout.figures()]
    found = (path for place in every for path in sorted(layout.root.glob(layout.name(place))))
    return [path for path in found if is_there(path) and "/." not in f"/{layout.name(path)}"]


def find(layout: Layout, settings: Settings | None = None) -> Found:
    """What a run holds, and what of it is wanted by its settings.

    Where they are not given, by ``provenance.json``, which the last complete run wrote; what was made
    after that is wanted too. Without one, all is.

    Raises:
        TrakError: if it holds nothing.
    """
    there = present(layout)
    if not there:
        raise TrakError(f"{layout.root}: holds no outputs of this pipeline; name a run's own folder")
    if settings is not None:
        wanted = _by_settings(layout, settings, there)
        kept = {*wanted, layout.report, *_planned(layout, settings), *layout.figures()}
        kept |= set(_of_suspects(layout, settings))
        surplus = [path for path in there if path not in kept]
        return Found(there, surplus, wanted, "settings")
    try:
        record = load_document(layout.provenance, "provenance")[0]["outputs"]
        since = layout.provenance.stat().st_mtime
    except (TrakError, OSError, KeyError, TypeError):
        return Found(there, [], _by_names(layout, there), "what is there")
    wanted = [*(layout.root / name for name in record), layout.provenance]
    others = [path for path in there if not path.is_relative_to(layout.evaluation)]
    earlier = {path for path in others if path.stat().st_mtime < since} - {*wanted, layout.report}
    surplus = [path for path in others if path in earlier]
    return Found(there, surplus, wanted, "the last complete run")


def _by_settings(layout: Layout, settings: Settings, there: list[Path]) -> list[Path]:
    checkpoints = checkpoint_names(settings.checkpoints)
    shards = known_shards(settings, layout)
    if shards is None:  # so those that are there
        folders = {layout.train_features(name) for name in checkpoints}
        shards = sorted({path.stem for path in there if path.parent in folders})
    parts = {name: _parts(layout, settings, name, there) for name in settings.targets}
    spans = [known_spans(of, settings, layout) for of in (kernel_spans, weighted_spans)]
    kernels, weighted = (found or () for found in spans)
    return [*layout.outputs(checkpoints, shards, parts, kernels, weighted), layout.provenance]


def _of_suspects(layout: Layout, settings: Settings) -> Iterator[Path]:
    """What wrong labels are found by where the train set is looked at in parts."""
    for rows in known_spans(suspect_spans, settings, layout) or ():
        yield from (layout.class_sums(rows), layout.picked, layout.opponents(rows))
    for rows in known_spans(support_spans, settings, layout) or ():
        for job in jobs_of_checkpoints(settings.checkpoints):
            yield layout.support(job, rows)


def _parts(layout: Layout, settings: Settings, targets: str, there: list[Path]) -> list[str]:
    """The parts that a target set is to be scored in; where that is not known, those that are there."""
    known = known_parts(settings, layout, targets)
    if known is None:
        return [path.stem for path in there if path.parent == layout.score_part(targets, "x").parent]
    return known


def _planned(layout: Layout, settings: Settings) -> set[Path]:
    """Plans of retraining, and what their models say."""
    known = not settings.checkpoints.existing or settings.evaluation.retrain_imported
    parts = planned_parts(settings.evaluation) if known else {}
    answers = {layout.retrained(plan, name) for plan, names in parts.items() for name in names}
    return answers | {layout.plan(plan) for plan in parts}


def _by_names(layout: Layout, there: list[Path]) -> list[Path]:
    """Of each checkpoint and each target set of which there is anything, all."""
    checkpoints, targets = set[str](), set[str]()
    for path in there:
        match layout.name(path).removesuffix(".zarr").removesuffix(".top.parquet").split("/"):
            case ["checkpoints" | "kernel", checkpoint] | ["features", checkpoint, "train", _]:
                checkpoints.add(checkpoint)
            case ["features", checkpoint, "targets", name]:
                checkpoints.add(checkpoint)
                targets.add(name)
            case ["data", "targets", name] | ["scores", name] | ["scores", name, _]:
                targets.add(name)
    names = sorted(checkpoints)
    parts = {
        name: [path.stem for path in there if path.parent == layout.score_part(name, "x").parent]
        for name in sorted(targets)
    }
    of_parts = _parts_there(layout, there, names)
    return [*layout.outputs(names, _shards(layout, names), parts, *of_parts), layout.provenance]


def _parts_there(
    layout: Layout, there: list[Path], checkpoints: list[str]
) -> tuple[list[str], list[str]]:
    """The parts of the train set that any kernel was summed in, and weighted features were."""
    kernels = {layout.kernel_part(name, "x").parent for name in checkpoints}
    weighted = {layout.weighted_sums("x").parent}
    first, second = (
        sorted({path.stem for path in there if path.parent in of}) for of in (kernels, weighted)
    )
    return first, second


def _shards(layout: Layout, checkpoints: list[str]) -> list[str]:
    """The names of the shards: as many rows as are prepared, in shards as large as the first."""
    rows = prepared_rows(layout.train)
    firsts = (layout.train_shard(name, "00000") for name in checkpoints)
    try:
        found = [Manifest.load(path, "features").details for path in firsts if is_there(path)]
        return shard_names(rows, max((of["stop"] - of["start"] for of in found), default=rows))
    except (TrakError, KeyError, TypeError, ZeroDivisionError):
        return []
