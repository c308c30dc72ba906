"""Influence functions by EK-FAC (Grosse et al. 2023), with `kronfluence`, at the checkpoints of a run.

The Gauss-Newton Hessian of the train loss is approximated for each linear layer by itself; labels are
sampled from what the model says, as kronfluence does unless told otherwise. Embeddings and LayerNorm
have no part in it.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import ScoreArguments
from kronfluence.factor.config import Ekfac, FactorStrategy
from kronfluence.module.linear import TrackedLinear
from kronfluence.module.tracked_module import ModuleMode
from kronfluence.module.tracker.factor import LambdaTracker
from kronfluence.task import Task
from kronfluence.utils.constants import (
    ACTIVATION_EIGENVECTORS_NAME,
    GRADIENT_EIGENVECTORS_NAME,
    LAMBDA_MATRIX_NAME,
    NUM_LAMBDA_PROCESSED,
)
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.measure.ways import balanced_mean
from trak_steps.console.progress import progress
from trak_steps.data.prepared import PreparedRows
from trak_steps.gradients.model_output import TextClassification
from trak_steps.gradients.rows import Row, collate
from trak_steps.model.load import load_classifier
from trak_steps.run.layout import Layout, training_of
from trak_steps.run.model_inputs import read_rows
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import digest_json

CPU = torch.device("cpu")
BATCH = 50
SEED = 0
# kronfluence's `damping_factor`: none stands for a tenth of a layer's mean eigenvalue, as in the paper.
# Its default, 1e-8, scores less.
DAMPING = None
Batch = dict[str, Tensor]


def ekfac(
    layout: Layout, names: Iterable[str], train: PreparedRows, targets: PreparedRows, kept: Path
) -> dict[str, Tensor]:
    """Scores [n, t] of checkpoints, by their names; positive where a row raises the target's margin.

    Args:
        layout: of the run.
        names: of its checkpoints.
        train, targets: its n and t rows.
        kept: a folder where each checkpoint's scores are kept, and taken from if made of the same.
    """
    found = {}
    names = list(names)
    for name in progress(names, total=len(names), label="EK-FAC", unit="checkpoint"):
        folder = layout.checkpoint(name)
        key = digest_json(
            {
                "checkpoint": check_folder(folder, "checkpoint").content,
                "train": train.content,
                "targets": targets.content,
                "damping": DAMPING,
                "seed": SEED,
                "kronfluence": version("kronfluence"),
            }
        )

        def make(folder: Path = folder) -> Tensor:
            model = load_classifier(folder, outputs=train.outputs, device=CPU, trust_remote_code=False)
            return influence(model, read_rows(train), read_rows(targets))

        found[name] = kept_or_made(kept / f"{name}.npz", key, make).double()
    return found


def kept_or_made(file: Path, key: str, make: Callable[[], Tensor]) -> Tensor:
    """Scores that a file has, if they were made of what the key says; or made now, and kept there."""
    if file.exists():
        with np.load(file) as stored:
            if str(stored["key"]) == key:
                return torch.from_numpy(stored["scores"])
    scores = make()
    with complete_or_absent(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, scores=scores.numpy(), key=key)
    return scores


def ways_by_ekfac(scores: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names and scores [n, t] of sets of checkpoints, from those of each, by name.

    Balanced: without it, those of the ends, which predict worst, outweigh all others.
    """
    last = [name for name in scores if name == training_of(name)]
    early = [name for name in scores if name not in last]
    for count in sorted({1, len(last)} if last else ()):
        word = "1 training" if count == 1 else f"{count} trainings"
        some = {training_of(name) for name in last[:count]}
        for shown, names in (("all", list(scores)), ("earlier", early), ("last", last)):
            of = [scores[name] for name in names if training_of(name) in some]
            yield f"EK-FAC, {word}, {shown} checkpoints", balanced_mean(of)


def influence(
    model: nn.Module, train: list[Row], targets: list[Row], damping: float | None = DAMPING
) -> Tensor:
    """Scores [n, t] at one model, which is changed; positive where a row raises the target's margin.

    Args:
        model: a classifier in float32.
        train, targets: n and t rows.
        damping: kronfluence's ``damping_factor``.
    """
    pad = getattr(model.config, "pad_token_id", None) or 0
    # Rows of like length together, as padding costs.
    orders = [sorted(range(len(rows)), key=lambda i: len(rows[i])) for rows in (train, targets)]
    of_train, of_targets = (
        [rows[i] for i in order] for rows, order in zip((train, targets), orders, strict=True)
    )
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "ekfac",
            prepare_model(model, _Margin()),
            _Margin(),
            cpu=True,
            disable_tqdm=True,
            output_dir=folder,
        )
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=lambda rows: _batch(rows, pad)))
        analyzer.fit_all_factors("factors", of_train, per_device_batch_size=BATCH)
        analyzer.compute_pairwise_scores(
            scores_name="scores",
            factors_name="factors",
            query_dataset=of_targets,
            train_dataset=of_train,
            per_device_query_batch_size=BATCH,
            per_device_train_batch_size=BATCH,
            # So that the train rows are run once, for all targets.
            score_args=ScoreArguments(
                damping_factor=damping,
                query_gradient_accumulation_steps=-(-len(of_targets) // BATCH),
            ),
        )
        products = analyzer.load_pairwise_scores("scores")["all_modules"]
    back_train, back_targets = (torch.tensor(order).argsort() for order in orders)
    # ∇f(z)ᵀ H⁻¹ ∇ℓ(x): a step on the row goes against the gradient of its loss.
    scores: Tensor = -products.T[back_train][:, back_targets]
    return scores


class _Margin(Task):
    """The train loss is the cross-entropy, the measurement a target's margin; both summed over rows."""

    def compute_train_loss(self, batch: Batch, model: nn.Module, sample: bool = False) -> Tensor:
        """Of the rows' labels, or of labels that are drawn from what the model says."""
        logits, labels = _run(batch, model)
        if sample:
            with torch.no_grad():
                labels = torch.multinomial(logits.softmax(1), 1).squeeze(1)
        return cross_entropy(logits, labels, reduction="sum")

    def compute_measurement(self, batch: Batch, model: nn.Module) -> Tensor:
        """log(p / (1 − p))."""
        return TextClassification().output(*_run(batch, model)).sum()

    def get_attention_mask(self, batch: Batch) -> Tensor:
        """What is no padding."""
        return batch["attention_mask"]


def _run(batch: Batch, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Logits and labels."""
    inputs = {name: values for name, values in batch.items() if name != "label"}
    return model(**inputs).logits, batch["label"]


def _batch(rows: list[Row], pad: int) -> Batch:
    """With a mask even where nothing is padded: kronfluence would take that of the batch before."""
    batch = collate(rows, CPU, pad)
    return {"attention_mask": torch.ones_like(batch["input_ids"]), **batch}


class _SquaresInTheEigenbasis(LambdaTracker):
    """Adds up the squares of gradients that are in the eigenbasis already."""

    def _update_lambda_matrix(self, per_sample_gradient: Tensor) -> None:
        storage = self.module.storage
        if storage[LAMBDA_MATRIX_NAME] is None:
            storage[NUM_LAMBDA_PROCESSED] = torch.zeros(1, dtype=torch.int64)
            storage[LAMBDA_MATRIX_NAME] = torch.zeros_like(per_sample_gradient[0])
        storage[NUM_LAMBDA_PROCESSED].add_(len(per_sample_gradient))
        storage[LAMBDA_MATRIX_NAME].add_(per_sample_gradient.square_().sum(0))


class _ScaledInTheEigenbasis(Ekfac, factor_strategy=FactorStrategy.EKFAC):
    """Divides gradients that are in the eigenbasis by its eigenvalues, and leaves them there."""

    def precondition_gradient(self, gradient: Tensor, storage: dict[str, Tensor]) -> Tensor:
        """Of each row, [b, out, in + 1]."""
        return gradient * storage[LAMBDA_MATRIX_NAME]


class QuickLinear(TrackedLinear, module_type=nn.Linear):
    """kronfluence's linear layer, but that all gradients are made in the eigenbasis.

    kronfluence brings each row's gradient there, which has out × (in + 1) numbers, and a target's back.
    Its two factors have but as many rows as there are tokens, and inner products are the same in both
    bases. So Λ takes a ninth of the products, for texts of 40 tokens.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._trackers[ModuleMode.LAMBDA] = _SquaresInTheEigenbasis(self)

    def compute_per_sample_gradient(self, input_activation: Tensor, output_gradient: Tensor) -> Tensor:
        """Of each row, [b, out, in + 1], in the eigenbasis."""
        inputs = self._flatten_input_activation(input_activation)
        inputs = inputs @ self.storage[ACTIVATION_EIGENVECTORS_NAME].to(inputs.dtype)
        gradients = output_gradient @ self.storage[GRADIENT_EIGENVECTORS_NAME].to(inputs.dtype)
        return torch.einsum("b...o,b...i->boi", gradients, inputs)

    def compute_pairwise_score(
        self, preconditioned_gradient: Tensor, input_activation: Tensor, output_gradient: Tensor
    ) -> Tensor:
        """Of targets and rows, [q, b]."""
        rows = self.compute_per_sample_gradient(input_activation, output_gradient)
        return preconditioned_gradient.flatten(1) @ rows.flatten(1).T
