"""Explain texts by the checkpoints, features and kernels of a run, of which nothing is changed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.api.explanation import ClassExplanation, Explanation
from trak_steps.api.texts import Query
from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.gradients.model_output import TextClassification, predict
from trak_steps.gradients.rows import Row
from trak_steps.kernel.blocks import scores as cost_of_scores
from trak_steps.kernel.blocks import targets_at_once
from trak_steps.model.device import check_device, pick_device
from trak_steps.model.forward import forward
from trak_steps.model.load import load_classifier
from trak_steps.run.featurizer import Featurizer, naming_settings
from trak_steps.run.fit import bytes_allowed, cells_at_once
from trak_steps.run.identity import rows_listed
from trak_steps.run.layout import Layout, final_checkpoints
from trak_steps.run.model_output import load_model_output
from trak_steps.run.parts import open_calibration
from trak_steps.run.scoring import Scoring
from trak_steps.run.step_version import step_version
from trak_steps.run.tokenise import Tokeniser
from trak_steps.run.top_rows import listed_columns, row_columns
from trak_steps.scoring.listed import with_uncertainty
from trak_steps.scoring.stream import SIDES, Stream
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import Manifest, library_versions
from trak_steps.store.tree import check_tree

# Classes of a text that are explained, if no label is asked for: those of the largest margins.
CLASSES = 8
# Texts, times their classes, that are featurized and scored in one pass over the train rows' features.
TOGETHER = 512
# Where gradients come from, which the run's features were held against autograd with.
OF_GRADIENTS = ("torch", "transformers")


@dataclass(frozen=True)
class _Read:
    """A query as the models read it."""

    query: Query
    tokens: dict[str, list[int]]
    cut: int

    def row(self, label: int | float) -> Row:
        return Row(label=label, **self.tokens)


class Explainer:
    """Explains texts: opened once, for any number of them.

    Args:
        layout: of the run.
        settings: of the run.
        train: its train set.
        top: train rows of a list, of each side.

    Raises:
        TrakError: if something of the run is missing, altered, does not fit together, or was made by
            another version of this package.
    """

    def __init__(self, layout: Layout, settings: Settings, train: PreparedRows, top: int) -> None:
        if top < 1:
            raise TrakError(f"top: is {top}; a list has at least one row")
        self._layout, self._settings, self._train = layout, settings, train
        # Before its digest is compared, for it may not be there at all.
        load_model_output(settings.features.model_output, settings.features.loss_temperature)
        check_device(settings.execution.device, precision=settings.features.precision)
        device = pick_device(settings.execution.device)
        self._scoring = Scoring.open(layout, settings, train, device=device)
        self._calibration = open_calibration(layout, settings, self._scoring.kernels)
        self._check_versions()
        self._tokenise = self._tokeniser()
        self._ends = final_checkpoints(settings.checkpoints)
        scoring, m = self._scoring, len(self._scoring.names)
        self._together = targets_at_once(
            bytes_allowed(settings), TOGETHER, lambda some: cost_of_scores(some, scoring.dim, m)
        )
        cost = cost_of_scores(self._together, scoring.dim, m)
        self._block_rows = cells_at_once(settings, cost, f"a text by {m} checkpoints")
        totals = self._calibration.totals(m, scoring.dim)
        self._totals = [torch.from_numpy(total) for total in totals]
        self._top = min(top, len(train))
        # As the run lists them: which ranks a row may have is found among more than are shown.
        self._listed = min(rows_listed(max(top, settings.scores.top)), len(train))
        self._checked: set[str] = set()

    def _check_versions(self) -> None:
        """Refuse what another version of the steps made: texts would be explained by other numbers."""
        made = {
            "features.featurize": self._scoring.features[0].manifest,
            "kernels.kernel": self._scoring.kernels[0].manifest,
            "scores.calibrate": self._calibration.manifest,
        }
        for module, manifest in made.items():
            here = step_version(module)
            if manifest.version != here:
                raise TrakError(
                    f"{self._layout.root}: its {manifest.kind} were made by version {manifest.version} "
                    f"of the step, this package has {here}; run the workflow once more"
                )

    def _tokeniser(self) -> Tokeniser:
        folder, model = self._layout.model, self._settings.model
        # The weights before training are of no use here, and large.
        files = Manifest.load(folder, "model").files
        check_tree(folder, files, only=lambda name: not name.endswith(".safetensors"))
        return Tokeniser(folder, max_length=model.max_length, trust_remote_code=model.trust_remote_code)

    def explain(self, queries: Iterable[Query]) -> Iterator[Explanation]:
        """Explain texts in their order; what is held does not grow with their number.

        As many as the memory allows are taken together: each checkpoint is loaded, and the features of
        the train rows are read, once for all of them. Where one is wrong, those before it are explained
        first.

        Raises:
            TrakError: if a text cannot be read by the models, or a checkpoint was altered.
        """
        classes = len(self._train.label_names)
        at_once = max(1, self._together // max(1, min(classes, CLASSES)))
        waiting = iter(queries)
        while True:
            some, wrong = _taken(waiting, at_once)
            if some:
                yield from self._explain(some)
            if wrong is not None:
                raise wrong
            if not some:
                return

    @naming_settings()
    def _explain(self, queries: Sequence[Query]) -> list[Explanation]:
        read = self._read(queries)
        classes = len(self._train.label_names)
        # Which labels to explain is known beforehand, unless it depends on what is predicted.
        first = any(query.label is None for query in queries) and not 0 < classes <= CLASSES
        logits = self._logits(read) if first else None
        asked = [self._labels(i, one.query, logits) for i, one in enumerate(read)]
        pairs = [(i, label) for i, labels in enumerate(asked) for label in labels]
        features, margins, found = self._features(read, [read[i].row(label) for i, label in pairs])
        if logits is None:
            logits = found
        tables, sums = self._listed_rows(features)
        made = [
            ClassExplanation(
                label=label,
                label_name=self._name(label),
                margin=float(margins[:, j].mean()),
                margins=tuple(margins[:, j].tolist()),
                probability=float(logits[:, i].softmax(1)[:, int(label)].mean()) if classes else None,
                sum_of_scores=float(sums[j]),
                top_table=tables[j],
            )
            for j, (i, label) in enumerate(pairs)
        ]
        return [
            self._explanation(
                one, logits[:, i], [of for of, (k, _) in zip(made, pairs, strict=True) if k == i]
            )
            for i, one in enumerate(read)
        ]

    def _read(self, queries: Sequence[Query]) -> list[_Read]:
        columns = list(zip(*(query.texts for query in queries), strict=True))
        encoded = self._tokenise([list(texts) for texts in columns])
        found = []
        for i, query in enumerate(queries):
            tokens = {name: values[i] for name, values in encoded.items()}
            length, cut = len(tokens["input_ids"]), 0
            if not length:
                raise TrakError(
                    f"`{query.texts[0][:40]}`: the run's tokenizer makes no token of this text"
                )
            if length >= self._settings.model.max_length:
                cut = self._tokenise.whole_length(query.texts) - length
            found.append(_Read(query, tokens, cut))
        return found

    def _logits(self, read: Sequence[_Read]) -> Tensor:
        """What the ends of the trainings say, [trainings, b, c]."""
        rows = [one.row(0) for one in read]
        found = []
        for checkpoint in self._ends:
            self._check(checkpoint)
            model = load_classifier(
                self._layout.checkpoint(checkpoint),
                outputs=self._train.outputs,
                device=self._scoring.device,
                trust_remote_code=self._settings.model.trust_remote_code,
            )
            found.append(forward(model, rows).logits)
            del model  # or it would be held beside the next
        return torch.stack(found)

    def _labels(self, place: int, query: Query, logits: Tensor | None) -> list[int | float]:
        """The labels of a text to explain."""
        classes = len(self._train.label_names)
        if query.label is not None:
            return [query.label]
        if logits is None:
            return list(range(classes))
        if not classes:
            return [float(predict(logits[:, place]).mean())]
        order = _margins(logits[:, place]).argsort(descending=True, stable=True)
        return [int(label) for label in order[:CLASSES]]

    def _features(
        self, read: Sequence[_Read], rows: Sequence[Row]
    ) -> tuple[list[Tensor], NDArray[np.float64], Tensor]:
        """Features of rows by each checkpoint; their outputs and the texts' logits by the ends."""
        features, margins, logits = [], [], []
        extremes = min(rows, key=len), max(rows, key=len)
        window = rows, np.arange(len(rows))
        for checkpoint, of_train in zip(self._scoring.names, self._scoring.features, strict=True):
            self._check(checkpoint)
            featurizer = Featurizer.open(
                self._layout, self._settings, checkpoint, self._train, extremes, self._scoring.device
            )
            self._check_featurizer(featurizer, checkpoint, of_train.manifest)
            (found,) = featurizer.features([window])
            features.append(torch.from_numpy(found.features))
            if checkpoint in self._ends:
                margins.append(found.margin.astype(np.float64))
                logits.append(forward(featurizer.model, [one.row(0) for one in read]).logits)
            del featurizer  # or its model would be held beside the next
        return features, np.stack(margins), torch.stack(logits)

    def _check(self, checkpoint: str) -> None:
        """Hold a checkpoint's files to their digests, once; its features were made from these."""
        if checkpoint not in self._checked:
            check_folder(self._layout.checkpoint(checkpoint), "checkpoint")
            self._checked.add(checkpoint)

    def _check_featurizer(self, featurizer: Featurizer, checkpoint: str, train: Manifest) -> None:
        """Refuse gradients that may not be those that the train rows' features were made from.

        The step held this model's gradients against autograd, so that is not done again; unless the
        libraries that compute them are others by now.
        """
        if featurizer.size != train.settings["size"]:
            raise TrakError(
                f"{self._layout.checkpoint(checkpoint)}: has {featurizer.size} parameters to explain "
                f"by, and its features were made from {train.settings['size']}; is transformers of "
                "another version? run the workflow once more"
            )
        now = library_versions()
        if any(train.versions.get(name) != now[name] for name in OF_GRADIENTS):
            featurizer.check()

    def _listed_rows(self, features: Sequence[Tensor]) -> tuple[list[pa.Table], NDArray[np.floating]]:
        """The strongest rows of each target, and what its scores add up to, [t]."""
        solved, sums = self._scoring.in_unit(features, self._calibration, self._totals)
        trainings = self._scoring.trainings
        stream = Stream(solved, trainings, self._listed, self._calibration.errors)
        for block in self._scoring.blocks(self._block_rows):
            for _ in stream.add(block.features, block.weights, block.start):
                pass
        counts, roots = stream.counts(), solved.roots.cpu().numpy()
        sides = []
        for place, side in enumerate(SIDES):
            of_side = with_uncertainty(
                stream.top(side),
                None if counts is None else counts[place],
                roots,
                trainings=len(set(trainings)),
                errors=self._calibration.errors,
                largest=side == SIDES[0],
            )
            sides.append({name: values[:, : self._top] for name, values in of_side.items()})
        tables = [self._table(side, of) for side, of in zip(SIDES, sides, strict=True)]
        size = sides[0]["place"].shape[1]
        return [
            pa.concat_tables([table.slice(j * size, size) for table in tables]).combine_chunks()
            for j in range(len(roots))
        ], sums.numpy().mean(0)

    def _table(self, side: str, of: dict[str, NDArray[Any]]) -> pa.Table:
        """The rows of a side, those of one target after those of the other."""
        t, size = of["place"].shape
        columns = {
            "side": [side] * (t * size),
            "rank": np.tile(np.arange(1, size + 1), t),
            **listed_columns(of, self._calibration.errors),
            **row_columns("train", self._train, of["place"].reshape(-1)),
        }
        return pa.table(columns)

    def _explanation(self, one: _Read, logits: Tensor, made: list[ClassExplanation]) -> Explanation:
        """Of a text, by the logits of the ends, [trainings, c]."""
        names = self._train.label_names
        each = predict(logits)
        of_classes: dict[str, float] = {}
        if names:
            margins = _margins(logits)
            prediction: int | float = int(margins.argmax())
            of_classes = dict(zip(names, margins.tolist(), strict=True))
            made = sorted(made, key=lambda of: (of.label != prediction, -margins[int(of.label)]))
        else:
            prediction = float(each.mean())
        return Explanation(
            texts=dict(zip(self._train.text_columns, one.query.texts, strict=True)),
            tokens=len(one.tokens["input_ids"]),
            tokens_cut=one.cut,
            asked=one.query.label is not None,
            prediction=prediction,
            prediction_name=self._name(prediction),
            predictions=tuple(each.tolist()),
            margins_of_classes=of_classes,
            classes=tuple(made),
        )

    def _name(self, label: int | float) -> str | None:
        names = self._train.label_names
        return names[int(label)] if names else None


def _taken(waiting: Iterator[Query], count: int) -> tuple[list[Query], TrakError | None]:
    """The next queries, and what is wrong with the one after them."""
    some: list[Query] = []
    try:
        for query in islice(waiting, count):
            some.append(query)
    except TrakError as error:
        return some, error
    return some, None


def _margins(logits: Tensor) -> Tensor:
    """log p/(1 − p) of each class, the mean over trainings, [c]; a custom output says no probability."""
    trainings, classes = logits.shape
    output = TextClassification()
    labels = (torch.full((trainings,), label) for label in range(classes))
    return torch.stack([output.output(logits.double(), of).mean() for of in labels])
