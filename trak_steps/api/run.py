"""A finished run, opened for reading."""

import operator
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from zarr.errors import ZarrUserWarning

from trak_steps.config import Settings, load_settings
from trak_steps.data.prepared import TOKENS, PreparedRows
from trak_steps.errors import TrakError
from trak_steps.run.asked import Asked
from trak_steps.run.layout import Layout, checkpoint_names, final_checkpoints, shard_names, training_of
from trak_steps.run.lineage import Lineage
from trak_steps.run.parts import open_scores, open_train_features
from trak_steps.run.step_version import step_version
from trak_steps.scoring.uncertainty import sign_is_stable, standard_error
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.document import load_document
from trak_steps.store.features import FeatureStore, TrainFeatures
from trak_steps.store.manifest import Manifest
from trak_steps.store.scores import SIDES, ScoreStore
from trak_steps.store.table import load_table
from trak_steps.store.tree import is_there

if TYPE_CHECKING:
    import datasets
    import pandas
    import xarray

    from trak_steps.api.compare import Comparison
    from trak_steps.api.explanation import Explanation
    from trak_steps.api.texts import Label, Query, Text

# Of kinds of figures whose words or numbers may change, the step that makes them.
_MADE_BY = {
    "lds": "evaluation.measure_lds",
    "removal": "evaluation.measure_removal",
    "suspects": "evaluation.find_mislabelled",
    "stability": "evaluation.measure_stability",
    "summary": "summary.summarize",
    "top": "scores.rank",
}


class Run:
    """A run of the pipeline, ``results/<run>``.

    Nothing is read before it is asked for, and then it is checked: it has to be what was written, and
    made from what the run holds now. Nothing is changed.

        >>> from trak_steps import Run
        >>> run = Run("results/demo")
        >>> run
        Run('results/demo'): 2304 train rows, targets validation, 9 checkpoints
        >>> run.top("validation", target=3)[["side", "rank", "score", "train_sentence"]]

    Rows are named by ``row``, their ids in the source; targets by ``target``, their place in their set.

    Args:
        path: the run's folder.
        config: the run's settings, a YAML file. Without: those that the workflow was last started with.

    Raises:
        TrakError: if there is no such run, or its settings are not known.
    """

    def __init__(self, path: str | Path, config: str | Path | None = None) -> None:
        self.path = Path(path)
        self.layout = Layout(self.path)
        if not self.path.is_dir():
            raise TrakError(f"{path}: there is no such run")
        self.settings = self._known_settings(config)

    @classmethod
    def of(cls, layout: Layout, settings: Settings) -> Self:
        """The run with these settings, as steps are given them."""
        run = cls.__new__(cls)
        run.path, run.layout, run.settings = layout.root, layout, settings
        return run

    def _known_settings(self, config: str | Path | None) -> Settings:
        if config is not None:
            settings = load_settings(Path(config))
            if settings.run != self.path.resolve().name:
                raise TrakError(f"{config}: is for the run {settings.run}, not for {self.path}")
            return settings
        asked = Asked.load(self.layout)
        if asked is None:
            if not is_there(self.layout.train):
                raise TrakError(f"{self.path}: holds no run of this pipeline; name a run's own folder")
            raise TrakError(
                f"{self.path}: does not say with which settings it was made, as it was made by hand or "
                "by an earlier version; give them: --config, --other-config for the second run of "
                "`compare`, or Run(path, config)"
            )
        return asked.settings

    def __repr__(self) -> str:
        sets = ", ".join(self.target_sets)
        rows = f"{len(self.train_rows)} train rows, " if is_there(self.layout.train) else ""
        return f"Run({str(self.path)!r}): {rows}targets {sets}, {len(self.checkpoints)} checkpoints"

    @property
    def name(self) -> str:
        """The run's name."""
        return self.settings.run

    @property
    def target_sets(self) -> list[str]:
        """The names of the target sets."""
        return list(self.settings.targets)

    @property
    def checkpoints(self) -> list[str]:
        """The names of all checkpoints: ``0`` is the end of training 0, ``0-0.5`` is half-way."""
        return checkpoint_names(self.settings.checkpoints)

    @property
    def trainings(self) -> int:
        """How many trainings the checkpoints are of."""
        return len({training_of(name) for name in self.checkpoints})

    @property
    def labels(self) -> list[str]:
        """The names of the classes; empty for numbers to regress on."""
        return self.train_rows.label_names

    @property
    def text_columns(self) -> list[str]:
        """The names of the columns that models read."""
        return self.train_rows.text_columns

    @cached_property
    def train(self) -> "datasets.Dataset":
        """The train rows: ``row``, texts, ``label``, ``flipped``, and ``group`` where one is set.

        >>> run.train[0]["label"]

        Memory-mapped: what is not looked at is not read.
        """
        return _dataset(self.train_rows)

    def targets(self, name: str) -> "datasets.Dataset":
        """The rows of a target set, as :attr:`train`.

        >>> run.targets("validation").to_pandas()["label"].value_counts()
        """
        return _dataset(self.target_rows(name))

    def top(
        self,
        targets: str | None = None,
        *,
        target: int | None = None,
        row: int | None = None,
        side: str | None = None,
    ) -> "pandas.DataFrame":
        """The strongest train rows of targets, strongest first.

        >>> run.top("validation", target=3, side="opponent")[["rank", "score", "train_row"]]

        Args:
            targets: the target set; the first one, unless given.
            target: one target's place in its set; all, unless given.
            row: of one train row alone, by its id: which targets have it in their lists.
            side: ``proponent`` or ``opponent``; both, unless given.

        Returns:
            A row for each target, side and rank: ``target``, ``side``, ``rank``, ``score``, ``std`` over
            trainings, ``sign_stable``, ``rank_best`` and ``rank_worst``, the target's ``margin`` and
            ``sum_of_scores``, and ``train_*`` and ``target_*``: the two rows' id, label and texts.

        Raises:
            TrakError: if there is no such set, target, row or side, or the lists are not those of what
                the run holds now.
        """
        return self.top_table(targets, target=target, row=row, side=side).to_pandas()

    def top_table(
        self,
        targets: str | None = None,
        *,
        target: int | None = None,
        row: int | None = None,
        side: str | None = None,
    ) -> pa.Table:
        """What :meth:`top` gives, as an Arrow table."""
        name = self._set(targets)
        path = self.layout.top(name)
        self._need(path)
        table, manifest = load_table(path, "top")
        self._check(path, manifest)
        self.score_store(name)
        if target is not None:
            count = len(self.target_rows(name))
            target = _whole(target, "target", "a target is named by its place in its set")
            if not 0 <= target < count:
                raise TrakError(f"{name}: has targets 0 to {count - 1}, not {target}")
            table = table.filter(pc.field("target") == target)
        if row is not None:
            self.place(row)
            table = table.filter(pc.field("train_row") == operator.index(row))
        if side is not None:
            if side not in SIDES:
                raise TrakError(f"{side}: is no side; there are {' and '.join(SIDES)}")
            table = table.filter(pc.field("side") == side)
        return table

    def scores(self, targets: str | None = None) -> "xarray.Dataset":
        """The scores of every train row for every target of a set, where the run keeps them.

        Opened, not read; what is asked for is read.

        >>> run.scores("validation").scores.isel(target=3).to_series().nlargest(5)

        Returns:
            ``scores`` and, where kept, ``std`` [train, target], in units of margin; by the rows' ids.

        Raises:
            TrakError: also if they are not kept (``scores.matrix``).
        """
        import xarray

        store = self.score_store(self._set(targets))
        if "scores" not in store.matrix:
            raise TrakError(
                f"{store.path}: scores of all rows are not kept; set scores.matrix: scores, and run the "
                "workflow once more"
            )
        with warnings.catch_warnings():
            # Of the manifest, which lies beside the arrays.
            warnings.simplefilter("ignore", ZarrUserWarning)
            found: xarray.Dataset = xarray.open_zarr(store.path, consolidated=False, chunks=None)
        return found

    # One text, which a text by itself is, though it is made of letters.
    @overload
    def explain(  # type: ignore[overload-overlap]
        self, texts: "str | tuple[str, ...] | Mapping[str, Any]", label: "Label" = None, top: int = 10
    ) -> "Explanation": ...

    @overload
    def explain(
        self, texts: "Iterable[Text]", label: "Label | Iterable[Label]" = None, top: int = 10
    ) -> "list[Explanation]": ...

    def explain(self, texts: Any, label: Any = None, top: int = 10) -> Any:
        """Why the models answer a text as they do: any text, also one that is in no set of the run.

            >>> why = run.explain(("Who founded Monburg?", "Devsk founded Monburg."))
            >>> why.prediction_name, why.margin
            >>> why.proponents[["score", "std", "train_row", "train_sentence"]]
            >>> many = run.explain([{"question": "Who?", "sentence": "Devsk."}] * 2, label="entailment")

        Every checkpoint takes the text's gradient, which is scored against the train rows' features as
        those of the run's own targets were. Nothing of the run is changed.

        Args:
            texts: one text, a tuple of the run's text columns where there are two, or a mapping by
                column; or many of these.
            label: for which answer: a class's name or number (for regression, a number); one for all
                texts, or one for each. Without: the predicted one, and what speaks for each class.
            top: train rows of a list, of each side.

        Returns:
            One explanation for one text; a list of them for many.

        Raises:
            TrakError: if the run is not finished, was altered, or made by another version of this
                package; or a text is empty, of other columns, or has a label that is unknown.
        """
        single = isinstance(texts, str | Mapping) or (
            isinstance(texts, tuple) and all(isinstance(part, str) for part in texts)
        )
        from trak_steps.api.texts import queries

        # All are looked at before the first is explained.
        asked = list(queries([texts] if single else texts, label, self.train_rows))
        found = list(self.explain_queries(asked, top))
        return found[0] if single else found

    def explain_stream(
        self,
        texts: "Iterable[Text]",
        label: "Label | Iterable[Label]" = None,
        top: int = 10,
    ) -> "Iterator[Explanation]":
        """As :meth:`explain`, of any number of texts, some of which are read and held at a time.

        >>> with open("texts.jsonl") as lines:
        ...     for why in run.explain_stream(map(json.loads, lines)):
        ...         print(why.prediction_name, why.margin)
        """
        from trak_steps.api.texts import queries

        return self.explain_queries(queries(texts, label, self.train_rows), top)

    def explain_queries(self, queries: "Iterable[Query]", top: int = 10) -> "Iterator[Explanation]":
        """As :meth:`explain_stream`, of texts and labels that were read."""
        for name in self.checkpoints:
            self._need(self.layout.checkpoint(name))
            self._need(self.layout.train_features(name))
            self._need(self.layout.kernel(name))
        self._need(self.layout.calibration)
        # torch and transformers, which nothing else of a run needs.
        from trak_steps.api.explain import Explainer

        return Explainer(self.layout, self.settings, self.train_rows, top).explain(queries)

    def overview(self, targets: str | None = None) -> "pandas.DataFrame":
        """The targets of a set: what the trainings answer, and how sure they are.

        >>> run.overview("validation").query("right < 1")

        Returns:
            A row for each target: ``target``, ``row``, the texts, ``label`` (and ``label_name``),
            ``margin`` for it, the mean over the ends of the trainings, and ``right``, the share of
            trainings that answer it; of numbers to regress on, ``predicted``, their mean.
        """
        return self.overview_table(targets).to_pandas()

    def overview_table(self, targets: str | None = None) -> pa.Table:
        """What :meth:`overview` gives, as an Arrow table."""
        name = self._set(targets)
        rows = self.target_rows(name)
        shown = ["row", *rows.text_columns, "label"]
        table = rows.table.select(shown).add_column(0, "target", pa.array(np.arange(len(rows))))
        if rows.label_names:
            names = pa.array(rows.label_names)
            table = table.append_column("label_name", names.take(table["label"].combine_chunks()))
        table = table.append_column("margin", pa.array(self.margins(name).mean(0)))
        predictions = self._of_ends(name, "prediction")
        if rows.label_names:
            right = (predictions == rows.column("label")).mean(0)
            return table.append_column("right", pa.array(right))
        return table.append_column("predicted", pa.array(predictions.mean(0)))

    def influence(self, row: int, targets: str | None = None) -> "pandas.DataFrame":
        """What a train row does to the targets of a set, strongest first.

        >>> run.influence(17)[["score", "std", "target", "target_sentence"]]

        Args:
            row: its id.
            targets: the target set; the first one, unless given.

        Returns:
            A row for each target: ``score``, ``std``, ``sign_stable`` and the target as ``target`` and
            ``target_*``. Where the run does not keep the scores of all rows: for each target that has it
            in its lists. Where it keeps them without ``std``, that and ``sign_stable`` are left out.

        Raises:
            TrakError: if no train row has this id, or the scores are not those of what the run holds.
        """
        return self.influence_table(row, targets).to_pandas()

    def influence_table(self, row: int, targets: str | None = None) -> pa.Table:
        """What :meth:`influence` gives, as an Arrow table."""
        from trak_steps.run.top_rows import row_columns

        name, place = self._set(targets), self.place(row)
        store = self.score_store(name)
        if "scores" not in store.matrix:
            table = self.top_table(name).filter(pc.field("train_row") == operator.index(row))
            known = ("score", "std", "sign_stable")
            kept = [of for of in table.column_names if of in known or of.startswith("target")]
            table = table.select(kept)
        else:
            rows = self.target_rows(name)
            columns: dict[str, Any] = {"score": store.scores(place, place + 1)[0]}
            if "std" in store.matrix:
                std = store.std(place, place + 1)[0]
                columns["std"] = pa.array(std, from_pandas=True)
                error = standard_error(std, self.trainings)
                stable = sign_is_stable(columns["score"], error, store.errors)
                # As in lists: of a single training nothing is known of another.
                known = np.isfinite(std) & bool(np.isfinite(store.errors))
                columns["sign_stable"] = pa.array(stable, mask=~known)
            every = np.arange(len(rows))
            table = pa.table({**columns, "target": every, **row_columns("target", rows, every)})
        strongest = np.argsort(-np.abs(table["score"].to_numpy()), kind="stable")
        return table.take(pa.array(strongest))

    def compare(self, other: "Run", targets: str | None = None, top: int = 10) -> "Comparison":
        """How far two runs agree on the targets that both have: see :class:`~trak_steps.api.Comparison`.

        >>> run.compare(Run("results/other")).shared_proponents

        Raises:
            TrakError: if the two are of different train rows, or share no target.
        """
        from trak_steps.api.compare import compare

        return compare(self, other, self._set(targets), top)

    def suspects(self) -> "pandas.DataFrame":
        """Train rows whose labels look wrong, most suspicious first, and what argues against each.

        >>> run.suspects()[["row", "label_name", "predicted_name"]].head()

        Raises:
            TrakError: if they were not looked for: ``snakemake evaluation`` does.
        """
        return self.suspects_table().to_pandas()

    def suspects_table(self) -> pa.Table:
        """What :meth:`suspects` gives, as an Arrow table."""
        path = self.layout.suspects
        self._need(path, "snakemake evaluation")
        table, manifest = load_table(path, "suspects")
        self._check(path, manifest)
        return table

    def features(self, checkpoint: str) -> TrainFeatures:
        """The train rows' features by a checkpoint; of the rows from one place to another, [rows, k].

        >>> run.features("0").features(0, 10).shape

        Raises:
            TrakError: if there is no such checkpoint, or its features are not whole.
        """
        if checkpoint not in self.checkpoints:
            raise TrakError(f"{checkpoint}: is no checkpoint; there are {', '.join(self.checkpoints)}")
        self._need(self.layout.train_features(checkpoint))
        return open_train_features(self.layout, self.settings, checkpoint, self.train_rows)

    def first_features(self, checkpoint: str) -> FeatureStore:
        """The same of the rows of the first shard."""
        path = self.layout.train_shard(checkpoint, shard_names(1, 1)[0])
        self._need(path)
        return FeatureStore.open(path)

    def target_features(self, checkpoint: str, targets: str) -> FeatureStore:
        """The features of a target set by a checkpoint."""
        path = self.layout.target_features(checkpoint, self._set(targets))
        self._need(path)
        return FeatureStore.open(path)

    def margins(self, targets: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Each target's margin by the end of each training, [trainings, t]."""
        return self._of_ends(targets, "margin").astype(np.float64)

    def predictions(self, targets: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The class that the end of each training gives each target, [trainings, t]."""
        return self._of_ends(targets, "prediction").astype(np.int64)

    def _of_ends(self, targets: str, name: str) -> np.ndarray[Any, Any]:
        """What the end of each training says of each target, [trainings, t]."""
        ends = final_checkpoints(self.settings.checkpoints)
        return np.stack([self.target_features(end, targets).column(name) for end in ends])

    @property
    def summary(self) -> dict[str, Any]:
        """The run's figures, ``summary.json``."""
        return self._figures(self.layout.summary, "the workflow")

    @property
    def provenance(self) -> dict[str, Any]:
        """What every output was made from, ``provenance.json``.

        >>> run.provenance["outputs"]["data/train"]["content"]
        """
        return self._figures(self.layout.provenance, "the workflow")

    @property
    def lds(self) -> dict[str, Any] | None:
        """The linear datamodeling score beside ceiling and baselines; None before the evaluation.

        >>> run.lds and run.lds["lds"]["value"]
        """
        return self._measured(self.layout.lds)

    @property
    def removal(self) -> dict[str, Any] | None:
        """What leaving out targets' proponents did; None before the evaluation."""
        return self._measured(self.layout.removal)

    @property
    def mislabelled(self) -> dict[str, Any] | None:
        """How well wrong labels are found, where they are known; None before the evaluation."""
        return self._measured(self.layout.mislabelled)

    @property
    def stability(self) -> dict[str, Any] | None:
        """Whether signs and ranks hold from training to training; None before the evaluation."""
        return self._measured(self.layout.stability)

    def measured_table(self, path: Path, kind: str) -> pa.Table | None:
        """A table of the evaluation; None before it was made."""
        if not is_there(path):
            return None
        table, manifest = load_table(path, kind)
        self._check(path, manifest)
        return table

    def place(self, row: int) -> int:
        """The place in the train set of a row, by its id.

        Raises:
            TrakError: if no train row has it.
        """
        row = _whole(row, "row", "a train row is named by its id in the source")
        places = np.flatnonzero(self.train_rows.column("row") == row)
        if not len(places):
            raise TrakError(f"{row}: no train row has this id; `row` is the id in the source")
        return int(places[0])

    @cached_property
    def train_rows(self) -> PreparedRows:
        """The train rows as models read them, with their tokens."""
        self._need(self.layout.train)
        return PreparedRows.load(self.layout.train)

    def target_rows(self, name: str) -> PreparedRows:
        """A target set's rows, as :attr:`train_rows`."""
        path = self.layout.targets(self._set(name))
        self._need(path)
        return PreparedRows.load(path)

    def _set(self, name: str | None) -> str:
        """The name of a target set; the first one, if none is given."""
        if name is None:
            return self.target_sets[0]
        if name not in self.settings.targets:
            raise TrakError(f"{name}: is no target set; there are {', '.join(self.target_sets)}")
        return name

    def score_store(self, targets: str) -> ScoreStore:
        """What is known of each target of a set, and every row's score where kept."""
        targets = self._set(targets)
        self._need(self.layout.scores(targets))
        return open_scores(self.layout, self.settings, targets)

    def _measured(self, path: Path) -> dict[str, Any] | None:
        return self._figures(path, "snakemake evaluation") if is_there(path) else None

    def _figures(self, path: Path, maker: str) -> dict[str, Any]:
        self._need(path, maker)
        values, manifest = load_document(path, None)
        self._check(path, manifest)
        return values

    def _check(self, path: Path, manifest: Manifest) -> None:
        """Refuse what was not made from what the run holds now; of plans, what they were made from.

        Which rows are left out is planned by scores, which may be others by now.
        """
        lineage = Lineage(self.layout)
        lineage.check(path, manifest)
        if manifest.kind in _MADE_BY:
            manifest.require(
                path, version=step_version(_MADE_BY[manifest.kind]), by="the one that is here"
            )
        for name in manifest.made_from:
            plan = self.layout.root / name
            if name.endswith(".plan.parquet") and is_there(plan):
                lineage.check(plan, artefact_manifest(plan))

    def _need(self, path: Path, maker: str = "the workflow") -> None:
        """Refuse what was not made yet."""
        if not path.exists():
            raise TrakError(
                f"{self.path}: is not finished, {self.layout.name(path)} is missing; run {maker}, and "
                f"see `trak-steps status {self.path}`"
            )


def _whole(given: Any, name: str, what: str) -> int:
    """A whole number, also NumPy's. Raises TrakError if it is none, or true or false."""
    try:
        if not isinstance(given, bool | np.bool_):
            return operator.index(given)
    except TypeError:
        pass
    raise TrakError(f"{name}: is {given!r}, not a whole number; {what}")


def _dataset(rows: PreparedRows) -> "datasets.Dataset":
    """Prepared rows without their tokens."""
    import datasets

    kept: Mapping[str, Any] = rows.table.drop_columns(
        [name for name in TOKENS if name in rows.table.column_names]
    )
    return datasets.Dataset(datasets.table.InMemoryTable(kept))
