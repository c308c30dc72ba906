"""Against the reference implementation, `traker` 0.3.2, on the same checkpoints and projection.

The reference divides each checkpoint's inverse kernel by its mean absolute entry, so its scores are
ours up to a factor per checkpoint. Its model output passes a 4-D additive mask through `vmap`
unchanged; a 2-D mask would take a data-dependent branch in current transformers.

Both sides get the same ridge, since the reference inverts in float32 and these kernels, of barely
trained models, lose three digits without one. Its ridge is one absolute number, ours is relative to
each kernel's mean diagonal, so ours differs between the two checkpoints.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, attribute
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measure.traker import Logits
from trak_steps.config import Settings, parse_settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.kernel.gram import factor_kernel
from trak_steps.model.load import load_classifier
from trak_steps.projection import FoldProjection, Parameter
from trak_steps.projection.base import projection_key
from trak_steps.run.layout import Layout, shard_names
from trak_steps.steps.checkpoints import finetune
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.steps.scores import calibrate, gather, score
from trak_steps.store.features import TrainFeatures
from trak_steps.store.kernel import KernelStore, save_kernel
from trak_steps.store.scores import ScoreStore

trak = pytest.importorskip("trak", reason="traker is installed by `make test`")
from trak.projectors import AbstractProjector  # noqa: E402

# Relative to the largest score.
TOLERANCE = 1e-4
N, T, K = 60, 5, 12
SHARD = 40
CHECKPOINTS = ("0-0.5", "0")


class OurProjector(AbstractProjector):  # type: ignore[misc]
    """Our projection behind the reference's interface."""

    def __init__(self, size: int, names: tuple[str, ...]) -> None:
        super().__init__(size, K, 0, "rademacher", "cpu")
        self._names = names

    def project(self, grads: dict[str, Tensor], model_id: int) -> Tensor:
        parameters, start = [], 0
        for name, gradient in grads.items():
            ours = name.removeprefix("classifier.")
            parameters.append(Parameter(ours, tuple(gradient.shape[1:]), start))
            start += parameters[-1].size
        projection = FoldProjection(
            parameters,
            dim=K,
            key=projection_key(0, self._names[model_id]),
            device=torch.device("cpu"),
        )
        sketch = projection.sketch(len(gradient))
        for parameter, gradient in zip(parameters, grads.values(), strict=True):
            sketch.add(parameter, gradient)
        return sketch.finish()

    def free_memory(self) -> None: ...


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Settings]:
    """Two checkpoints, scored by the preset of the reference's rule, but for one absolute ridge."""
    settings = parse_settings(
        {
            **SMALL,
            "scoring": "reference",
            "dataset": {"path": "demo", "train_size": N, "group": "fact"},
            "features": {"dim": K, "shard_size": SHARD},
            "scores": {"top": 3},
        }
    )
    assert (settings.scores.loss_weight_power, settings.scores.balance) == (1.0, False)
    layout = Layout(tmp_path_factory.mktemp("traker") / "run")
    base_model.run(layout, settings)
    prepare.run_train(layout, settings)
    prepare.run_targets(layout, settings, "validation")
    finetune.run(layout, settings, 0)
    attribute(layout, settings)
    for checkpoint in CHECKPOINTS:
        mean = kernel_of(layout, checkpoint).diagonal().mean()
        # Each its own relative ridge, which settings cannot say and steps refuse: so it is put in.
        stored = KernelStore.open(layout.kernel(checkpoint))
        whole = kernel_of(layout, checkpoint)
        factor = factor_kernel(torch.from_numpy(whole), N, absolute_ridge(layout) / float(mean))
        save_kernel(stored.path, whole, factor.numpy(), stored.total(), stored.manifest)
    score_all(layout, settings)
    return layout, settings


def score_all(layout: Layout, settings: Settings) -> None:
    calibrate.run(layout, settings)
    score.run(layout, settings, "validation", 32)
    gather.run(layout, settings, "validation", 32)


def kernel_of(layout: Layout, checkpoint: str) -> NDArray[np.float64]:
    features = train_features(layout, checkpoint).features(0, N).astype(np.float64)
    product: NDArray[np.float64] = features.T @ features
    return product


def absolute_ridge(layout: Layout) -> float:
    """A tenth of the mean diagonal of one of the kernels."""
    return 0.1 * float(kernel_of(layout, "0").diagonal().mean())


def train_features(layout: Layout, checkpoint: str) -> TrainFeatures:
    shards = shard_names(N, SHARD)
    return TrainFeatures([layout.train_shard(checkpoint, shard) for shard in shards], N)


def ours(layout: Layout) -> NDArray[np.float32]:
    """Without their unit, which a run has as a whole."""
    store = ScoreStore.open(layout.scores("validation"))
    scores: NDArray[np.float32] = store.scores(0, N) / (store.manifest.details["scale"] or 1.0)
    return scores


def ours_of_one(
    layout: Layout, settings: Settings, checkpoint: str, tmp_path: Path
) -> NDArray[np.float32]:
    """Scores of one checkpoint: the same features and kernel, in a run that knows no other."""
    alone = Layout(tmp_path / checkpoint)
    alone.root.mkdir()
    for part in ("data", "features", "kernel"):
        (alone.root / part).symlink_to(layout.root / part)
    fraction = [1.0] if checkpoint == "0" else [0.5]
    values = {**settings.model_dump(), "checkpoints": {"count": 1, "keep": fraction}}
    score_all(alone, Settings.model_validate(values))
    return ours(alone)


def batch(rows: PreparedRows) -> list[Tensor]:
    """All rows padded to one length, with the 4-D additive mask."""
    tokens = rows.tokens(0, len(rows))
    longest = max(len(row["input_ids"]) for row in tokens)
    ids, types, mask = (torch.zeros(len(rows), longest, dtype=torch.long) for _ in range(3))
    for i, row in enumerate(tokens):
        length = len(row["input_ids"])
        ids[i, :length] = torch.tensor(row["input_ids"])
        types[i, :length] = torch.tensor(row["token_type_ids"])
        mask[i, :length] = 1
    additive = (1.0 - mask.float())[:, None, None, :] * torch.finfo(torch.float32).min
    return [ids, types, additive, torch.tensor(rows.column("label"))]


def theirs(layout: Layout, checkpoints: tuple[str, ...], folder: Path) -> NDArray[np.float32]:
    """The reference's scores, [n, t]."""

    def load(name: str) -> Logits:
        return Logits(
            load_classifier(
                layout.checkpoint(name),
                outputs=2,
                device=torch.device("cpu"),
                trust_remote_code=False,
                attention="eager",
            )
        )

    model = load(checkpoints[0])
    size = sum(parameter.numel() for parameter in model.parameters())
    traker = trak.TRAKer(
        model=model,
        task="text_classification",
        train_set_size=N,
        save_dir=str(folder),
        device="cpu",
        projector=OurProjector(size, checkpoints),
        use_half_precision=False,
        # The reference divides gradients by √p first.
        lambda_reg=absolute_ridge(layout) / size,
    )
    train = batch(PreparedRows.load(layout.train))
    targets = batch(PreparedRows.load(layout.targets("validation")))
    for i, name in enumerate(checkpoints):
        traker.load_checkpoint(load(name).state_dict(), model_id=i)
        for start in range(0, N, 30):
            traker.featurize(
                [part[start : start + 30] for part in train], num_samples=min(30, N - start)
            )
    traker.finalize_features()
    for i, name in enumerate(checkpoints):
        traker.start_scoring_checkpoint("targets", load(name).state_dict(), i, num_targets=T)
        traker.score(targets, num_samples=T)
    scores: NDArray[np.float32] = np.array(traker.finalize_scores("targets"))
    return scores


def factor(mine: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float((mine.astype(float) * other).sum() / (mine.astype(float) ** 2).sum())


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_scores_of_one_checkpoint_are_the_references_up_to_its_factor(
    run: tuple[Layout, Settings], tmp_path: Path, checkpoint: str
) -> None:
    layout, settings = run
    mine = ours_of_one(layout, settings, checkpoint, tmp_path)
    reference = theirs(layout, (checkpoint,), tmp_path / "traker")
    assert mine.shape == reference.shape == (N, T)
    scaled = factor(mine, reference) * mine
    assert np.abs(reference - scaled).max() < TOLERANCE * np.abs(reference).max()


def test_two_checkpoints_are_averaged_as_the_reference_does(
    run: tuple[Layout, Settings], tmp_path: Path
) -> None:
    """Mean of φᵀK⁻¹φ times mean of Q: with each checkpoint's factor, known from it alone."""
    layout, settings = run
    reference = theirs(layout, CHECKPOINTS, tmp_path / "both")
    weights, products, factors = [], [], []
    for checkpoint in CHECKPOINTS:
        mine = ours_of_one(layout, settings, checkpoint, tmp_path)
        alone = theirs(layout, (checkpoint,), tmp_path / f"traker-{checkpoint}")
        weight = train_features(layout, checkpoint).column("loss_weight")
        weights.append(weight)
        products.append(mine / weight[:, None])
        factors.append(factor(mine, alone))
    mean_weight = np.mean(weights, 0)[:, None]
    expected = np.mean([f * p for f, p in zip(factors, products, strict=True)], 0) * mean_weight
    assert np.abs(reference - expected).max() < TOLERANCE * np.abs(reference).max()
    # And with equal factors, which is ours, the same rule gives our scores.
    own = np.mean(products, 0) * mean_weight
    assert np.abs(ours(layout) - own).max() < 1e-5 * np.abs(own).max()
