"""The whole pipeline against the formula, one example at a time in float64; and what must not matter."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import attribute, small_settings
from fold_oracle import fold_matrix
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.gradients.source import select_parameters
from trak_steps.model.files import SECOND_MOMENTS as FILE
from trak_steps.model.load import load_classifier
from trak_steps.projection import DenseProjection, FoldProjection
from trak_steps.projection.base import projection_key, total_size
from trak_steps.projection.dense import BLOCK
from trak_steps.run.layout import Layout, checkpoint_names
from trak_steps.steps.checkpoints import finetune
from trak_steps.store.scores import ScoreStore

# Relative to the largest score: float32 gradients and products, against float64 throughout.
TOLERANCE = 1e-4
# Adam's.
EPSILON = 1e-8
CPU = torch.device("cpu")


def scores_of(layout: Layout) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    store = ScoreStore.open(layout.scores("validation"))
    return store.scores(0, store.shape[0]), store.std(0, store.shape[0])


def gradients(layout: Layout, checkpoint: str, rows: PreparedRows) -> tuple[Tensor, Tensor]:
    """Gradients of the margin [n, p], and loss weights [n], by autograd in float64."""
    model = load_classifier(
        layout.checkpoint(checkpoint),
        outputs=2,
        device=CPU,
        trust_remote_code=False,
    )
    exact = copy.deepcopy(model).double().requires_grad_(True)
    found, weights = [], []
    for tokens, label in zip(rows.tokens(0, len(rows)), rows.column("label"), strict=True):
        inputs = {name: torch.tensor([values]) for name, values in tokens.items()}
        p = exact(**inputs).logits.softmax(1)[0, int(label)]
        parts = torch.autograd.grad((p / (1 - p)).log(), list(exact.parameters()))
        found.append(torch.cat([part.flatten() for part in parts]))
        weights.append(1 - p.detach())
    return torch.stack(found), torch.stack(weights)


def matrix(layout: Layout, settings: Settings, checkpoint: str) -> Tensor:
    """The whole projection matrix in float64, [p, k]."""
    model = load_classifier(
        layout.checkpoint(checkpoint), outputs=2, device=CPU, trust_remote_code=False
    )
    parameters = select_parameters(model, [".*"], [])
    chosen, key = settings.features, projection_key(settings.seed, checkpoint)
    if chosen.projection == "fold":
        fold = FoldProjection(parameters, dim=chosen.dim, key=key, device=CPU)
        return fold_matrix(fold, parameters)
    size = total_size(parameters)
    dense = DenseProjection(chosen.projection, size=size, dim=chosen.dim, key=key, device=CPU)
    blocks = [dense.block(i) for i in range(-(-size // BLOCK))]
    return torch.cat(blocks).double() / chosen.dim**0.5


def adams(layout: Layout, checkpoint: str) -> Tensor:
    """D^(-1/2) of each entry of the gradient, [p], scaled as the metric is."""
    folder = layout.checkpoint(checkpoint)
    model = load_classifier(folder, outputs=2, device=CPU, trust_remote_code=False)
    held = {name: value.double() for name, value in load_file(folder / FILE).items()}
    moments, roots = {}, {}
    for name, value in model.named_parameters():
        rows, columns = held[f"{name}.rows"], torch.ones(1, dtype=torch.float64)
        if value.dim() > 1:
            # An attention's query, key and value see the same inputs.
            kin = [key for key in held if key.endswith("columns") and same_inputs(key, name, model)]
            columns = sum(held[key] for key in kin) / len(kin)
            columns /= columns.mean()
        moments[name] = torch.outer(rows, columns).flatten()
        by_column = columns.sqrt() + (EPSILON if value.dim() > 1 else 0)
        roots[name] = torch.outer(rows.sqrt() + EPSILON, by_column).flatten()
    tables = [name for name in roots if "_embeddings." in name]
    others = [name for name in roots if name not in tables]
    assert len(tables) == 3
    before = sum(float(moments[name].sum()) for name in others)
    after = sum(float((moments[name] / roots[name]).sum()) for name in others)
    found = {name: (before / after / roots[name]).sqrt() for name in others}
    for name in tables:
        share = 0.05 * before / sum(float(moments[of].sum()) for of in tables)
        found[name] = torch.full_like(roots[name], share**0.5)
    return torch.cat([found[name] for name, _ in model.named_parameters()])


def same_inputs(key: str, name: str, model: torch.nn.Module) -> bool:
    """Whether a key of moments is of a matrix of the same shape in the same module as another."""
    other = key.removesuffix(".columns")
    if other.rsplit(".", 2)[0] != name.rsplit(".", 2)[0]:
        return False
    return model.get_parameter(other).shape == model.get_parameter(name).shape


def free_ridge(kernel: Tensor, share: float) -> float:
    """The λ for which trace(K (K + λ)⁻¹) is a share of K's rank, by trying ever finer ones."""
    rank, eye = torch.linalg.matrix_rank(kernel), torch.eye(len(kernel), dtype=torch.float64)
    low, high = 1e-20 * kernel.trace(), 1e6 * kernel.trace()
    for _ in range(200):
        middle = (low * high).sqrt()
        effective_dof = torch.trace(torch.linalg.solve(kernel + middle * eye, kernel))
        low, high = (middle, high) if effective_dof > share * rank else (low, middle)
    return float(middle)


@pytest.mark.parametrize(
    ("projection", "gradients_by", "metric", "ridge", "loss_weight", "runs"),
    [
        ("fold", "hooks", "adam", None, "own", 1),
        ("fold", "hooks", "none", 0.1, None, 1),
        ("fold", "functional", "adam", 0.1, "mean", 1),
        ("rademacher", "hooks", "none", 0.1, "mean", 2),
        ("rademacher", "hooks", "adam", None, "own", 2),
        ("rademacher", "functional", "none", 0.1, "own", 1),
        ("normal", "hooks", "adam", 0.1, "own", 1),
    ],
)
def test_scores_are_the_formula(
    small_run: tuple[Layout, Settings],
    tmp_path: Path,
    projection: str,
    gradients_by: str,
    metric: str,
    ridge: float | None,
    loss_weight: str | None,
    runs: int,
) -> None:
    """Every way to compute features, the default first, against the same slow computation."""
    layout = Layout(tmp_path / "run")
    (layout.root / "checkpoints").mkdir(parents=True)
    of_run_0 = [f"checkpoints/{name}" for name in checkpoint_names(small_run[1].checkpoints)]
    for part in ("model", "data", *of_run_0):
        (layout.root / part).symlink_to(small_run[0].root / part)
    settings = small_settings(
        checkpoints={"count": runs},
        features={"projection": projection, "gradients": gradients_by, "metric": metric},
        kernel={"ridge": ridge},
        scores={"loss_weight": loss_weight} if loss_weight else {"loss_weight_power": 0.0},
    )
    for run in range(1, runs):
        finetune.run(layout, settings, run)
    attribute(layout, settings)
    train, targets = PreparedRows.load(layout.train), PreparedRows.load(layout.targets("validation"))
    dim, products, weights = settings.features.dim, [], []
    for checkpoint in checkpoint_names(settings.checkpoints):
        train_gradients, weight = gradients(layout, checkpoint, train)
        P = matrix(layout, settings, checkpoint)
        if metric == "adam":
            P = adams(layout, checkpoint)[:, None] * P
        phi = train_gradients @ P
        # Train rows are targets too: they tell the unit.
        phi_targets = torch.cat([gradients(layout, checkpoint, targets)[0] @ P, phi])
        K = sum((torch.outer(row, row) for row in phi), torch.zeros(dim, dim, dtype=torch.float64))
        added = (
            free_ridge(K, settings.kernel.effective_dof) if ridge is None else ridge * K.trace() / dim
        )
        K += added * torch.eye(dim, dtype=torch.float64)
        products.append(phi @ torch.linalg.inv(K) @ phi_targets.T)
        weights.append(weight)
    roots = [product.square().mean(0).sqrt() for product in products]
    alike = sum(roots) / len(roots)
    of_rows = torch.stack(weights)
    if settings.scores.loss_weight == "mean":
        of_rows = of_rows.mean(0).expand_as(of_rows)
    of_rows = of_rows**settings.scores.loss_weight_power
    parts = [
        product * (alike / root) * of_row[:, None]
        for product, root, of_row in zip(products, roots, of_rows, strict=True)
    ]
    own = torch.stack(parts)
    t, sums = len(targets), own.mean(0).sum(0)
    # Of a training's end, which follows an intermediate checkpoint.
    margins = torch.stack([((1 - weight) / weight).log() for weight in weights[1::2]]).mean(0)
    scale = float(sums[t:] @ margins / (sums[t:] @ sums[t:]))
    assert scale > 0
    own, sums = scale * own[:, :, :t], scale * sums[:t]
    expected = own.mean(0).numpy()
    # Each training has two checkpoints, in turn; of a single one their spread is all that is known.
    of_trainings = own.unflatten(0, (runs, 2)).mean(1) if runs > 1 else own
    spread = of_trainings.std(0).numpy()
    scores, std = scores_of(layout)
    assert np.abs(scores - expected).max() < TOLERANCE * np.abs(expected).max()
    assert np.abs(std - spread).max() < TOLERANCE * np.abs(expected).max()
    store = ScoreStore.open(layout.scores("validation"))
    assert store.manifest.details["scale"] == pytest.approx(scale, rel=TOLERANCE)
    np.testing.assert_allclose(
        store.column("target_sum"), sums, atol=TOLERANCE * float(sums.abs().max())
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"features": {"shard_size": 7}},
        {"features": {"shard_size": 60}},
        {"execution": {"memory_mb": 64}},
        {"execution": {"memory_mb": 2048}},
    ],
    ids=["small shards", "one shard", "little memory", "much memory"],
)
def test_shards_and_batches_do_not_matter(
    small_run: tuple[Layout, Settings], tmp_path: Path, changes: dict[str, dict[str, object]]
) -> None:
    layout, _ = small_run
    other = Layout(tmp_path / "run")
    other.root.mkdir()
    for part in ("model", "data", "checkpoints"):
        (other.root / part).symlink_to(layout.root / part)
    attribute(other, small_settings(**changes))
    expected, found = scores_of(layout)[0], scores_of(other)[0]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_float16_and_rounded_features_give_nearly_the_same_scores(
    small_run: tuple[Layout, Settings], tmp_path: Path
) -> None:
    layout, _ = small_run
    expected = scores_of(layout)[0]
    for name, features in (
        ("half", {"dtype": "float16"}),
        ("rounded", {"codec": "bitround", "keep_bits": 10}),
    ):
        other = Layout(tmp_path / name)
        other.root.mkdir()
        for part in ("model", "data", "checkpoints"):
            (other.root / part).symlink_to(layout.root / part)
        attribute(other, small_settings(features=features))
        found = scores_of(other)[0]
        assert 0 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
