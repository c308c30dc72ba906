"""How many of the demo's facts the scores find, by ridge and power of the loss weight.

    python benchmarks/ridge.py

Scores the finished demo's own features in every combination, beside baselines of the same features, and
prints the table of docs/demo.md. Nothing is trained.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.recall import group_recall
from trak_steps.kernel.gram import factor_kernel, solve_kernel, sum_kernel
from trak_steps.layout import Layout
from trak_steps.scoring.scores import score_block
from trak_steps.store.features import FeatureStore, TrainFeatures

RIDGES = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)
POWERS = (0.0, 0.5, 1.0)
TOP = 10


def main() -> None:
    """Print the table."""
    layout = Layout(Path("results/demo"))
    if not layout.summary.exists():
        sys.exit(f"{layout.root}: is not a finished run; `make demo` makes it")
    train, targets = PreparedRows.load(layout.train), PreparedRows.load(layout.targets("validation"))
    n = len(train)
    names = sorted(path.name for path in (layout.root / "checkpoints").iterdir())
    sets = [TrainFeatures(sorted(layout.train_features(m).glob("*.zarr")), n) for m in names]
    features = [torch.from_numpy(of_train.features(0, n)) for of_train in sets]
    weights = torch.from_numpy(np.stack([of_train.column("loss_weight") for of_train in sets]))
    stores = [FeatureStore.open(layout.target_features(m, "validation")) for m in names]
    wanted = [torch.from_numpy(store.features(0, len(targets))) for store in stores]
    groups = train.column("group")

    def recall(scores: Tensor) -> float:
        top = np.argsort(-scores.numpy(), axis=0, kind="stable")[:TOP].T
        found = group_recall(groups[top], targets.column("group"), groups)
        assert found is not None
        return found.recall

    print("| ridge | " + " | ".join(f"power {power:g}" for power in POWERS) + " |")
    print("| --- " * (1 + len(POWERS)) + "|")
    device = torch.device("cpu")
    for ridge in RIDGES:
        solved = []
        for phi, phi_targets in zip(features, wanted, strict=True):
            kernel, _ = sum_kernel([phi], phi.shape[1], device)
            solved.append(solve_kernel(factor_kernel(kernel, n, ridge), phi_targets))
        found = [recall(score_block(features, solved, weights, power).scores) for power in POWERS]
        print(f"| {ridge:g} | " + " | ".join(f"{value:.2f}" for value in found) + " |")
    pairs = list(zip(features, wanted, strict=True))
    cosine = sum((normalize(a) @ normalize(b).T for a, b in pairs), torch.zeros(()))
    product = sum((a @ b.T for a, b in pairs), torch.zeros(()))
    labels, target_labels = (torch.from_numpy(rows.column("label")) for rows in (train, targets))
    same = (labels[:, None] == target_labels[None, :]).float()
    print(
        f"\ngradient cosine {recall(cosine):.2f}, gradient dot product {recall(product):.2f}, "
        f"same label {recall(same):.2f}"
    )


if __name__ == "__main__":
    main()
