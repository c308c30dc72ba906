"""Which scoring predicts retrained models best? On real QNLI with the first layers of a MiniLM.

    python benchmarks/scoring.py --task qnli --train train.parquet --validation validation.parquet \
        --model sentence-transformers/all-MiniLM-L6-v2

Makes a run below ``results/`` with its whole evaluation, which trains some hundred small models, then
compares ways to score that the pipeline has with some that it has not, all from the same features, and
writes ``benchmarks/results/scoring-<task>.json``. The figures of docs/evaluation.md come from it.
``--task trec`` takes text files of lines ``<class> <question>``.
"""

import argparse
import json
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.measure import answers, tasks
from trak_steps.config import load_settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.lds import Truth, measure
from trak_steps.evaluation.sums import fold
from trak_steps.kernel.ridge import ridge_for, spectrum
from trak_steps.layout import Layout, checkpoint_names, last_states
from trak_steps.steps.parts import open_retrained
from trak_steps.store.features import FeatureStore, TrainFeatures

RESULTS = Path("benchmarks/results")
TARGETS = "validation"
RECIPE = {
    "epochs": 4,
    "batch_size": 16,
    "learning_rate": 3e-4,
    "warmup_ratio": 0.1,
    "dropout": 0.0,
}
ROWS, LAYERS, DIM = 1000, 2, 4096
Array = NDArray[np.float64]


def main() -> None:
    """Make the run, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--task", choices=["qnli", "trec"], default="qnli")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--cores", type=int, default=2)
    given = parser.parse_args()
    task = getattr(tasks, given.task)(given.train, given.validation)
    config = tasks.prepare(
        task,
        given.model,
        Path("results") / "tasks" / f"scoring-{given.task}",
        rows=ROWS,
        layers=LAYERS,
        checkpoints={"count": 5, "keep": [0.25, 0.5, 1.0]},
        finetune=RECIPE,
        features={"dim": DIM, "shard_size": 512},
        evaluation={"lds": {"subsets": 64, "repeats": 2}, "removal": {"targets": 3, "repeats": 2}},
        execution={"memory_mb": 2048},
    )
    settings = load_settings(config)
    layout = Layout(Path("results") / settings.run)
    known = RESULTS / f"scoring-{given.task}.answers.parquet"
    command = ["snakemake", "--cores", str(given.cores), "--configfile", str(config)]
    subprocess.run([*command, "--", "data", str(layout.plan("subsets"))], check=True)
    if known.exists():
        print(f"{known}: {answers.put(layout, settings, TARGETS, known)} models known")
    subprocess.run([*command, "--", "all", "evaluation"], check=True)
    answers.keep(layout, settings, TARGETS, known)
    found = compare(config)
    path = RESULTS / f"scoring-{given.task}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def compare(config: Path) -> dict[str, Any]:
    """The LDS of every way to score, with intervals, and the difference to the default."""
    settings = load_settings(config)
    layout = Layout(Path("results") / settings.run)
    train, targets = PreparedRows.load(layout.train), PreparedRows.load(layout.targets(TARGETS))
    retrained = open_retrained(layout, settings, "subsets", train)
    first = retrained.plan.about["repeat"] == 0
    kept = retrained.plan.kept[first]
    margins = retrained.answers[TARGETS].margin.astype(np.float64)
    labels = train.column("label")
    classes = np.stack([kept[:, labels == label].sum(1) for label in range(train.outputs)], 1)
    truth = Truth(margins.reshape(-1, len(kept), len(targets)), classes.astype(np.float64))
    states = {
        name: State.read(layout, name, len(train)) for name in checkpoint_names(settings.checkpoints)
    }
    last = last_states(settings.checkpoints)
    ways = {name: kept @ scores for name, scores in ways_to_score(states, last)}
    ways["same label"] = truth.classes[:, targets.column("label")]
    ways["random"] = np.random.default_rng(0).normal(size=ways["same label"].shape)
    found: dict[str, Any] = {"rows": len(train), "targets": len(targets), "subsets": len(kept)}
    for kind, adjusted in (("lds", False), ("class_adjusted", True)):
        measured = measure(truth, ways, adjusted=adjusted, resamples=1000, seed=0)
        found[kind] = {
            "ceiling": asdict(measured.ceiling),
            "ways": {name: asdict(value) for name, value in measured.scores.items()},
            "less_the_default": {name: asdict(value) for name, value in measured.differences.items()},
        }
    return found


def table(found: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    plain, adjusted = found["lds"], found["class_adjusted"]
    lines = [
        "| scoring | LDS | class-adjusted LDS | less the default |",
        "| --- | --- | --- | --- |",
        f"| the ceiling | {_shown(plain['ceiling'])} | {_shown(adjusted['ceiling'])} | |",
    ]
    for name, value in plain["ways"].items():
        less = adjusted["less_the_default"][name]
        difference = "" if name == "default" else f"{less['low']:+.2f} to {less['high']:+.2f}"
        lines.append(f"| {name} | {_shown(value)} | {_shown(adjusted['ways'][name])} | {difference} |")
    return "\n".join(lines)


SHORT = ("default", "last states", "gradient cosine", "same label", "random")


def short_table(found: dict[str, Any]) -> str:
    """What the README shows of it."""
    plain, adjusted = found["lds"], found["class_adjusted"]
    reference = max(
        (name for name in plain["ways"] if name.startswith("reference rule")),
        key=lambda name: plain["ways"][name]["value"],
    )
    names = [SHORT[0], reference, *SHORT[1:]]
    lines = [
        "| on QNLI | LDS | class-adjusted LDS |",
        "| --- | --- | --- |",
        f"| the ceiling | {_shown(plain['ceiling'])} | {_shown(adjusted['ceiling'])} |",
    ]
    return "\n".join(
        lines + [f"| {m} | {_shown(plain['ways'][m])} | {_shown(adjusted['ways'][m])} |" for m in names]
    )


def _shown(value: dict[str, float]) -> str:
    return f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


class State:
    """One checkpoint's features, and what scores are made of."""

    def __init__(self, train: Tensor, targets: Tensor, weight: Tensor) -> None:
        self.train, self.targets, self.weight = train, targets, weight

    @classmethod
    def read(cls, layout: Layout, name: str, n: int) -> "State":
        """From a run's stores."""
        train = TrainFeatures(sorted(layout.train_features(name).glob("*.zarr")), n)
        store = FeatureStore.open(layout.target_features(name, TARGETS))
        return cls(
            torch.from_numpy(train.features(0, n)).double(),
            torch.from_numpy(store.features(0, store.stop)).double(),
            torch.from_numpy(train.column("loss_weight")).double(),
        )

    def scores(
        self,
        *,
        freedom: float | None = 0.2,
        ridge: float = 0.0,
        dim: int = DIM,
        centre: bool = False,
        unit: bool = False,
        of_loss: bool = False,
        weighted: bool = False,
    ) -> Tensor:
        """Scores of all train rows for all targets, [n, t].

        Args:
            freedom: share of the degrees of freedom; none for a ridge in mean diagonal entries.
            ridge: that.
            dim: k.
            centre: take the mean feature off.
            unit: features of unit length.
            of_loss: features of the loss, not the margin: the gradient times −Q.
            weighted: a kernel of Σ p(1 − p) φφᵀ, as logistic regression has it.
        """
        train, targets = fold(self.train, dim), fold(self.targets, dim)
        if centre:
            mean = train.mean(0)
            train, targets = train - mean, targets - mean
        if unit:
            train, targets = normalize(train), normalize(targets)
        if of_loss:
            train = train * self.weight[:, None]
        within = train * (self.weight * (1 - self.weight)).sqrt()[:, None] if weighted else train
        # There are fewer rows than dimensions: the same from their inner products, [n, n].
        gram = within @ within.T
        values, vectors = torch.linalg.eigh(gram)
        values = values.clamp(min=0)
        if freedom is None:
            added = ridge * gram.trace() / dim
        else:
            added = ridge_for(spectrum(gram), freedom) * values.mean()
        solved = vectors @ ((vectors.T @ (within @ targets.T)) / (values + added)[:, None])
        if not weighted:
            return solved
        return (train @ targets.T - train @ within.T @ solved) / added


def _balanced(parts: list[Tensor]) -> Tensor:
    return torch.stack([part / part.square().mean(0).sqrt() for part in parts]).mean(0)


def ways_to_score(states: dict[str, State], last: list[str]) -> Iterator[tuple[str, Array]]:
    """Names and scores [n, t]; the default first."""
    every = list(states)
    early = [name for name in every if name not in last]
    own = {name: state.scores() for name, state in states.items()}
    weight = torch.stack([states[name].weight for name in every]).mean(0)[:, None]
    at_the_end = torch.stack([states[name].weight for name in last]).mean(0)[:, None]

    def mean(names: list[str], parts: dict[str, Tensor] = own) -> Tensor:
        return torch.stack([parts[name] for name in names]).mean(0)

    yield "default", _balanced([own[name] for name in every]).numpy()
    yield "not balanced", mean(every).numpy()
    for names, word in ((last, "last states"), (early, "earlier states")):
        yield word, _balanced([own[name] for name in names]).numpy()
    for state in sorted({name.partition("-")[2] for name in early}):
        names = [name for name in early if name.endswith(f"-{state}")]
        yield f"states at {state}", _balanced([own[name] for name in names]).numpy()
    for runs in (1, 2, 3):
        some = [name for name in every if int(name.partition("-")[0]) < runs]
        yield f"{runs} runs, all states", _balanced([own[name] for name in some]).numpy()
        yield f"{runs} runs, last states", _balanced([own[name] for name in last[:runs]]).numpy()
    for power in (0.5, 1.0):
        yield (
            f"loss weight of all states to {power}",
            (_balanced(list(own.values())) * weight**power).numpy(),
        )
        of_end = _balanced(list(own.values())) * at_the_end**power
        yield f"loss weight of last states to {power}", of_end.numpy()
    changes: dict[str, dict[str, Any]] = {
        **{f"freedom {share}": {"freedom": share} for share in (0.05, 0.1, 0.4, 0.8)},
        **{
            f"ridge {r} of the mean diagonal": {"freedom": None, "ridge": r}
            for r in (0.1, 1.0, 10.0, 100.0)
        },
        **{f"k = {dim}": {"dim": dim} for dim in (256, 512, 1024, 2048)},
        "centred features": {"centre": True},
        "features of unit length": {"unit": True},
        "features of the loss": {"of_loss": True},
        "kernel weighted by p(1 − p)": {"weighted": True},
    }
    for name, change in changes.items():
        parts = [state.scores(**change) for state in states.values()]
        yield name, _balanced(parts).numpy()
        if name.startswith("ridge"):
            yield f"{name}, not balanced", torch.stack(parts).mean(0).numpy()
            ends = torch.stack([states[m].scores(**change) for m in last]).mean(0)
            yield f"{name}, last states, not balanced", ends.numpy()
    for dim in (256, 512):
        parts = []
        for name in last:
            train, targets = fold(states[name].train, dim), fold(states[name].targets, dim)
            inverse = torch.linalg.inv(train.T @ train)
            parts.append(train @ (inverse / inverse.abs().mean()) @ targets.T)
        yield f"reference rule, k = {dim}", (torch.stack(parts).mean(0) * at_the_end).numpy()
    dots = torch.stack([states[name].train @ states[name].targets.T for name in every]).mean(0)
    yield "gradient dot product", dots.numpy()
    cosines = [normalize(states[m].train) @ normalize(states[m].targets).T for m in every]
    yield "gradient cosine", torch.stack(cosines).mean(0).numpy()


if __name__ == "__main__":
    main()
