"""What a run's cost depends on, as far as it is known before the run.

Where model and data are at hand, the first steps are done on some rows, in a folder that is thrown away:
so what they would refuse is refused here. What only the hub has is not fetched; it is assumed, and said.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.data.source import load_split
from trak_steps.errors import NotFetchedError, TrakError
from trak_steps.run.identity import row_settings
from trak_steps.run.jobs import prepared_rows
from trak_steps.run.layout import Layout, imported
from trak_steps.run.shards import rows_of_a_shard
from trak_steps.store.manifest import Manifest
from trak_steps.workflow.inputs import downloading
from trak_steps.workflow.memory import PARAMETERS, ROWS

# Rows that are prepared to see how long they are, and to measure with.
SAMPLE = 256
FEW_TARGETS = 16
# Of the longest row allowed, what rows have of tokens on average where nothing is known: as QNLI's.
SHARE = 0.4


@dataclass(frozen=True)
class Facts:
    """What is known of a run.

    Attributes:
        settings: of the run, with the numbers filled in that decide how many jobs there are.
        parameters: of the model.
        lengths: tokens of some train rows.
        sample: a run that has the model and some rows; none where they are not at hand.
        assumed: what is not known, in words.
    """

    settings: Settings
    parameters: int
    lengths: Sequence[int]
    sample: Layout | None
    assumed: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """n."""
        assert self.settings.dataset.train_size is not None
        return self.settings.dataset.train_size

    @property
    def targets(self) -> dict[str, int]:
        """t of each target set."""
        return {name: of.size or 0 for name, of in self.settings.targets.items()}

    @property
    def tokens(self) -> float:
        """Of a row, on average."""
        return sum(self.lengths) / len(self.lengths)


def find_facts(settings: Settings, layout: Layout, folder: Path) -> Facts:
    """What is known of a run.

    Args:
        settings: of the run.
        layout: of the run, which may have begun.
        folder: an empty one to work in.

    Raises:
        TrakError: if the first steps refuse something.
    """
    assumed: list[str] = []
    done = _prepared(settings, layout)
    sample = done or _prepare(settings, Layout(folder / settings.run), assumed)
    train = settings.dataset
    n = prepared_rows(layout.train) if done else 0
    n = n or _count(settings, train.train_split, train.train_size, assumed)
    sizes = {name: _count(settings, of.split, of.size, assumed) for name, of in settings.targets.items()}
    parameters, lengths = None, None
    if sample:
        rows = PreparedRows.open(sample.train)
        first = rows.inputs(0, min(SAMPLE, len(rows)))
        lengths = [len(tokens) for tokens in first["input_ids"].to_pylist()]
        parameters = Manifest.load(sample.model, "model").details.get("parameters")
    if lengths is None:
        mean = max(2, round(SHARE * settings.model.max_length))
        lengths = [mean]
        assumed.append(f"rows have {mean} tokens on average")
    if parameters is None:
        parameters = PARAMETERS
        assumed.append(f"the model has {parameters // 10**6} million parameters, as BERT-base")
    size = settings.features.shard_size or rows_of_a_shard(parameters, sum(lengths) / len(lengths))
    return Facts(_filled(settings, n, sizes, size), parameters, lengths, sample, assumed)


def _prepared(settings: Settings, layout: Layout) -> Layout | None:
    """The run itself, if it has its model and rows, made with these settings."""
    wanted = {
        "seed": settings.seed,
        "max_length": settings.model.max_length,
        "dataset": row_settings(settings.dataset, train=True),
        "classes": settings.checkpoints.classes,
    }
    source = next(iter(imported(settings.checkpoints).values()), settings.model.name_or_path)
    with suppress(TrakError):
        model, train = Manifest.load(layout.model, "model"), Manifest.load(layout.train, "data")
        train.require(
            layout.train, made_from={layout.name(layout.model): model.content}, settings=wanted
        )
        return layout if model.details.get("source") == source else None
    return None


def _prepare(settings: Settings, sample: Layout, assumed: list[str]) -> Layout | None:
    """The first steps, on some rows."""
    # Imported here, for they load what trains models.
    from trak_steps.steps.data import model, prepare

    try:
        model.run(sample, settings, next(iter(imported(settings.checkpoints).values()), None))
        _on_few(settings, lambda few: prepare.run_train(sample, few))
        for name in settings.targets:
            _on_few(settings, partial(_run_targets, sample, name))
    except NotFetchedError:
        of_hub = ", ".join(sorted(downloading(settings)))
        assumed.append(f"nothing is fetched for a plan ({of_hub})")
        return None
    return sample


def _run_targets(sample: Layout, name: str, few: Settings) -> None:
    from trak_steps.steps.data import prepare

    prepare.run_targets(sample, few, name)


def _on_few(settings: Settings, step: Callable[[Settings], None]) -> None:
    """Run a step on the first rows, or on all of a split that has fewer."""
    few = {"train_size": _at_most(SAMPLE, settings.dataset.train_size), "sample": "first"}
    targets = {
        name: of.model_copy(update={"size": _at_most(FEW_TARGETS, of.size)})
        for name, of in settings.targets.items()
    }
    dataset = settings.dataset.model_copy(update=few)
    try:
        step(settings.model_copy(update={"dataset": dataset, "targets": targets}))
    except TrakError as error:
        if "are asked for" not in str(error):
            raise
        step(settings)


def _at_most(most: int, chosen: int | None) -> int:
    return most if chosen is None else min(most, chosen)


def _count(settings: Settings, split: str, chosen: int | None, assumed: list[str]) -> int:
    """The rows of a set: those that are asked for, or all of the split."""
    if chosen is not None:
        return chosen
    dataset = settings.dataset
    try:
        rows = load_split(
            *(dataset.path, dataset.name, dataset.data_files, split, settings.seed),
            revision=dataset.revision,
        )
    except NotFetchedError:
        assumed.append(f"the split {split} has {ROWS:,} rows")
        return ROWS
    return len(rows)


def _filled(settings: Settings, n: int, sizes: dict[str, int], shard: int) -> Settings:
    targets = {
        name: of.model_copy(update={"size": sizes[name]}) for name, of in settings.targets.items()
    }
    changed: dict[str, Any] = {
        "dataset": settings.dataset.model_copy(update={"train_size": n}),
        "targets": targets,
        "features": settings.features.model_copy(update={"shard_size": shard}),
    }
    return settings.model_copy(update=changed)
