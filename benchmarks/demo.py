"""How many of the demo's facts the scores find, by ridge and by checkpoints of the training.

    python benchmarks/demo.py

Scores the finished demo's own features in every combination, beside baselines of the same features, and
prints the table of docs/demo.md. Nothing is trained.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from trak_steps.config import load_settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.recall import group_recall
from trak_steps.kernel.gram import factor_kernel, solve_kernel, sum_kernel
from trak_steps.kernel.ridge import ridge_for, spectrum
from trak_steps.run.layout import Layout, checkpoint_names, final_checkpoints
from trak_steps.scoring.scores import balanced
from trak_steps.store.features import FeatureStore, TrainFeatures

DOFS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
TOP = 10
CPU = torch.device("cpu")


def main() -> None:
    """Print the table."""
    layout = Layout(Path("results/demo"))
    if not layout.summary.exists():
        sys.exit(f"{layout.root}: is not a finished run; `make demo` makes it")
    settings = load_settings(Path("config/config.yaml"))
    train, targets = PreparedRows.load(layout.train), PreparedRows.load(layout.targets("validation"))
    n, groups = len(train), train.column("group")
    names = checkpoint_names(settings.checkpoints)
    last = final_checkpoints(settings.checkpoints)
    sets = {m: TrainFeatures(sorted(layout.train_features(m).glob("*.zarr")), n) for m in names}
    features = {m: torch.from_numpy(of_train.features(0, n)) for m, of_train in sets.items()}
    stores = {m: FeatureStore.open(layout.target_features(m, "validation")) for m in names}
    wanted = {m: torch.from_numpy(stores[m].features(0, len(targets))) for m in names}
    kernels = {m: sum_kernel([features[m]], features[m].shape[1], CPU)[0] for m in names}
    spectra = {m: spectrum(kernel) for m, kernel in kernels.items()}

    def recall(scores: Tensor) -> float:
        top = np.argsort(-scores.numpy(), axis=0, kind="stable")[:TOP].T
        found = group_recall(groups[top], targets.column("group"), groups)
        assert found is not None
        return found.recall

    def scored(some: list[str], solved: list[Tensor]) -> Tensor:
        return torch.stack([features[m] @ w.T for m, w in zip(some, solved, strict=True)]).mean(0)

    print("| effective_dof | last checkpoints | all checkpoints | all checkpoints, balanced |")
    print("| --- | --- | --- | --- |")
    for dof in DOFS:
        solved = {
            m: solve_kernel(factor_kernel(kernels[m], n, ridge_for(spectra[m], dof)), wanted[m])
            for m in names
        }
        alike = balanced(list(solved.values()), [kernels[m] for m in names], n)
        found = [
            recall(scored(last, [solved[m] for m in last])),
            recall(scored(names, list(solved.values()))),
            recall(scored(names, alike)),
        ]
        print(f"| {dof:g} | " + " | ".join(f"{value:.2f}" for value in found) + " |")
    plain = [solve_kernel(factor_kernel(kernels[m], n, 0.0), wanted[m]) for m in last]
    weight = torch.from_numpy(np.mean([sets[m].column("loss_weight") for m in last], 0))
    print(f"\nreference rule {recall(scored(last, plain) * weight[:, None]):.2f}, ", end="")
    cosines = torch.stack([normalize(features[m]) @ normalize(wanted[m]).T for m in names])
    labels, target_labels = (torch.tensor(rows.column("label")) for rows in (train, targets))
    same = (labels[:, None] == target_labels[None, :]).float()
    print(
        f"gradient cosine {recall(cosines.mean(0)):.2f}, "
        f"gradient dot product {recall(scored(names, list(wanted.values()))):.2f}, "
        f"same label {recall(same):.2f}"
    )


if __name__ == "__main__":
    main()
